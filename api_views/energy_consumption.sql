with energy as (

    select * from {{ ref('energy') }}

)

select
    machine,
    hour_ts,
    energy_kwh,
    day
from energy
