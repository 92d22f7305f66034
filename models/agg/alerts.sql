{{ config(
    unique_key=['machine', 'id'],
    indexes=[
        {'columns': ['machine', 'id'], 'unique': true},
        {'columns': ['machine', 'started_at']},
        {'columns': ['machine', 'day']},
    ],
) }}

with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

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

    select * from {{ ref('alert_ends') }}

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

find_ends as (

    -- What ends after the window ends where production says: the days after it may never have been computed.
    select
        unite_starts.*,
        coalesce(
            (
                select min(alert_ends.ended_at)
                from alert_ends
                where
                    alert_ends.machine = unite_starts.machine
                    and alert_ends.alarm_code = unite_starts.alarm_code
                    and alert_ends.alarm_description = unite_starts.alarm_description
                    and alert_ends.ended_at > unite_starts.started_at
                    and alert_ends.ended_at <= {{ moment('refresh_window.last_ms') }}
            ),
            {{ moment('next_ends.next_ms') }}
        ) as ended_at
    from unite_starts
    inner join refresh_window on unite_starts.machine = refresh_window.machine
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
