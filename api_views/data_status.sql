with machine_summary as (

    select * from {{ ref('machine_summary') }}

),

refresh_runs as (

    -- a backfill of past days says nothing of how fresh the results are
    select *
    from {{ source('runs', 'refresh_runs') }}
    where kind is distinct from 'backfill' and outcome <> 'running'

),

refresh_cuts as (

    select * from {{ source('runs', 'refresh_cuts') }}

),

judge_runs as (

    -- How each run ended for each machine. A run without a row for a machine ended for it as a whole, unless it was
    -- asked for others only.
    select
        machine_summary.machine,
        refresh_runs.run_id,
        refresh_runs.finished_at,
        coalesce(refresh_cuts.outcome, refresh_runs.outcome) = 'succeeded' as is_ok
    from machine_summary
    cross join refresh_runs
    left join refresh_cuts
        on
            machine_summary.machine = refresh_cuts.machine
            and refresh_runs.run_id = refresh_cuts.run_id
    where refresh_cuts.machine is not null or refresh_runs.request is null

    union all

    select
        null as machine,
        run_id,
        finished_at,
        outcome = 'succeeded' as is_ok
    from refresh_runs
    where request is null

),

find_last_refreshes as (

    select
        machine,
        max(finished_at) filter (where is_ok) as refreshed_at,
        (array_agg(is_ok order by run_id desc))[1] as refresh_ok
    from judge_runs
    group by machine

),

judge_machines as (

    -- All is ok when the last run of all machines was, and so was the last one of each machine.
    select
        find_last_refreshes.machine,
        case
            when find_last_refreshes.machine is null then max(find_last_refreshes.refreshed_at) over ()
            else find_last_refreshes.refreshed_at
        end as refreshed_at,
        case
            when find_last_refreshes.machine is null then bool_and(find_last_refreshes.refresh_ok) over ()
            else find_last_refreshes.refresh_ok
        end as refresh_ok
    from find_last_refreshes

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
    judge_machines.refreshed_at,
    coalesce(judge_machines.refresh_ok, false) as refresh_ok,
    coalesce(sum_machines.skipped_lists, 0) as skipped_lists,
    sum_machines.machine
from sum_machines
left join judge_machines on sum_machines.machine is not distinct from judge_machines.machine
