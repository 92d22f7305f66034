{{
    config(
        materialized = 'incremental',
        incremental_strategy = 'replace_all',
        on_schema_change = 'fail',
        full_refresh = false,
        contract = {'enforced': true},
    )
}}

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

find_last_cuts as (

    select
        refresh_cuts.machine,
        (array_agg(refresh_cuts.cut_ms order by refresh_cuts.run_id desc))[1] as cut_ms
    from refresh_cuts
    inner join refresh_runs on refresh_cuts.run_id = refresh_runs.run_id
    where refresh_runs.outcome = 'succeeded'
    group by refresh_cuts.machine

),

take_cuts as (

    select
        machine_config.machine,
        machine_config.time_zone,
        coalesce(machine_config.first_day, date '1970-01-01') as first_day,
        log_bounds.newest_ms as cut_ms,
        case
            when find_last_cuts.cut_ms is not null and not {{ flags.FULL_REFRESH }}
                then least(find_last_cuts.cut_ms, log_bounds.newest_ms)
        end as computed_until_ms
    from machine_config
    inner join log_bounds on machine_config.machine = log_bounds.machine
    left join find_last_cuts on machine_config.machine = find_last_cuts.machine
    {%- if var('machines') %}
    where machine_config.machine in ('{{ var("machines") | join("', '") }}')
    {%- endif %}

),

choose_days as (

    select
        machine,
        time_zone,
        cut_ms,
        -- greatest() passes over a NULL: nothing was computed yet, so it begins at the first day
        greatest(
            first_day,
            {{ local_day('computed_until_ms', 'time_zone') }} - {{ var('lookback_days') }}
        ) as from_day
    from take_cuts

)

select
    machine,
    time_zone,
    from_day,
    date '9999-12-31' as to_day,
    {{ day_start_ms('from_day', 'time_zone') }} as from_ms,
    cut_ms
from choose_days
