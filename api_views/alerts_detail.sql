with alerts as (

    select * from {{ ref('alerts') }}

)

select
    machine,
    id,
    dt,
    cleared_at,
    day,
    alert_type,
    alarm_code,
    alarm_description,
    duration_seconds
from alerts
