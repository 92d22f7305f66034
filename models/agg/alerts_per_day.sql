{{ config(indexes=[{'columns': ['machine', 'day', 'alert_type'], 'unique': true}]) }}

with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

alerts as (

    select * from {{ ref('alerts') }}

),

alarm_entries as (

    select * from {{ ref('stg_alarm_entries') }} where not is_carried

),

count_alerts as (

    select
        alerts.machine,
        alerts.day,
        alerts.alert_type,
        count(*) as amount
    from alerts
    inner join refresh_window
        on
            alerts.machine = refresh_window.machine
            and alerts.day between refresh_window.from_day and refresh_window.to_day
    group by alerts.machine, alerts.day, alerts.alert_type

),

locate_entries as (

    select
        machine,
        {{ local_day('logged_ms', 'time_zone') }} as day,
        alert_type
    from alarm_entries

),

count_entries as (

    select
        machine,
        day,
        alert_type,
        count(*) as entries_logged
    from locate_entries
    group by machine, day, alert_type

)

-- An alert begins with an entry that is logged, so no day has alerts without entries.
select
    count_entries.machine,
    count_entries.day,
    count_entries.alert_type,
    coalesce(count_alerts.amount, 0) as amount,
    count_entries.entries_logged
from count_entries
left join count_alerts
    on
        count_entries.machine = count_alerts.machine
        and count_entries.day = count_alerts.day
        and count_entries.alert_type = count_alerts.alert_type
