with machine_summary as (

    select * from {{ ref('machine_summary') }}

),

refresh_runs as (

    -- a backfill of past days says nothing of how fresh the results are
    select * from {{ source('runs', 'refresh_runs') }} where kind is distinct from 'backfill'

),

find_last_refresh as (

    select
        max(finished_at) filter (where outcome = 'succeeded') as refreshed_at,
        (array_agg(outcome = 'succeeded' order by run_id desc) filter (where outcome <> 'running'))[1] as refresh_ok
    from refresh_runs

),

sum_machines as (

    -- A row for each machine and one, with machine null, for all of them.
    select
        machine,
        min(first_day) as first_date,
        max(last_day) as last_date,
        sum(sensor_records)::bigint as sensor_records,
        sum(utilization_records)::bigint as utilization_records,
        sum(alert_records)::bigint as alert_records,
        sum(program_records)::bigint as program_records,
        sum(energy_records)::bigint as energy_records,
        max(data_until) as data_until,
        sum(skipped_lists)::bigint as skipped_lists
    from machine_summary
    group by grouping sets ((machine), ())

)

select
    sum_machines.first_date,
    sum_machines.last_date,
    coalesce(sum_machines.sensor_records, 0) as sensor_records,
    coalesce(sum_machines.utilization_records, 0) as utilization_records,
    coalesce(sum_machines.alert_records, 0) as alert_records,
    coalesce(sum_machines.program_records, 0) as program_records,
    coalesce(sum_machines.energy_records, 0) as energy_records,
    sum_machines.data_until,
    find_last_refresh.refreshed_at,
    coalesce(find_last_refresh.refresh_ok, false) as refresh_ok,
    coalesce(sum_machines.skipped_lists, 0) as skipped_lists,
    sum_machines.machine
from sum_machines
cross join find_last_refresh
