with sources as (

    select * from {{ source('raw', 'sources') }}

)

select
    sources.machine,
    logs.log,
    logged.id_var,
    logged.oldest_ms,
    logged.newest_ms
from sources
cross join (values ('variable_log_float'), ('variable_log_string')) as logs (log)
cross join lateral raw.read_log_ids(sources.machine, logs.log) as logged
