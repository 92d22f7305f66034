{{
    config(
        pre_hook = "{% if flags.FULL_REFRESH %}set local spindle.everything = 'on'{% endif %}",
    )
}}

{#
    A refresh computes from the last refresh's day on, up to a new cut, and any earlier time that was never computed. A
    backfill is given days and computes these, from rows up to the cut of the last refresh, and any later day on which a
    value that is carried out of them holds, so that no reader sees a day in between.
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
        {{ are_next_days_requested() }} as next_days_follow,
        {{ is_everything_requested() }} as is_everything

),

find_last_runs as (

    -- By the key, for runs are kept for ever.
    select
        machine_config.machine,
        last_refresh.cut_ms,
        coalesce(last_run.computed, '{}') as computed
    from machine_config
    left join lateral (
        select refresh_cuts.cut_ms
        from refresh_cuts
        where
            refresh_cuts.machine = machine_config.machine
            and refresh_cuts.outcome = 'succeeded'
            -- a backfill of days that are past is no refresh: the next one must not begin after it
            and refresh_cuts.end_ms = refresh_cuts.cut_ms
        order by refresh_cuts.run_id desc
        limit 1
    ) as last_refresh on true
    left join lateral (
        select refresh_cuts.computed
        from refresh_cuts
        where
            refresh_cuts.machine = machine_config.machine
            and refresh_cuts.outcome = 'succeeded'
            and refresh_cuts.computed is not null
        order by refresh_cuts.run_id desc
        limit 1
    ) as last_run on true

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
            else coalesce(last_runs.cut_ms, log_bounds.newest_ms)
        end as cut_ms,
        last_runs.cut_ms as last_cut_ms,
        last_runs.computed,
        request.from_day as requested_from_day,
        request.to_day as requested_to_day,
        request.next_days_follow,
        request.is_everything
    from machine_config
    cross join read_request as request
    inner join find_log_bounds as log_bounds on machine_config.machine = log_bounds.machine
    inner join find_last_runs as last_runs on machine_config.machine = last_runs.machine

),

find_next_rows as (

    -- For each carried value the first row after the wanted days that ends it; none means it holds to the cut. What was
    -- never logged carries no value. What was first logged after these days may have had rows in them that are gone:
    -- the last step of a backfill, and not each, goes on to its first row.
    select
        take_cuts.machine,
        max(coalesce(next_row.date, take_cuts.cut_ms)) as next_ms
    from take_cuts
    inner join carried_signals on take_cuts.machine = carried_signals.machine
    inner join log_ids
        on
            carried_signals.machine = log_ids.machine
            and carried_signals.id_var = log_ids.id_var
            and log_ids.log = {{ log_of_role('carried_signals.role') }}
            and (
                log_ids.oldest_ms < {{ day_start_ms('take_cuts.requested_to_day + 1', 'take_cuts.time_zone') }}
                or not take_cuts.next_days_follow
            )
    left join lateral raw.find_row(
        take_cuts.machine,
        log_ids.log,
        carried_signals.id_var,
        'after',
        {{ day_start_ms('take_cuts.requested_to_day + 1', 'take_cuts.time_zone') }} - 1,
        take_cuts.cut_ms,
        {{ holds_until_next('carried_signals.role') }}
    ) as next_row on true
    where take_cuts.requested_to_day is not null
    group by take_cuts.machine

),

find_gaps as (

    -- The first time of the log, up to the last cut, that no run has computed: rows older than all before have come, or
    -- only later days were backfilled so far. None: NULL.
    select
        machine,
        lower(
            int8multirange(int8range(begin_ms, greatest(begin_ms, last_cut_ms))) - computed
        ) as first_ms
    from take_cuts
    cross join lateral (
        values (greatest(oldest_ms, {{ day_start_ms('first_day', 'time_zone') }}))
    ) as log (begin_ms)

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
                else least(
                    {{ local_day('find_gaps.first_ms', 'take_cuts.time_zone') }},
                    {{ local_day('least(take_cuts.last_cut_ms, take_cuts.cut_ms)', 'take_cuts.time_zone') }}
                    - {{ var('lookback_days') }}
                )
            end
        ) as from_day,
        greatest(
            coalesce(take_cuts.requested_to_day, date '9999-12-31'),
            {{ local_day('find_next_rows.next_ms', 'take_cuts.time_zone') }}
        ) as to_day,
        case when take_cuts.is_everything then '{}' else take_cuts.computed end as computed_before
    from take_cuts
    inner join find_gaps on take_cuts.machine = find_gaps.machine
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
        oldest_ms,
        computed_before
    from choose_days
    -- days before the machine's first day are none
    where from_day <= to_day

),

end_times as (

    select
        *,
        least(cut_ms, next_day_ms - 1) as last_ms,
        least(cut_ms, next_day_ms) as end_ms,
        greatest(from_ms, oldest_ms) as begin_ms
    from bound_times

)

select
    machine,
    time_zone,
    from_day,
    to_day,
    from_ms,
    last_ms,
    end_ms,
    cut_ms,
    oldest_ms,
    -- as text, for it goes through the record of runs
    (computed_before + int8multirange(int8range(begin_ms, greatest(begin_ms, end_ms))))::text as computed
from end_times
