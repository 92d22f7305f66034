{{ config(indexes=[{'columns': ['machine', 'day'], 'unique': true}]) }}

with alarm_lists as (

    select * from {{ ref('stg_alarm_lists') }} where not is_carried

),

locate_lists as (

    select
        machine,
        {{ local_day('logged_ms', 'time_zone') }} as day,
        is_off,
        is_malformed
    from alarm_lists

)

select
    machine,
    day,
    count(*) filter (where not is_off) as logged_lists,
    count(*) filter (where is_malformed) as skipped_lists
from locate_lists
group by machine, day
