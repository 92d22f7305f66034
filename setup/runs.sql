-- The record of runs: one row each, failed ones too, kept for ever. Run by `bootstrap.py init` as spindle_owner; safe
-- to repeat. kind: refresh, backfill (a step of one; request says of which) or rebuild.
create table if not exists agg.refresh_runs (
    run_id bigint generated always as identity primary key,
    kind text not null,
    request text,
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    outcome text not null default 'running' check (outcome in ('running', 'succeeded', 'failed')),
    error text,
    -- rows written and seconds of each model: {"sensor_stats": {"rows": 304, "seconds": 0.4}, …}
    models jsonb not null default '{}'
);

-- The window of each machine in a run: local days, where open spans end, the log's oldest time and the cut, its
-- newest time when the run began, in milliseconds since 1970 UTC. No number of the run uses a row after the cut.
create table if not exists agg.refresh_cuts (
    run_id bigint not null references agg.refresh_runs,
    machine text not null,
    from_day date not null,
    to_day date not null,
    end_ms bigint not null,
    oldest_ms bigint not null,
    cut_ms bigint not null,
    primary key (run_id, machine)
);
