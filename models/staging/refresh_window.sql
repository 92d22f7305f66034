{{
    config(
        materialized = 'incremental',
        incremental_strategy = 'replace_all',
        on_schema_change = 'fail',
        full_refresh = false,
        contract = {'enforced': true},
    )
}}

{#
    A refresh computes from the last refresh's day on, up to a new cut. A backfill (vars from_day and to_day) computes
    the days it is told, from rows up to the cut of the last refresh, and any later day on which a value that is
    carried out of them still holds.
-#}
{%- set is_backfill = var('from_day') is not none -%}

-- depends_on: {{ ref('stg_signals') }}
with machine_config as (

    select * from {{ ref('machine_config') }}

),

log_bounds as (

    select * from {{ ref('stg_log_bounds') }}

),

refresh_runs as (

    select * from {{ source('runs', 'refresh_runs') }}

),

refresh_cuts as (

    select * from {{ source('runs', 'refresh_cuts') }}

),

{% if is_backfill -%}
carried_signals as (

    select * from {{ ref('stg_signals') }} where role <> 'temperature'

),

{% endif -%}
find_last_cuts as (

    select
        refresh_cuts.machine,
        (array_agg(refresh_cuts.cut_ms order by refresh_cuts.run_id desc))[1] as cut_ms,
        (array_agg(refresh_cuts.oldest_ms order by refresh_cuts.run_id desc))[1] as oldest_ms
    from refresh_cuts
    inner join refresh_runs on refresh_cuts.run_id = refresh_runs.run_id
    -- a backfill of days that are past is no refresh: the next one must not begin after it
    where refresh_runs.outcome = 'succeeded' and refresh_cuts.end_ms = refresh_cuts.cut_ms
    group by refresh_cuts.machine

),

take_cuts as (

    select
        machine_config.machine,
        machine_config.time_zone,
        coalesce(machine_config.first_day, date '1970-01-01') as first_day,
        log_bounds.oldest_ms,
        {% if is_backfill -%}
        coalesce(find_last_cuts.cut_ms, log_bounds.newest_ms) as cut_ms,
        {%- else -%}
        log_bounds.newest_ms as cut_ms,
        {%- endif %}
        find_last_cuts.cut_ms as last_cut_ms,
        find_last_cuts.oldest_ms as last_oldest_ms
    from machine_config
    inner join log_bounds on machine_config.machine = log_bounds.machine
    left join find_last_cuts on machine_config.machine = find_last_cuts.machine

),

{% if is_backfill -%}
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
        {{ day_start_ms("date '" ~ var('to_day') ~ "' + 1", 'take_cuts.time_zone') }} - 1,
        take_cuts.cut_ms,
        {{ holds_until_next('carried_signals.role') }}
    ) as next_row on true
    group by take_cuts.machine

),

{% endif -%}
choose_days as (

    {% if is_backfill -%}
    select
        take_cuts.machine,
        take_cuts.time_zone,
        take_cuts.oldest_ms,
        take_cuts.cut_ms,
        greatest(take_cuts.first_day, date '{{ var("from_day") }}') as from_day,
        greatest(
            date '{{ var("to_day") }}',
            {{ local_day('find_next_rows.next_ms', 'take_cuts.time_zone') }}
        ) as to_day
    from take_cuts
    left join find_next_rows on take_cuts.machine = find_next_rows.machine
    {%- else -%}
    select
        machine,
        time_zone,
        oldest_ms,
        cut_ms,
        case
            -- everything: nothing was computed yet, it was asked for, or rows older than all before have come
            when last_cut_ms is null or {{ flags.FULL_REFRESH }} then first_day
            when oldest_ms < last_oldest_ms
                then greatest(first_day, {{ local_day('oldest_ms', 'time_zone') }})
            else
                greatest(
                    first_day,
                    {{ local_day('least(last_cut_ms, cut_ms)', 'time_zone') }} - {{ var('lookback_days') }}
                )
        end as from_day,
        date '9999-12-31' as to_day
    from take_cuts
    {%- endif %}

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
