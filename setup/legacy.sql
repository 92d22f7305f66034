-- The dialect of the backend that Spindle replaces: a function for each of its paths. Run by `bootstrap.py init` as
-- spindle_owner; safe to repeat. docs/old-dialect.md says what they answer.
--
-- The gateway decides which requests come here, and hands over the query as the client wrote it, in a header: only so
-- a parameter that is unknown, repeated or malformed can be told from a right one, and named.
-- Bodies are plpgsql or text: they name views of `api` that need not exist yet, and that a rebuild replaces.
create schema if not exists legacy;
grant usage on schema legacy to web_anon;

-- An answer that is an error: 400 for parameters of another dialect or of none, 422 for one that is missing, repeated or
-- malformed, 404 for no data, and for no such machine or sensor. PostgREST writes the message of the shorter sqlstate
-- PT422 into the status line as it is, line breaks of the client's included; this one is JSON all the way.
create or replace function legacy.refuse(status int, message text, hint text, details text default null)
returns void
language plpgsql stable as $$
begin
    raise sqlstate 'PGRST' using
        message = json_build_object('code', 'OD' || status, 'message', message, 'hint', hint, 'details', details),
        detail = json_build_object('status', status, 'headers', json_build_object());
end
$$;

create or replace function legacy.request_header(header text)
returns text
language sql stable as $$
    select coalesce(nullif(current_setting('request.headers', true), '')::json ->> header, '')
$$;

-- A name or value of a query as text. A + is a blank. Raises character_not_in_repertoire for what is no UTF-8.
create or replace function legacy.decode_part(encoded text)
returns text
language sql stable as $$
    with split_escapes as (
        select
            piece[1] as piece,
            place
        from
            regexp_matches(replace(encoded, '+', ' '), '%[0-9A-Fa-f]{2}|[^%]+|%', 'g')
            with ordinality as pieces (piece, place)
    ),

    decode_pieces as (
        select
            place,
            case
                when piece ~ '^%.' then decode(substr(piece, 2), 'hex')
                else convert_to(piece, 'UTF8')
            end as bytes
        from split_escapes
    )

    select coalesce(convert_from(string_agg(bytes, ''::bytea order by place), 'UTF8'), '')
    from decode_pieces
$$;

-- The parameters of the request in its order. Those of PostgREST's dialect have an operator, or are words of its own.
create or replace function legacy.read_query()
returns table (name text, value text, is_filter boolean)
language plpgsql stable as $$
declare
    written text;
begin
    -- No path takes more than three parameters, so among twenty one is wrong.
    for written in
        select part
        from string_to_table(legacy.request_header('old-dialect-query'), '&') as parts (part)
        where part <> ''
        limit 20
    loop
        name := split_part(written, '=', 1);
        value := legacy.decode_part(regexp_replace(written, '^[^=]*=?', ''));
        name := legacy.decode_part(name);
        is_filter := name ~ '^(.*\.)?(select|order|limit|offset|and|or|columns|on_conflict)$'
        or value ~ (
            '^(not\.)*(eq|neq|gte?|lte?|i?like|i?match|in|is|isdistinct|(pl|ph|w)?fts|cs|cd|ov|sl|sr|nxr|nxl|adj)'
            '(\([a-z]+\))?\.'
        );
        return next;
    end loop;
exception
    when character_not_in_repertoire or untranslatable_character then
        perform legacy.refuse(
            422,
            message => format('%s is no percent-encoded UTF-8', left(name, 40)),
            hint => 'JavaScript''s encodeURIComponent and Python''s urlencode write it right'
        );
end
$$;

-- The parameters by name: the required ones, and the machine, by default the configured one.
create or replace function legacy.take_parameters(variadic required text[] default '{}')
returns jsonb
language plpgsql stable as $$
declare
    known text[] := required || array['machine'];
    taken jsonb := '{}';
    parameter record;
    filter text;
    plain text;
begin
    select
        min(left(name || '=' || value, 60)) filter (where is_filter),
        min(left(name || '=' || value, 60)) filter (where not is_filter)
    into filter, plain
    from legacy.read_query();
    if filter is not null and plain is not null then
        perform legacy.refuse(
            400,
            message => format('%s is of PostgREST''s dialect, %s of the replaced backend''s', filter, plain),
            hint => 'a request speaks one of them: with operators as in day=eq.2021-09-14, or target_date=2021-09-14'
        );
    end if;

    for parameter in select * from legacy.read_query() loop
        if parameter.name <> all (known) then
            perform legacy.refuse(
                400,
                message => format('unknown parameter %s', left(parameter.name, 40)),
                details => 'known here: ' || array_to_string(known, ', '),
                hint => 'a filter of PostgREST''s dialect has an operator, as in day=eq.2021-09-14'
            );
        elsif taken ? parameter.name then
            perform legacy.refuse(
                422,
                message => format('%s is given more than once', parameter.name),
                hint => 'give it once'
            );
        elsif parameter.value = '' then
            perform legacy.refuse(
                422,
                message => format('%s has no value', parameter.name),
                hint => 'give it one; machine may be left out for the default one'
            );
        end if;
        taken := taken || jsonb_build_object(parameter.name, parameter.value);
    end loop;

    if not taken ?& required then
        perform legacy.refuse(
            422,
            message => (
                select string_agg(name || ' is missing', ', ' order by place)
                from unnest(required) with ordinality as names (name, place)
                where not taken ? name
            ),
            details => 'needed here: ' || array_to_string(required, ', '),
            hint => 'a day as in target_date=2021-09-14, a time as in start=2022-01-30T15:00:00Z, a sensor of /sensors'
        );
    end if;

    if not taken ? 'machine' then
        return taken || jsonb_build_object('machine', legacy.request_header('default-machine'));
    elsif not exists (select from api.machines as machines where machines.machine = taken ->> 'machine') then
        perform legacy.refuse(
            404,
            message => format('machine is %s: there is no such machine', left(taken ->> 'machine', 40)),
            hint => '/machines lists them'
        );
    end if;
    return taken;
