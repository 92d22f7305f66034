-- Roles and schemas of the results database. Run by `bootstrap.py init` as AGG_DB_USER; safe to repeat.
--   spindle_owner  owns everything Spindle makes; dbt works as it; no login
--   authenticator  PostgREST's login; has no rights but to become web_anon or api_reader
--   web_anon       reads the schema api, also by the functions of legacy, and nothing else
--   api_reader     reads what web_anon reads; the role of tokens, where a login is needed
do $$
declare
    wanted record;
begin
    for wanted in
        select *
        from (
            values
            ('spindle_owner', 'nologin'),
            ('web_anon', 'nologin'),
            ('api_reader', 'nologin'),
            ('authenticator', 'login noinherit')
        ) as role (name, options)
        where name not in (select rolname from pg_roles)
    loop
        execute format('create role %I %s', wanted.name, wanted.options);
    end loop;
    if not pg_has_role('authenticator', 'web_anon', 'set') then
        grant web_anon to authenticator;
    end if;
    if not pg_has_role('api_reader', 'web_anon', 'usage') then
        grant web_anon to api_reader with inherit true, set false;
    end if;
    if not pg_has_role('authenticator', 'api_reader', 'set') then
        grant api_reader to authenticator;
    end if;
    if not pg_has_role(current_user, 'spindle_owner', 'set') then
        grant spindle_owner to current_user;
    end if;
    execute format('grant create on database %I to spindle_owner', current_database());
end
$$;

-- A reader of the API gets ten seconds, no writes and times in UTC. A long filter must not be compiled as well.
alter role web_anon set statement_timeout = '10s';
alter role web_anon set default_transaction_read_only = on;
alter role web_anon set timezone = 'UTC';
alter role web_anon set jit = off;
-- Settings are not inherited.
alter role api_reader set statement_timeout = '10s';
alter role api_reader set default_transaction_read_only = on;
alter role api_reader set timezone = 'UTC';
alter role api_reader set jit = off;
-- A role without a setting of its own gets the login's.
alter role authenticator set default_transaction_read_only = on;
alter role authenticator set idle_in_transaction_session_timeout = '60s';

create schema if not exists raw authorization spindle_owner;
create schema if not exists staging authorization spindle_owner;
create schema if not exists agg authorization spindle_owner;
create schema if not exists api authorization spindle_owner;

grant usage on schema api to web_anon;

-- Temporary tables are dbt's and no reader's business. A database that is the plant's too is left as it is.
do $$
begin
    if to_regclass('public.variable_log_float') is null then
        execute format('grant temporary on database %I to spindle_owner', current_database());
        execute format('revoke temporary on database %I from public', current_database());
    end if;
end
$$;
