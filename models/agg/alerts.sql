{{ config(
    unique_key=['machine', 'id'],
    indexes=[
        {'columns': ['machine', 'id'], 'unique': true},
        {'columns': ['machine', 'started_at']},
        {'columns': ['machine', 'day']},
    ],
) }}

-- depends_on: {{ ref('refresh_window') }}
with {% if is_incremental() -%}
refresh_window as (

    select * from {{ ref('refresh_window') }}

),

{% endif -%}
alarm_entries as (

    select distinct
        machine,
        time_zone,
        list_no,
        logged_ms,
        is_carried,
        alarm_code,
        alarm_description,
        alert_type
    from {{ ref('stg_alarm_entries') }}

),

alert_ends as (

    select * from {{ ref('stg_alert_ends') }}

),

next_ends as (

    select * from {{ ref('base_next_ends') }}

),

find_new_entries as (

    select
        alarm_entries.machine,
        alarm_entries.time_zone,
        {{ local_day('alarm_entries.logged_ms', 'alarm_entries.time_zone') }} as day,
        alarm_entries.alert_type,
        alarm_entries.alarm_code,
        alarm_entries.alarm_description,
        {{ moment('alarm_entries.logged_ms') }} as started_at
    from alarm_entries
    left join alarm_entries as before
        on
            alarm_entries.machine = before.machine
            and alarm_entries.list_no = before.list_no + 1
            and alarm_entries.alarm_code = before.alarm_code
            and alarm_entries.alarm_description = before.alarm_description
    where not alarm_entries.is_carried and before.machine is null

),

{% if is_incremental() -%}
carry_open_alerts as (

    -- Alerts that were active when the window begins belong to earlier days, but their ends may have moved.
    select
        stored.machine,
        refresh_window.time_zone,
        stored.day,
        stored.alert_type,
        stored.alarm_code,
        stored.alarm_description,
        stored.started_at
    from {{ this }} as stored
    inner join refresh_window on stored.machine = refresh_window.machine
    where
        stored.day < refresh_window.from_day
        and (stored.ended_at is null or stored.ended_at >= {{ moment('refresh_window.from_ms') }})

),

{% endif -%}
unite_starts as (

    select * from find_new_entries
    {%- if is_incremental() %}
    union all
    select * from carry_open_alerts
    {%- endif %}

),

list_starts_and_ends as (

    select
        machine,
        alarm_code,
        alarm_description,
        started_at as happened_at,
        true as is_start
    from unite_starts

    union all

    select
        machine,
        alarm_code,
        alarm_description,
        ended_at as happened_at,
        false as is_start
    from alert_ends

),

look_ahead as (

    -- backwards in time, so that the nearest end so far is the first one after a start, and not one of the same moment
    select
        *,
        min(happened_at) filter (where not is_start) over (
            partition by machine, alarm_code, alarm_description
            order by happened_at desc, is_start desc
            rows between unbounded preceding and current row
        ) as ended_at
    from list_starts_and_ends

),

find_ends as (

    -- What outlasts the window ends where production says: the days after it may never have been computed.
    select
        unite_starts.*,
        coalesce(look_ahead.ended_at, {{ moment('next_ends.next_ms') }}) as ended_at
    from unite_starts
    inner join look_ahead
        on
            look_ahead.is_start
            and unite_starts.machine = look_ahead.machine
            and unite_starts.alarm_code = look_ahead.alarm_code
            and unite_starts.alarm_description = look_ahead.alarm_description
            and unite_starts.started_at = look_ahead.happened_at
    left join next_ends
        on
            unite_starts.machine = next_ends.machine
            and unite_starts.alarm_code = next_ends.alarm_code
            and unite_starts.alarm_description = next_ends.alarm_description

)

select
    machine,
    day,
    {{ alert_id('machine', 'started_at', 'alarm_code', 'alarm_description') }} as id,
    alert_type,
    alarm_code,
    alarm_description,
    started_at,
    ended_at,
    started_at at time zone time_zone as dt,
    ended_at at time zone time_zone as cleared_at,
    extract(epoch from ended_at - started_at)::double precision as duration_seconds
from find_ends