end
$$;

-- Days are YYYY-MM-DD and nothing else: no 'today', no 'infinity'.
create or replace function legacy.read_day(parameter text, written text)
returns date
language plpgsql stable as $$
begin
    if written !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' or not pg_input_is_valid(written, 'date') then
        perform legacy.refuse(
            422,
            message => format('%s is %s: there is no such day', parameter, left(written, 40)),
            hint => format('%s=2021-09-14', parameter)
        );
    end if;
    return written::date;
end
$$;

-- Times as the replaced backend took them, and as ISO 8601 has them. No offset is UTC. In an offset a blank was a +
-- that the client did not encode. A day alone is its midnight.
create or replace function legacy.read_moment(parameter text, written text)
returns timestamptz
language plpgsql stable as $$
declare
    parts text[] := regexp_match(
        written,
        '^([0-9]{4}-[0-9]{2}-[0-9]{2})'
        '(?:[Tt ]((?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?)'
        ' ?([Zz]|[-+ ][0-9]{2}(?::?[0-9]{2})?)?)?$'
    );
    moment text := parts[1] || ' ' || coalesce(parts[2], '00:00') || replace(coalesce(parts[3], 'Z'), ' ', '+');
begin
    if moment is null or not pg_input_is_valid(moment, 'timestamptz') then
        perform legacy.refuse(
            422,
            message => format('%s is %s: there is no such time', parameter, left(written, 40)),
            hint => format('%s=2022-01-30 15:00:00%%2B00:00', parameter)
        );
    end if;
    return moment::timestamptz;
end
$$;

-- A time as Python writes it: a fraction has six digits, and is only there if it is not 0.
create or replace function legacy.show_time(shown timestamp)
returns text
language sql stable as $$
    select to_char(
        shown,
        case when date_trunc('second', shown) = shown then 'YYYY-MM-DD HH24:MI:SS' else 'YYYY-MM-DD HH24:MI:SS.US' end
    )
$$;

create or replace function legacy.temperatures()
returns table (
    dt text,
    min_value double precision,
    avg_value double precision,
    max_value double precision,
    std_dev double precision,
    readings_count bigint
)
language plpgsql stable as $$
declare
    given jsonb := legacy.take_parameters('target_date', 'sensor_name');
    target date := legacy.read_day('target_date', given ->> 'target_date');
begin
    return query
    select
        legacy.show_time(hours.dt),
        hours.min_value,
        hours.avg_value,
        hours.max_value,
        hours.std_dev,
        hours.readings_count
    from api.temperatures as hours
    where
        hours.machine = given ->> 'machine'
        and hours.day = target
        and hours.sensor_name = given ->> 'sensor_name'
    order by hours.dt;

    if found then
        return;
    elsif exists (
        select
        from api.sensors as sensors
        where sensors.machine = given ->> 'machine' and sensors.sensor_name = given ->> 'sensor_name'
    ) then
        perform legacy.refuse(
            404,
            message => format('no temperatures: target_date %s, machine %s', target, given ->> 'machine'),
            details => format('sensor_name %s', given ->> 'sensor_name'),
            hint => '/sensors has the first and last day of each sensor'
        );
    end if;
    perform legacy.refuse(
        404,
        message => format('sensor_name is %s: there is no such sensor', left(given ->> 'sensor_name', 40)),
        details => format('machine %s', given ->> 'machine'),
        hint => '/sensors lists them'
    );
end
$$;

create or replace function legacy.machine_util()
returns table (
    dt date,
    state_running double precision,
    state_planned_down double precision,
    running_percentage double precision,
    down_percentage double precision
)
language plpgsql stable as $$
declare
    given jsonb := legacy.take_parameters('target_date');
    target date := legacy.read_day('target_date', given ->> 'target_date');
