with sensor_summary as (

    select * from {{ ref('sensor_summary') }}

)

select
    machine,
    sensor_name,
    label,
    first_day,
    last_day
from sensor_summary
