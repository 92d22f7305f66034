with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

log_buckets as (

    select * from {{ ref('base_log_buckets') }}

)

select
    refresh_window.machine,
    refresh_window.time_zone,
    {{ local_day('log_buckets.first_ms', 'refresh_window.time_zone') }} as day,
    log_buckets.first_ms,
    log_buckets.last_ms
from refresh_window
inner join log_buckets on refresh_window.machine = log_buckets.machine
