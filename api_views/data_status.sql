with machine_summary as (

    select * from {{ ref('machine_summary') }}

),

refresh_runs as (

    select * from {{ source('runs', 'refresh_runs') }} where outcome <> 'running'

),

refresh_cuts as (

    select * from {{ source('runs', 'refresh_cuts') }}

),

judge_runs as (

    -- How each run ended for each machine. A refresh or rebuild that failed as a whole failed for all. A backfill of
    -- past days says nothing of how fresh results are; one up to the cut does, while there was no refresh.
    select
        machine_summary.machine,
        refresh_runs.run_id,
        refresh_runs.finished_at,
        coalesce(refresh_runs.kind <> 'backfill', true) as is_refresh,
        coalesce(refresh_cuts.outcome, refresh_runs.outcome) = 'succeeded' as is_ok
    from machine_summary
    cross join refresh_runs
    left join refresh_cuts
        on
            machine_summary.machine = refresh_cuts.machine
            and refresh_runs.run_id = refresh_cuts.run_id
    where
        case
            when refresh_runs.kind = 'backfill' then refresh_cuts.end_ms = refresh_cuts.cut_ms
            else refresh_cuts.machine is not null or (refresh_runs.request is null and refresh_runs.outcome = 'failed')
        end

    union all

    -- of all machines
    select
        null as machine,
        run_id,
        finished_at,
        true as is_refresh,
        outcome = 'succeeded' as is_ok
    from refresh_runs
    where kind is distinct from 'backfill' and request is null

),

look_for_refreshes as (

    select
        *,
        bool_or(is_refresh) over (partition by machine) as has_refresh
    from judge_runs

),

find_last_runs as (

    select
        machine,
        max(finished_at) filter (where is_ok) as refreshed_at,
        (array_agg(is_ok order by run_id desc))[1] as refresh_ok
    from look_for_refreshes
    where is_refresh or not has_refresh
    group by machine

),

judge_machines as (

    -- all is ok when the last run of all machines was, and so was the last one of each machine
    select
        null as machine,
        max(refreshed_at) as refreshed_at,
        bool_and(refresh_ok) as refresh_ok
    from find_last_runs

    union all

    select
        machine,
        refreshed_at,
        refresh_ok
    from find_last_runs
    where machine is not null

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
