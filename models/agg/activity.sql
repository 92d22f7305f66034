{{ config(indexes=[{'columns': ['machine', 'day'], 'unique': true}]) }}

with log_buckets as (

    select * from {{ ref('stg_log_buckets') }}

),

cut_to_seconds as (

    select
        machine,
        time_zone,
        day,
        first_ms / 1000 as first_s,
        last_ms / 1000 as last_s
    from log_buckets

),

find_latest_before as (

    -- Buckets of the two logs overlap, so the row before a bucket's first is the latest of all buckets before it.
    select
        *,
        max(last_s) over (
            partition by machine, day
            order by first_s, last_s
            rows between unbounded preceding and 1 preceding
        ) as latest_before_s
    from cut_to_seconds

),

sum_sessions as (

    select
        machine,
        time_zone,
        day,
        max(last_s) - min(first_s)
        - coalesce(
            sum(first_s - latest_before_s) filter (
                where first_s - latest_before_s > {{ var('downtime_gap_seconds') }}
            ),
            0
        ) as running_seconds
    from find_latest_before
    group by machine, time_zone, day

),

measure_days as (

    select
        machine,
        day,
        running_seconds / 3600.0 as running_hours,
        ({{ day_start_ms('day + 1', 'time_zone') }} - {{ day_start_ms('day', 'time_zone') }})
        / {{ hour_ms() }}.0 as day_hours
    from sum_sessions

),

round_hours as (

    select
        machine,
        day,
        day_hours,
        round(running_hours, 2) as state_running,
        round(day_hours - running_hours, 2) as state_planned_down
    from measure_days

)

select
    machine,
    day,
    state_running::double precision as state_running,
    state_planned_down::double precision as state_planned_down,
    round(100 * state_running / day_hours, 2)::double precision as running_percentage,
    round(100 * state_planned_down / day_hours, 2)::double precision as down_percentage
from round_hours
