with machine_summary as (

    select * from {{ ref('machine_summary') }}

)

select
    machine,
    label,
    time_zone,
    first_day,
    last_day
from machine_summary