begin
    return query
    select
        days.dt,
        days.state_running,
        days.state_planned_down,
        days.running_percentage,
        days.down_percentage
    from api.machine_util as days
    where days.machine = given ->> 'machine' and days.dt = target;

    if not found then
        perform legacy.refuse(
            404,
            message => format('no running time: target_date %s, machine %s', target, given ->> 'machine'),
            hint => '/machines has the first and last day of each machine'
        );
    end if;
end
$$;

-- At most 366 days at once, some 60 000 rows of a real machine.
create or replace function legacy.machine_changes()
returns table (ts text, value int)
language plpgsql stable as $$
declare
    given jsonb := legacy.take_parameters('start', 'end');
    first_ts timestamptz := legacy.read_moment('start', given ->> 'start');
    last_ts timestamptz := legacy.read_moment('end', given ->> 'end');
begin
    if last_ts < first_ts then
        perform legacy.refuse(
            422,
            message => 'end is before start',
            hint => 'exchange them'
        );
    elsif last_ts > first_ts + interval '366 days' then
        perform legacy.refuse(
            422,
            message => 'end is more than 366 days after start',
            hint => 'ask for the changes year by year'
        );
    end if;

    return query
    select
        legacy.show_time(changes.ts at time zone 'UTC') || '+00:00',
        changes.value
    from api.machine_changes as changes
    where changes.machine = given ->> 'machine' and changes.ts between first_ts and last_ts
    order by changes.ts;
end
$$;

create or replace function legacy.machine_program()
returns table (dt date, program int, duration_seconds int)
language plpgsql stable as $$
declare
    given jsonb := legacy.take_parameters('target_date');
    target date := legacy.read_day('target_date', given ->> 'target_date');
begin
    return query
    select
        programs.dt,
        programs.program,
        programs.duration_seconds
    from api.machine_program as programs
    where programs.machine = given ->> 'machine' and programs.dt = target
    order by programs.duration_seconds desc, programs.program;

    if not found then
        perform legacy.refuse(
            404,
            message => format('no programs: target_date %s, machine %s', target, given ->> 'machine'),
            hint => '/machines has the first and last day of each machine'
        );
    end if;
end
$$;

create or replace function legacy.energy_consumption()
returns table (hour_ts text, energy_kwh double precision)
language plpgsql stable as $$
declare
    given jsonb := legacy.take_parameters('target_date');
    target date := legacy.read_day('target_date', given ->> 'target_date');
begin
    return query
    select
        legacy.show_time(hours.hour_ts),
        hours.energy_kwh
    from api.energy_consumption as hours
    where hours.machine = given ->> 'machine' and hours.day = target
    order by hours.hour_ts;
end
$$;

create or replace function legacy.alerts_daily_count()
returns table (day date, alert_type text, amount bigint)
language plpgsql stable as $$
declare
    given jsonb := legacy.take_parameters('target_date');
    target date := legacy.read_day('target_date', given ->> 'target_date');
begin
    return query
    select
        counts.day,
        counts.alert_type,
        counts.amount
    from api.alerts_daily_count as counts
    where counts.machine = given ->> 'machine' and counts.day = target
    order by counts.amount desc, counts.alert_type;
end
$$;

create or replace function legacy.alerts_detail()
returns table (id bigint, dt text, alert_type text, alarm_code text, alarm_description text)
language plpgsql stable as $$
declare
    given jsonb := legacy.take_parameters('target_date');
    target date := legacy.read_day('target_date', given ->> 'target_date');
begin
    return query
    select
        alerts.id,
        legacy.show_time(alerts.dt),
        alerts.alert_type,
        alerts.alarm_code,
        alerts.alarm_description
    from api.alerts_detail as alerts
    where
        alerts.machine = given ->> 'machine'
        and alerts.day = target
        and alerts.alert_type in ('emergency', 'error')
    order by alerts.dt, alerts.id;
end
$$;

-- One object. Only `machine` leads here: without a parameter it is PostgREST's, over all machines.
create or replace function legacy.data_status(
    out first_date date,
    out last_date date,
    out sensor_records bigint,
    out utilization_records bigint,
    out alert_records bigint,
    out program_records bigint,
    out energy_records bigint,
    out data_until timestamptz,
    out refreshed_at timestamptz,
    out refresh_ok boolean,
    out skipped_lists bigint,
    out machine text
)
language plpgsql stable as $$
declare
    given jsonb := legacy.take_parameters();
begin
    select
        status.first_date,
        status.last_date,
        status.sensor_records,
        status.utilization_records,
        status.alert_records,
        status.program_records,
        status.energy_records,
        status.data_until,
        status.refreshed_at,
        status.refresh_ok,
        status.skipped_lists,
        status.machine
    into
        first_date,
        last_date,
        sensor_records,
        utilization_records,
        alert_records,
        program_records,
        energy_records,
        data_until,
        refreshed_at,
        refresh_ok,
        skipped_lists,
        machine
    from api.data_status as status
    where status.machine = given ->> 'machine';
end
$$;

-- A function that is new: PostgREST learns of it now if it runs.
notify pgrst, 'reload schema';
