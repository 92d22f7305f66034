{{ config(indexes=[
    {'columns': ['machine', 'sensor_name', 'hour_started_at'], 'unique': true},
    {'columns': ['machine', 'day']},
]) }}

with readings as (

    select * from {{ ref('stg_numbers') }} where role = 'temperature'

),

keep_valid as (

    select
        machine,
        variable as sensor_name,
        time_zone,
        divisor,
        {{ hour_start_ms('logged_ms', 'time_zone') }} as hour_start_ms,
        {{ as_logged('value') }} as value
    from readings
    where {{ is_finite('value') }} and value <> 0

),

summarize_hours as (

    select
        machine,
        sensor_name,
        time_zone,
        hour_start_ms,
        min(value / divisor) as min_value,
        round(avg(value) / divisor, 2) as avg_value,
        max(value / divisor) as max_value,
        round(stddev_samp(value) / abs(divisor), 2) as std_dev,
        count(*) as readings_count
    from keep_valid
    group by machine, sensor_name, time_zone, divisor, hour_start_ms

)

select
    machine,
    sensor_name,
    {{ local_day('hour_start_ms', 'time_zone') }} as day,
    {{ local_time('hour_start_ms', 'time_zone') }} as dt,
    {{ moment('hour_start_ms') }} as hour_started_at,
    min_value::double precision as min_value,
    avg_value::double precision as avg_value,
    max_value::double precision as max_value,
    std_dev::double precision as std_dev,
    readings_count
from summarize_hours
