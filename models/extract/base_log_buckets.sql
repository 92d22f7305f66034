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

slice_windows as (

    -- A production server counts a month at a time, so that no statement takes as long as all history would.
    select
        refresh_window.machine,
        slice.from_ms,
        least(slice.from_ms + {{ month_ms() }} - 1, refresh_window.last_ms) as last_ms
    from refresh_window
    cross join lateral generate_series(
        greatest(refresh_window.from_ms, refresh_window.oldest_ms), refresh_window.last_ms, {{ month_ms() }}
    ) as slice (from_ms)

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
    slice_windows.machine,
    bucket.first_ms,
    bucket.last_row_ms as last_ms
from slice_windows
inner join list_ids on slice_windows.machine = list_ids.machine
cross join lateral raw.read_buckets(
    slice_windows.machine, list_ids.log, list_ids.ids, slice_windows.from_ms, slice_windows.last_ms, {{ bucket_ms }}
) as bucket
