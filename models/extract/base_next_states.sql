{%- set other_than = {
    'running': 'value = 0 or ' ~ is_off('value'),
    'idle': 'value <> 0',
    'off': 'not ' ~ is_off('value'),
} -%}

with refresh_window as (

    select * from {{ ref('refresh_window') }} where last_ms < cut_ms

),

operation_signals as (

    select * from {{ ref('base_signals') }} where role = 'operation'

),

states as (

    select *
    from (
        values
        {%- for state, condition in other_than.items() %}
        ('{{ state }}', $${{ condition }}$$){{ ',' if not loop.last }}
        {%- endfor %}
    ) as state (state, other_than)

),

find_next_other_row as (

    select
        refresh_window.machine,
        states.state,
        log.date as logged_ms
    from refresh_window
    inner join operation_signals on refresh_window.machine = operation_signals.machine
    cross join states
    cross join lateral raw.find_row(
        refresh_window.machine, 'variable_log_float', operation_signals.id_var, 'after',
        refresh_window.last_ms, refresh_window.cut_ms, states.other_than
    ) as log

)

select
    machine,
    state,
    min(logged_ms) as next_ms
from find_next_other_row
group by machine, state
