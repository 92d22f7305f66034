{{ config(indexes=[
    {'columns': ['machine', 'sensor_name', 'hour_started_at'], 'unique': true},
    {'columns': ['machine', 'day']},
]) }}

with reading_sums as (

    select * from {{ ref('stg_reading_sums') }}

),

find_hours as (

    select
        *,
        {{ hour_start_ms('first_ms', 'time_zone') }} as hour_start_ms,
        {{ as_logged('min_value') }} / divisor as first_limit,
        {{ as_logged('max_value') }} / divisor as second_limit
    from reading_sums

),

sum_hours as (

    -- a negative divisor makes the smallest logged value the largest reading
    select
        machine,
        sensor_name,
        divisor,
        time_zone,
        hour_start_ms,
        min(least(first_limit, second_limit)) as min_value,
        max(greatest(first_limit, second_limit)) as max_value,
        sum(readings_count)::bigint as readings_count,
        sum(sum_value) as sum_value,
        sum(sum_squares) as sum_squares
    from find_hours
    group by machine, sensor_name, divisor, time_zone, hour_start_ms

)

select
    machine,
    sensor_name,
    {{ local_day('hour_start_ms', 'time_zone') }} as day,
    {{ local_time('hour_start_ms', 'time_zone') }} as dt,
    {{ moment('hour_start_ms') }} as hour_started_at,
    min_value::double precision as min_value,
    round(sum_value / (readings_count * divisor), 2)::double precision as avg_value,
    max_value::double precision as max_value,
    round(
        {{ sample_std_dev('readings_count', 'sum_value', 'sum_squares') }} / abs(divisor), 2
    )::double precision as std_dev,
    readings_count
from sum_hours
