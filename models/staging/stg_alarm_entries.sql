with alarm_lists as (

    select * from {{ ref('stg_alarm_lists') }} where not is_malformed

),

alert_rules as (

    select * from {{ ref('alert_rules') }}

),

unnest_entries as (

    select
        alarm_lists.machine,
        alarm_lists.time_zone,
        alarm_lists.list_no,
        alarm_lists.logged_ms,
        alarm_lists.is_carried,
        entry.value ->> 0 as alarm_code,
        entry.value ->> 1 as alarm_description
    from alarm_lists
    cross join lateral jsonb_array_elements(alarm_lists.entries) as entry (value)

),

find_descriptions as (

    select distinct alarm_description from unnest_entries

),

classify_descriptions as (

    select distinct on (find_descriptions.alarm_description)
        find_descriptions.alarm_description,
        alert_rules.alert_type
    from find_descriptions
    inner join alert_rules on find_descriptions.alarm_description ~* ('\m' || alert_rules.word_start)
    order by find_descriptions.alarm_description asc, alert_rules.priority asc

)

select
    unnest_entries.machine,
    unnest_entries.time_zone,
    unnest_entries.list_no,
    unnest_entries.logged_ms,
    unnest_entries.is_carried,
    unnest_entries.alarm_code,
    unnest_entries.alarm_description,
    coalesce(classify_descriptions.alert_type, 'other') as alert_type
from unnest_entries
left join classify_descriptions
    on unnest_entries.alarm_description = classify_descriptions.alarm_description
