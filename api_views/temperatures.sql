with sensor_stats as (

    select * from {{ ref('sensor_stats') }}

)

select
    machine,
    dt,
    min_value,
    avg_value,
    max_value,
    std_dev,
    readings_count,
    sensor_name,
    day
from sensor_stats
