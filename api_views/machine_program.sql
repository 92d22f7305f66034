with program_time as (

    select * from {{ ref('program_time') }}

)

select
    machine,
    day as dt,
    program,
    duration_seconds
from program_time
