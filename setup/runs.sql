-- The record of runs, kept for ever. Run by `bootstrap.py init` as spindle_owner; safe to repeat.

-- One row a run, failed ones too. kind: refresh, backfill (a step of one; request says of which) or rebuild.
-- outcome partial: some machines failed, see refresh_cuts.
create table if not exists agg.refresh_runs (
    run_id bigint generated always as identity primary key,
    kind text not null,
    request text,
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    outcome text not null default 'running',
    error text,
    -- rows read and written and seconds of each model: {"energy": {"rows_read": 6120, "rows": 304, "seconds": 0.4}, …}
    models jsonb not null default '{}'
);
alter table agg.refresh_runs drop constraint if exists refresh_runs_outcome_check;
alter table agg.refresh_runs add constraint refresh_runs_outcome_check
check (outcome in ('running', 'succeeded', 'partial', 'failed'));

-- One row a machine and run. The window: local days, where open spans end, the log's oldest time and the cut, its
-- newest time when the run began, in milliseconds since 1970 UTC; no number of the run uses a row after the cut. All
-- of them are null for a machine that failed before they were known, or that has no log rows.
create table if not exists agg.refresh_cuts (
    run_id bigint not null references agg.refresh_runs,
    machine text not null,
    from_day date,
    to_day date,
    end_ms bigint,
    oldest_ms bigint,
    cut_ms bigint,
    primary key (run_id, machine)
);
-- the last run of a machine is looked up at every request of /data_status
create index if not exists refresh_cuts_of_machine on agg.refresh_cuts (machine, run_id desc);
-- all times of the log, milliseconds, whose results are computed when the run succeeds
alter table agg.refresh_cuts add column if not exists computed int8multirange;
alter table agg.refresh_cuts alter column from_day drop not null;
alter table agg.refresh_cuts alter column to_day drop not null;
alter table agg.refresh_cuts alter column end_ms drop not null;
alter table agg.refresh_cuts alter column oldest_ms drop not null;
alter table agg.refresh_cuts alter column cut_ms drop not null;
alter table agg.refresh_cuts add column if not exists outcome text not null default 'succeeded'
check (outcome in ('succeeded', 'failed'));
-- what is wrong: why it failed, or which configured variables its dictionary lacks
alter table agg.refresh_cuts add column if not exists problem text;
-- seconds of the extraction, and rows that came from production for each extracted model: {"base_numbers": 6120, …}
alter table agg.refresh_cuts add column if not exists extract_seconds double precision;
alter table agg.refresh_cuts add column if not exists rows_extracted jsonb not null default '{}';
