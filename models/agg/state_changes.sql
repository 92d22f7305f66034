{{ config(indexes=[
    {'columns': ['machine', 'ts'], 'unique': true},
    {'columns': ['machine', 'day']},
]) }}

with operation_rows as (

    select * from {{ ref('stg_numbers') }} where role = 'operation' and not is_carried

)

select
    machine,
    {{ local_day('logged_ms', 'time_zone') }} as day,
    {{ moment('logged_ms') }} as ts,
    {{ operation_value('value') }} as value,
    {{ operation_state('value') }} as state
from operation_rows
