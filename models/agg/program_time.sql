{{ config(indexes=[{'columns': ['machine', 'day', 'program'], 'unique': true}]) }}

with program_rows as (

    select * from {{ ref('stg_numbers') }} where role = 'program'

),

keep_programs as (

    select
        machine,
        time_zone,
        from_ms,
        end_ms,
        logged_ms,
        case when {{ is_program('value') }} then value::int end as program
    from program_rows
    where {{ is_off('value') }} or {{ is_program('value') }}

),

find_spans as (

    select
        machine,
        time_zone,
        program,
        greatest(logged_ms, from_ms) as start_ms,
        coalesce(lead(logged_ms) over (partition by machine order by logged_ms), end_ms) as end_ms
    from keep_programs

),

split_at_midnight as (

    select
        find_spans.machine,
        find_spans.program,
        days.day::date as day,
        greatest(find_spans.start_ms, {{ day_start_ms('days.day', 'find_spans.time_zone') }}) as start_ms,
        least(find_spans.end_ms, {{ day_start_ms("days.day + interval '1 day'", 'find_spans.time_zone') }}) as end_ms
    from find_spans
    cross join lateral generate_series(
        {{ local_day('find_spans.start_ms', 'find_spans.time_zone') }}::timestamp,
        {{ local_day('find_spans.end_ms - 1', 'find_spans.time_zone') }}::timestamp,
        interval '1 day'
    ) as days (day)
    where find_spans.program is not null and find_spans.end_ms > find_spans.start_ms

)

select
    machine,
    day,
    program,
    round(sum({{ seconds_between('start_ms', 'end_ms') }}))::int as duration_seconds
from split_at_midnight
group by machine, day, program
