-- What the gateway asks the database, through PostgREST but never for a client: which results are served now, and how
-- the runs went. Run by `bootstrap.py init` as spindle_owner; safe to repeat.
create schema if not exists gateway;

-- dbt says here when it begins and ends (dbt_project.yml), also when it is run by hand.
create table if not exists gateway.changes (
    only_row boolean primary key default true check (only_row),
    -- another database, or this one made anew, never has the same generation
    installation uuid not null default gen_random_uuid(),
    number bigint not null default 0,
    going_on boolean not null default false,
    ended_at timestamptz
);
insert into gateway.changes default values on conflict do nothing;

create or replace function gateway.begin_change()
returns void
language sql as $$
    update gateway.changes set number = number + 1, going_on = true
$$;

create or replace function gateway.end_change()
returns void
language sql as $$
    update gateway.changes set number = number + 1, going_on = false, ended_at = clock_timestamp()
$$;

-- The generation of the results: the same text means the same answers. While results are being computed, or a run was
-- killed, it is another one every second, so that no answer outlives what was committed since.
create or replace function gateway.generation()
returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
    generation text;
    going_on boolean;
    changed_at timestamptz;
    -- an answer may be believed so long when there is no other, but no longer than the token it was given to
    stale_seconds numeric := greatest(least(
        (nullif(current_setting('request.headers', true), '')::jsonb ->> 'serve-stale-seconds')::numeric,
        floor(
            (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'exp')::numeric
            - extract(epoch from clock_timestamp())
        )
    ), 0);
begin
    select
        left(md5(concat_ws(
            ' ', changes.installation, changes.number, last_run.run_id, last_run.outcome, last_run.finished_at
        )), 16),
        changes.going_on or last_run.outcome is not distinct from 'running',
        greatest(changes.ended_at, last_run.finished_at)
    into generation, going_on, changed_at
    from gateway.changes
    left join lateral (
        select run_id, outcome, finished_at from agg.refresh_runs order by run_id desc limit 1
    ) as last_run on true;
    if going_on then
        generation := generation || '-' || floor(extract(epoch from clock_timestamp()));
        changed_at := null;
    end if;
    perform set_config('response.headers', jsonb_build_array(
        jsonb_build_object('X-Generation', generation),
        jsonb_build_object('X-Stale-Seconds', stale_seconds::text),
        jsonb_build_object('X-Changed-At', coalesce(
            to_char(changed_at at time zone 'UTC', 'Dy, DD Mon YYYY HH24:MI:SS "GMT"'), ''
        ))
    )::text, true);
    return jsonb_build_object('generation', generation, 'changed_at', changed_at);
end
$$;

-- The runs as metrics need them; times are seconds since 1970. plpgsql, as the view need not be there yet.
create or replace function gateway.run_metrics()
returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
    machines jsonb;
    runs jsonb;
begin
    if to_regclass('api.data_status') is not null then
        select
            jsonb_agg(jsonb_build_object(
                'machine', status.machine,
                'data_until', extract(epoch from status.data_until),
                'refreshed_at', extract(epoch from status.refreshed_at),
                'succeeded', status.refresh_ok
            ) order by status.machine)
        into machines
        from api.data_status as status
        where status.machine is not null;
    end if;

    with count_runs as (
        select
            kind,
            outcome,
            count(*) as runs,
            extract(epoch from max(finished_at)) as last_finished_at,
            (array_agg(extract(epoch from finished_at - started_at) order by run_id desc))[1] as last_seconds
        from agg.refresh_runs
        where outcome <> 'running'
        group by kind, outcome
    )

    select jsonb_agg(to_jsonb(count_runs) order by kind, outcome)
    into runs
    from count_runs;

    return jsonb_build_object('machines', coalesce(machines, '[]'), 'runs', coalesce(runs, '[]'));
end
$$;

-- Where there is a login PostgREST asks this before every request. A token may name any role that authenticator may become,
-- and without one it stays authenticator, which may read nothing but the metrics: these have no token, and no client gets
-- there. PostgREST itself takes a token for half a minute after its end.
create or replace function gateway.require_reader()
returns void
language plpgsql stable as $$
declare
    ends numeric := nullif(current_setting('request.jwt.claims', true), '')::json ->> 'exp';
begin
    if current_user = 'authenticator' and current_setting('request.path', true) = '/rpc/run_metrics' then
        return;
    elsif current_user = 'authenticator' then
        perform gateway.refuse(401, 'a token is needed', 'Bearer');
    elsif current_user <> 'api_reader' then
        perform gateway.refuse(403, 'the token lacks the role api_reader', 'Bearer error="insufficient_scope"');
    elsif ends <= extract(epoch from clock_timestamp()) then
        perform gateway.refuse(401, 'the token has expired', 'Bearer error="invalid_token", error_description="expired"');
    end if;
end
$$;

create or replace function gateway.refuse(status int, message text, challenge text)
returns void
language plpgsql stable as $$
begin
    raise sqlstate 'PGRST' using
        message = json_build_object('code', 'GW' || status, 'message', message, 'hint', null, 'details', null),
        detail = json_build_object('status', status, 'headers', json_build_object('WWW-Authenticate', challenge));
end
$$;

-- Who may read the API may learn its generation, and nobody else: the gateway lets a request pass if this answers.
revoke execute on all functions in schema gateway from public;
grant usage on schema gateway to web_anon, authenticator;
grant execute on function gateway.generation() to web_anon;
grant execute on function gateway.require_reader(), gateway.refuse(int, text, text) to web_anon, authenticator;
grant execute on function gateway.run_metrics() to web_anon, authenticator;
