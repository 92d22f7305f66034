with activity as (

    select * from {{ ref('activity') }}

)

select
    machine,
    day as dt,
    state_running,
    state_planned_down,
    running_percentage,
    down_percentage
from activity
