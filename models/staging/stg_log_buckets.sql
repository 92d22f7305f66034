{#
    Local days begin at whole quarters of an hour UTC, so a bucket that divides both a quarter of an hour and the
    longest gap that a session may have lies within one day and never hides a gap.
#}
{%- set bucket_ms = "gcd(900, " ~ var('downtime_gap_seconds') ~ ") * 1000" -%}

with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

read_buckets as (

    select
        refresh_window.machine,
        refresh_window.time_zone,
        bucket.first_ms,
        bucket.last_row_ms as last_ms
    from refresh_window
    cross join (values ('variable_log_float'), ('variable_log_string')) as logs (log)
    cross join lateral raw.read_buckets(
        refresh_window.machine, logs.log, refresh_window.from_ms, refresh_window.last_ms, {{ bucket_ms }}
    ) as bucket

)

select
    machine,
    time_zone,
    {{ local_day('first_ms', 'time_zone') }} as day,
    first_ms,
    last_ms
from read_buckets
