with alerts_per_day as (

    select * from {{ ref('alerts_per_day') }}

)

select
    machine,
    day,
    alert_type,
    amount,
    entries_logged
from alerts_per_day
