with state_intervals as (

    select * from {{ ref('state_intervals') }}

)

select
    machine,
    state,
    started_at,
    ended_at,
    duration_seconds
from state_intervals
