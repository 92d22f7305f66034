with refresh_window as (

    select * from {{ ref('refresh_window') }} where last_ms < cut_ms

),

alarm_signals as (

    select * from {{ ref('base_signals') }} where role = 'alarms'

),

texts as (

    select * from {{ ref('base_texts') }}

),

find_last_lists as (

    select distinct on (machine)
        machine,
        value
    from texts
    where {{ is_off('value') }} or {{ is_alarm_list('value') }}
    order by machine asc, logged_ms desc

),

unnest_entries as (

    select distinct
        find_last_lists.machine,
        entry.value ->> 0 as alarm_code,
        entry.value ->> 1 as alarm_description
    from find_last_lists
    cross join lateral jsonb_array_elements(
        case when {{ is_off('find_last_lists.value') }} then '[]' else find_last_lists.value end::jsonb
    ) as entry (value)

)

select
    refresh_window.machine,
    unnest_entries.alarm_code,
    unnest_entries.alarm_description,
    log.date as next_ms
from refresh_window
inner join alarm_signals on refresh_window.machine = alarm_signals.machine
inner join unnest_entries on refresh_window.machine = unnest_entries.machine
cross join lateral raw.find_row(
    refresh_window.machine, 'variable_log_string', alarm_signals.id_var, 'after',
    refresh_window.last_ms, refresh_window.cut_ms,
    format(
        $${{ ends_alert('value') }}$$,
        jsonb_build_object('code', unnest_entries.alarm_code, 'text', unnest_entries.alarm_description)
    )
) as log
