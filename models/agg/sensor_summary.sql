{{ config(
    meta={'replaces': 'machine'},
    indexes=[{'columns': ['machine', 'sensor_name'], 'unique': true}],
) }}

with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

signal_config as (

    select * from {{ ref('signal_config') }} where role = 'temperature'

),

sensor_stats as (

    select * from {{ ref('sensor_stats') }}

),

find_days as (

    select
        machine,
        sensor_name,
        min(day) as first_day,
        max(day) as last_day
    from sensor_stats
    group by machine, sensor_name

)

select
    signal_config.machine,
    signal_config.variable as sensor_name,
    signal_config.label,
    find_days.first_day,
    find_days.last_day
from refresh_window
inner join signal_config on refresh_window.machine = signal_config.machine
left join find_days
    on
        signal_config.machine = find_days.machine
        and signal_config.variable = find_days.sensor_name
