with sources as (

    select * from {{ source('raw', 'sources') }}

)

select
    sources.machine,
    log_bounds.oldest_ms,
    log_bounds.newest_ms
from sources
cross join lateral raw.log_bounds(sources.machine) as log_bounds
