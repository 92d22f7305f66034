-- The record of refreshes: one row a run, kept for ever. Run by `bootstrap.py init` as spindle_owner; safe to repeat.
create table if not exists agg.refresh_runs (
    run_id bigint generated always as identity primary key,
    kind text not null,
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    outcome text not null default 'running' check (outcome in ('running', 'succeeded', 'failed')),
    error text
);

-- The cut of each machine in a run: its newest log time, in milliseconds since 1970 UTC. No number of the run uses
-- a later row.
create table if not exists agg.refresh_cuts (
    run_id bigint not null references agg.refresh_runs,
    machine text not null,
    cut_ms bigint not null,
    primary key (run_id, machine)
);
