{#
    Local days begin at whole quarters of an hour UTC, so a bucket that divides both a quarter of an hour and the
    longest gap that a session may have lies within one day and never hides a gap.
#}
{%- set bucket_ms = "gcd(" ~ quarter_ms() ~ ", " ~ var('downtime_gap_seconds') ~ " * 1000)" -%}

with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

log_ids as (

    select * from {{ ref('base_log_ids') }}

),

list_ids as (

    select
        machine,
        log,
        array_agg(id_var) as ids
    from log_ids
    group by machine, log

)

select
    refresh_window.machine,
    bucket.first_ms,
    bucket.last_row_ms as last_ms
from refresh_window
inner join list_ids on refresh_window.machine = list_ids.machine
cross join lateral raw.read_buckets(
    refresh_window.machine, list_ids.log, list_ids.ids, refresh_window.from_ms, refresh_window.last_ms, {{ bucket_ms }}
) as bucket
