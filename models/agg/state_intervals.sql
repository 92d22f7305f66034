{{ config(
    unique_key=['machine', 'started_at'],
    indexes=[
        {'columns': ['machine', 'started_at'], 'unique': true},
        {'columns': ['machine', 'ended_at']},
        {'columns': ['machine', 'day']},
    ],
) }}

with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

next_states as (

    select * from {{ ref('base_next_states') }}

),

operation_rows as (

    select * from {{ ref('stg_numbers') }} where role = 'operation'

),

name_states as (

    select
        machine,
        time_zone,
        logged_ms,
        is_carried,
        {{ operation_state('value') }} as state
    from operation_rows

),

compare_with_previous as (

    select
        *,
        lag(state) over (partition by machine order by logged_ms) as previous_state
    from name_states

),

keep_changes as (

    select
        machine,
        {{ local_day('logged_ms', 'time_zone') }} as day,
        state,
        {{ moment('logged_ms') }} as started_at
    from compare_with_previous
    where not is_carried and state is distinct from previous_state

),

{% if is_incremental() -%}
carry_open_interval as (

    -- The interval that was open when the window begins belongs to an earlier day, but its end may have moved.
    select distinct on (stored.machine)
        stored.machine,
        stored.day,
        stored.state,
        stored.started_at
    from {{ this }} as stored
    inner join refresh_window on stored.machine = refresh_window.machine
    where
        stored.started_at < {{ moment('refresh_window.from_ms') }}
        and stored.ended_at >= {{ moment('refresh_window.from_ms') }}
    order by stored.machine asc, stored.started_at desc

),

{% endif -%}
unite_starts as (

    select * from keep_changes
    {%- if is_incremental() %}
    union all
    select * from carry_open_interval
    {%- endif %}

),

find_ends as (

    select
        unite_starts.*,
        coalesce(
            lead(unite_starts.started_at) over (
                partition by unite_starts.machine order by unite_starts.started_at
            ),
            {{ moment('next_states.next_ms') }},
            {{ moment('refresh_window.cut_ms') }}
        ) as ended_at
    from unite_starts
    inner join refresh_window on unite_starts.machine = refresh_window.machine
    left join next_states
        on
            unite_starts.machine = next_states.machine
            and unite_starts.state = next_states.state

)

select
    machine,
    day,
    state,
    started_at,
    ended_at,
    extract(epoch from ended_at - started_at)::double precision as duration_seconds
from find_ends
