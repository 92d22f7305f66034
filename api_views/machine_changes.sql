with state_changes as (

    select * from {{ ref('state_changes') }}

)

select
    machine,
    ts,
    value,
    state
from state_changes
