with machine_config as (

    select * from {{ ref('machine_config') }}

),

machine_summary as (

    select * from {{ ref('machine_summary') }}

),

refresh_runs as (

    select * from {{ source('runs', 'refresh_runs') }} where outcome <> 'running'

),

refresh_cuts as (

    select * from {{ source('runs', 'refresh_cuts') }}

),

list_machines as (

    select machine from machine_summary

    union

    -- a machine that never succeeded has no results, but is one of those that must
    select machine from machine_config

),

find_last_failure as (

    -- a run that failed before it came to a machine failed for all
    select max(run_id) as run_id
    from refresh_runs
    where outcome = 'failed' and kind <> 'backfill' and request is null

),

find_last_runs as (

    -- By the key, for runs are kept for ever. A backfill of past days says nothing of how fresh results are; one up to
    -- the cut does, while there was no refresh.
    select
        list_machines.machine,
        coalesce(last_refresh.run_id, last_backfill.run_id) as run_id,
        coalesce(last_refresh.is_ok, last_backfill.run_id is not null) as is_ok,
        coalesce(last_good.finished_at, last_backfill.finished_at) as finished_at
    from list_machines
    left join lateral (
        select
            refresh_cuts.run_id,
            refresh_cuts.outcome = 'succeeded' as is_ok
        from refresh_cuts
        inner join refresh_runs on refresh_cuts.run_id = refresh_runs.run_id
        where refresh_cuts.machine = list_machines.machine and refresh_runs.kind <> 'backfill'
        order by refresh_cuts.run_id desc
        limit 1
    ) as last_refresh on true
    left join lateral (
        select refresh_runs.finished_at
        from refresh_cuts
        inner join refresh_runs on refresh_cuts.run_id = refresh_runs.run_id
        where
            refresh_cuts.machine = list_machines.machine
            and refresh_cuts.outcome = 'succeeded'
            and refresh_runs.kind <> 'backfill'
        order by refresh_cuts.run_id desc
        limit 1
    ) as last_good on true
    left join lateral (
        select
            refresh_runs.run_id,
            refresh_runs.finished_at
        from refresh_cuts
        inner join refresh_runs on refresh_cuts.run_id = refresh_runs.run_id
        where
            last_refresh.run_id is null
            and refresh_cuts.machine = list_machines.machine
            and refresh_cuts.outcome = 'succeeded'
            and refresh_cuts.end_ms = refresh_cuts.cut_ms
        order by refresh_cuts.run_id desc
        limit 1
    ) as last_backfill on true

),

judge_machines as (

    select
        find_last_runs.machine,
        find_last_runs.finished_at as refreshed_at,
        find_last_runs.is_ok and find_last_runs.run_id > coalesce(find_last_failure.run_id, 0) as refresh_ok
    from find_last_runs
    cross join find_last_failure
    -- a machine of the seed that no run has come to has no source
    where find_last_runs.run_id is not null

),

judge_all as (

    -- all is ok when every machine is that is still in the seed
    select
        null as machine,
        max(judge_machines.refreshed_at) as refreshed_at,
        bool_and(judge_machines.refresh_ok) as refresh_ok
    from judge_machines
    inner join machine_config on judge_machines.machine = machine_config.machine

    union all

    select
        machine,
        refreshed_at,
        refresh_ok
    from judge_machines

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
    judge_all.refreshed_at,
    coalesce(judge_all.refresh_ok, false) as refresh_ok,
    coalesce(sum_machines.skipped_lists, 0) as skipped_lists,
    sum_machines.machine
from sum_machines
left join judge_all on sum_machines.machine is not distinct from judge_all.machine
