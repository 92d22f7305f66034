with alarm_lists as (

    select * from {{ ref('stg_alarm_lists') }} where not is_malformed

),

alarm_entries as (

    select distinct
        machine,
        list_no,
        alarm_code,
        alarm_description
    from {{ ref('stg_alarm_entries') }}

),

find_entries_gone as (

    select
        next_list.machine,
        next_list.logged_ms,
        alarm_entries.alarm_code,
        alarm_entries.alarm_description
    from alarm_entries
    inner join alarm_lists as next_list
        on
            alarm_entries.machine = next_list.machine
            and alarm_entries.list_no = next_list.list_no - 1
    left join alarm_entries as still_there
        on
            alarm_entries.machine = still_there.machine
            and alarm_entries.list_no = still_there.list_no - 1
            and alarm_entries.alarm_code = still_there.alarm_code
            and alarm_entries.alarm_description = still_there.alarm_description
    where still_there.machine is null

)

select
    machine,
    alarm_code,
    alarm_description,
    {{ moment('logged_ms') }} as ended_at
from find_entries_gone
