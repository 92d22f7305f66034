-- How models reach the machines' logs. Run by `bootstrap.py init` as spindle_owner; safe to repeat.
--
-- Every machine has these relations here, foreign tables or views: raw.<machine>_variable, _variable_log_float and
-- _variable_log_string, and the two logs once more with the ending _look_up: the same tables, of which postgres_fdw
-- fetches few rows at a time. The logs' only index is the key (id_var, date) and they hold hundreds of millions of rows,
-- so these functions send statements whose machine, id_var and date range are constants: one machine's server is
-- touched, by its key. Times are milliseconds since 1970 UTC, ranges include both ends.
--
-- The planner does not know how large a machine's log is. The functions forbid it to sort or to aggregate here what the
-- machine's server can sort by its key, or aggregate (enable_sort, enable_hashagg).

create table if not exists raw.sources (
    machine text primary key,
    reached_by text not null check (reached_by in ('foreign tables', 'local views'))
);

-- The dictionary of one machine.
create or replace function raw.read_variables(machine text)
returns table (id int, name text, datatype text)
language plpgsql stable as $$
begin
    return query execute format('select id, name, datatype from raw.%I', machine || '_variable');
end
$$;

-- The id_var that have rows in a log ('variable_log_float' or 'variable_log_string') with their first and last time,
-- by steps along the key: select distinct would read the whole log.
create or replace function raw.read_log_ids(machine text, log text)
returns table (id_var int, oldest_ms bigint, newest_ms bigint)
language plpgsql stable set enable_sort = off as $$
declare
    relation text := machine || '_' || log || '_look_up';
begin
    execute format('select id_var, date from raw.%I order by id_var, date limit 1', relation)
    into id_var, oldest_ms;
    while id_var is not null loop
        execute format('select date from raw.%I where id_var = %s order by date desc limit 1', relation, id_var)
        into newest_ms;
        return next;
        execute format(
            'select id_var, date from raw.%I where id_var > %s order by id_var, date limit 1', relation, id_var
        ) into id_var, oldest_ms;
    end loop;
end
$$;

-- The oldest and newest log time of a machine over both logs; no row when nothing is logged.
create or replace function raw.log_bounds(machine text)
returns table (oldest_ms bigint, newest_ms bigint)
language sql stable as $$
    select min(logged.oldest_ms), max(logged.newest_ms)
    from (values ('variable_log_float'), ('variable_log_string')) as logs (log)
    cross join lateral raw.read_log_ids(machine, logs.log) as logged
    having count(*) > 0
$$;

-- The rows of numeric variables that are not null.
create or replace function raw.read_numbers(machine text, ids int[], from_ms bigint, last_ms bigint)
returns table (id_var int, date bigint, value real)
language plpgsql stable rows 100000 as $$
begin
    return query execute format(
        'select id_var, date, value from raw.%I
        where id_var = any(%L::int[]) and date >= %s and date <= %s and value is not null',
        machine || '_variable_log_float', ids, from_ms, last_ms
    );
end
$$;

-- The rows of text variables that are not null.
create or replace function raw.read_texts(machine text, ids int[], from_ms bigint, last_ms bigint)
returns table (id_var int, date bigint, value text)
language plpgsql stable rows 10000 as $$
begin
    return query execute format(
        'select id_var, date, value from raw.%I
        where id_var = any(%L::int[]) and date >= %s and date <= %s and value is not null',
        machine || '_variable_log_string', ids, from_ms, last_ms
    );
end
$$;

-- Partial sums of a numeric variable in buckets of time, over the rows that meet `condition` (SQL over `value`):
-- first time, count, smallest and largest value as logged, sum and sum of squares. For the sums values count with 4
-- decimals, which undoes what single precision adds to a decimal that was logged; they are exact, so that no order of
-- rows or plan changes them.
drop function if exists raw.read_sums(text, int, numeric, bigint, bigint, text, bigint) cascade;
create or replace function raw.read_sums(
    machine text, id_var int, from_ms bigint, last_ms bigint, condition text, bucket_ms bigint
)
returns table (
    first_ms bigint, readings_count bigint, min_value real, max_value real, sum_value numeric, sum_squares numeric
)
language plpgsql stable set enable_sort = off set enable_hashagg = off as $$
declare
    logged text := 'round(value::double precision::numeric, 4)';
begin
    return query execute format(
        'select min(date), count(*), min(value), max(value), sum(%1$s), sum(%1$s * %1$s) from raw.%2$I
        where id_var = %3$s and date >= %4$s and date <= %5$s and %6$s group by date / %7$s',
        logged, machine || '_variable_log_float', id_var, from_ms, last_ms, condition, bucket_ms
    );
end
$$;

-- The nearest row of a variable that meets `condition` (SQL over `value`, not null), at most one: the last one before
-- start_ms when `direction` is 'before', else the first one 'after' it; not beyond stop_ms.
-- It steps along the key in growing chunks and tests here, so the condition may use what an old server lacks.
create or replace function raw.find_row(
    machine text, log text, id_var int, direction text, start_ms bigint, stop_ms bigint, condition text
)
returns table (date bigint, value text)
language plpgsql stable rows 1 set enable_sort = off as $$
declare
    relation text := machine || '_' || log || '_look_up';
    within text := case direction
        when 'before' then 'date < %s and date >= %s order by date desc'
        when 'after' then 'date > %s and date <= %s order by date asc'
    end;
    farthest text := case direction when 'before' then 'min' else 'max' end;
    nearest_first text := case direction when 'before' then 'desc' else 'asc' end;
    reached_ms bigint := start_ms;
    chunk_rows int := 64;
    rows_read int;
begin
    loop
        execute format(
            'with read_chunk as materialized (
                select date, value from raw.%1$I where id_var = %2$s and %3$s limit %4$s
            ),
            keep_matches as (
                select date, value::text from read_chunk where value is not null and (%5$s)
            )
            select
                (select count(*) from read_chunk),
                (select %6$s(date) from read_chunk),
                (select array_agg(date order by date %7$s) from keep_matches)[1],
                (select array_agg(value order by date %7$s) from keep_matches)[1]',
            relation, id_var, format(within, reached_ms, stop_ms), chunk_rows, condition, farthest, nearest_first
        ) into rows_read, reached_ms, date, value;
        if date is not null then
            return next;
            return;
        end if;
        exit when rows_read < chunk_rows;
        -- no longer a look-up: many rows are fetched at a time
        relation := machine || '_' || log;
        chunk_rows := least(chunk_rows * 8, 32768);
    end loop;
end
$$;

-- First and last row in each time bucket, over some variables of one log of a machine: enough to find every gap longer
-- than a bucket without moving the rows.
create or replace function raw.read_buckets(
    machine text, log text, ids int[], from_ms bigint, last_ms bigint, bucket_ms bigint
)
returns table (first_ms bigint, last_row_ms bigint)
language plpgsql stable set enable_sort = off set enable_hashagg = off as $$
begin
    return query execute format(
        'select min(date), max(date) from raw.%1$I
        where id_var = any(%2$L::int[]) and date >= %3$s and date <= %4$s group by date / %5$s',
        machine || '_' || log, ids, from_ms, last_ms, bucket_ms
    );
end
$$;
