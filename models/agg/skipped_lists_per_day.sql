{{ config(indexes=[{'columns': ['machine', 'day'], 'unique': true}]) }}

with malformed_lists as (

    select * from {{ ref('stg_alarm_lists') }} where is_malformed and not is_carried

),

locate_lists as (

    select
        machine,
        {{ local_day('logged_ms', 'time_zone') }} as day
    from malformed_lists

)

select
    machine,
    day,
    count(*) as skipped_lists
from locate_lists
group by machine, day
