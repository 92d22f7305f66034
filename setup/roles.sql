-- Roles and schemas of the results database. Run by `bootstrap.py init` as AGG_DB_USER; safe to repeat.
--   spindle_owner  owns everything Spindle makes; dbt works as it; no login
--   authenticator  PostgREST's login; has no rights but to become web_anon
--   web_anon       reads the schema api, also by the functions of legacy, and nothing else
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
            ('authenticator', 'login noinherit')
        ) as role (name, options)
        where name not in (select rolname from pg_roles)
    loop
        execute format('create role %I %s', wanted.name, wanted.options);
    end loop;
    if not pg_has_role('authenticator', 'web_anon', 'member') then
        grant web_anon to authenticator;
    end if;
    if not pg_has_role(current_user, 'spindle_owner', 'set') then
        grant spindle_owner to current_user;
    end if;
    execute format('grant create on database %I to spindle_owner', current_database());
end
$$;

-- A reader of the API gets ten seconds, no writes and times in UTC.
alter role web_anon set statement_timeout = '10s';
alter role web_anon set default_transaction_read_only = on;
alter role web_anon set timezone = 'UTC';

create schema if not exists raw authorization spindle_owner;
create schema if not exists staging authorization spindle_owner;
create schema if not exists agg authorization spindle_owner;
create schema if not exists api authorization spindle_owner;

grant usage on schema api to web_anon;
