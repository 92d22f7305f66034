-- The logins of spindle_owner to the machines' servers, from the rows of pg_temp.logins (server, name, value). Run by
-- `bootstrap.py init` as AGG_DB_USER. The passwords come as rows and stay inside this block, so no statement that a
-- server may log or show has one.
do $$
declare
    login record;
begin
    for login in
        select
            server,
            string_agg(format('%I %L', name, value), ', ') as options
        from pg_temp.logins
        group by server
    loop
        begin
            execute format('create user mapping for spindle_owner server %I options (%s)', login.server, login.options);
        exception
            -- the message alone: its context would quote the statement
            when others then
                raise exception 'the login of % cannot be made: %', login.server, sqlerrm using errcode = sqlstate;
        end;
    end loop;
end
$$;
