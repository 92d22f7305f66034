{{
    config(
        pre_hook = "{% if flags.FULL_REFRESH %}set local spindle.everything = 'on'{% endif %}",
    )
}}

{#
    A refresh computes from the last refresh's day on, up to a new cut. A backfill is given days and computes these,
    from rows up to the cut of the last refresh, and any later day on which a value that is carried out of them holds.
-#}
with machine_config as (

    select * from {{ ref('machine_config') }}

),

log_ids as (

    select * from {{ ref('base_log_ids') }}

),

carried_signals as (

    select * from {{ ref('base_signals') }} where role <> 'temperature'

),

refresh_cuts as (

    select * from {{ source('runs', 'refresh_cuts') }}

),

read_request as (

    select
        {{ requested_from_day() }} as from_day,
        {{ requested_to_day() }} as to_day,
        {{ is_everything_requested() }} as is_everything

),

find_last_cuts as (

    select
        machine,
        (array_agg(cut_ms order by run_id desc))[1] as cut_ms,
        (array_agg(oldest_ms order by run_id desc))[1] as oldest_ms
    from refresh_cuts
    -- a backfill of days that are past is no refresh: the next one must not begin after it
    where outcome = 'succeeded' and end_ms = cut_ms
    group by machine

),

find_log_bounds as (

    select
        machine,
        min(oldest_ms) as oldest_ms,
        max(newest_ms) as newest_ms
    from log_ids
    group by machine

),

take_cuts as (

    select
        machine_config.machine,
        machine_config.time_zone,
        coalesce(machine_config.first_day, date '1970-01-01') as first_day,
        log_bounds.oldest_ms,
        case
            when request.to_day is null then log_bounds.newest_ms
            else coalesce(last_cuts.cut_ms, log_bounds.newest_ms)
        end as cut_ms,
        last_cuts.cut_ms as last_cut_ms,
        last_cuts.oldest_ms as last_oldest_ms,
        request.from_day as requested_from_day,
        request.to_day as requested_to_day,
        request.is_everything
    from machine_config
    cross join read_request as request
    inner join find_log_bounds as log_bounds on machine_config.machine = log_bounds.machine
    left join find_last_cuts as last_cuts on machine_config.machine = last_cuts.machine

),

find_next_rows as (

    -- For each carried value the first row after the wanted days that ends it; none means it holds to the cut.
    select
        take_cuts.machine,
        max(coalesce(next_row.date, take_cuts.cut_ms)) as next_ms
    from take_cuts
    inner join carried_signals on take_cuts.machine = carried_signals.machine
    left join lateral raw.find_row(
        take_cuts.machine,
        case carried_signals.role when 'alarms' then 'variable_log_string' else 'variable_log_float' end,
        carried_signals.id_var,
        'after',
        {{ day_start_ms('take_cuts.requested_to_day + 1', 'take_cuts.time_zone') }} - 1,
        take_cuts.cut_ms,
        {{ holds_until_next('carried_signals.role') }}
    ) as next_row on true
    where take_cuts.requested_to_day is not null
    group by take_cuts.machine

),

choose_days as (

    select
        take_cuts.machine,
        take_cuts.time_zone,
        take_cuts.oldest_ms,
        take_cuts.cut_ms,
        greatest(
            take_cuts.first_day,
            case
                when take_cuts.requested_from_day is not null then take_cuts.requested_from_day
                -- everything: nothing was computed yet, or it was asked for
                when take_cuts.last_cut_ms is null or take_cuts.is_everything then take_cuts.first_day
                -- rows older than all before have come
                when take_cuts.oldest_ms < take_cuts.last_oldest_ms
                    then {{ local_day('take_cuts.oldest_ms', 'take_cuts.time_zone') }}
                else
                    {{ local_day('least(take_cuts.last_cut_ms, take_cuts.cut_ms)', 'take_cuts.time_zone') }}
                    - {{ var('lookback_days') }}
            end
        ) as from_day,
        greatest(
            coalesce(take_cuts.requested_to_day, date '9999-12-31'),
            {{ local_day('find_next_rows.next_ms', 'take_cuts.time_zone') }}
        ) as to_day
    from take_cuts
    left join find_next_rows on take_cuts.machine = find_next_rows.machine

),

bound_times as (

    select
        machine,
        time_zone,
        from_day,
        to_day,
        {{ day_start_ms('from_day', 'time_zone') }} as from_ms,
        {{ day_start_ms('to_day + 1', 'time_zone') }} as next_day_ms,
        cut_ms,
        oldest_ms
    from choose_days

)

select
    machine,
    time_zone,
    from_day,
    to_day,
    from_ms,
    least(cut_ms, next_day_ms - 1) as last_ms,
    least(cut_ms, next_day_ms) as end_ms,
    cut_ms,
    oldest_ms
from bound_times
