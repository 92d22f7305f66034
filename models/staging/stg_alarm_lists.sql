with alarm_rows as (

    select * from {{ ref('stg_texts') }} where role = 'alarms'

),

read_lists as (

    select
        machine,
        time_zone,
        logged_ms,
        is_carried,
        {{ is_off('value') }} as is_off,
        case
            when {{ is_off('value') }} then '[]'
            when {{ is_alarm_list('value') }} then value
        end::jsonb as entries
    from alarm_rows

)

select
    machine,
    time_zone,
    logged_ms,
    is_carried,
    is_off,
    entries is null as is_malformed,
    entries,
    case
        when entries is not null
            then row_number() over (partition by machine, entries is null order by logged_ms)
    end as list_no
from read_lists
