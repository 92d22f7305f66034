with sources as (

    select * from {{ source('raw', 'sources') }}
    {%- if var('machines') %}
    where machine in ('{{ var("machines") | join("', '") }}')
    {%- endif %}

)

select
    sources.machine,
    log_bounds.oldest_ms,
    log_bounds.newest_ms
from sources
cross join lateral raw.log_bounds(sources.machine) as log_bounds
