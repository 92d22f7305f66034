with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

signals as (

    select * from {{ ref('base_signals') }} where role = 'alarms'

),

list_signals as (

    select
        machine,
        array_agg(id_var) as ids
    from signals
    group by machine

),

read_window as (

    select
        refresh_window.machine,
        log.id_var,
        log.date as logged_ms,
        log.value,
        false as is_carried
    from refresh_window
    inner join list_signals on refresh_window.machine = list_signals.machine
    cross join lateral raw.read_texts(
        refresh_window.machine, list_signals.ids, refresh_window.from_ms, refresh_window.last_ms
    ) as log

),

carry_last_list as (

    select
        refresh_window.machine,
        signals.id_var,
        log.date as logged_ms,
        log.value,
        true as is_carried
    from refresh_window
    inner join signals on refresh_window.machine = signals.machine
    cross join lateral raw.find_row(
        refresh_window.machine, 'variable_log_string', signals.id_var, 'before', refresh_window.from_ms, 0,
        {{ holds_until_next('signals.role') }}
    ) as log

)

select
    machine,
    id_var,
    logged_ms,
    value,
    is_carried
from read_window

union all

select
    machine,
    id_var,
    logged_ms,
    value,
    is_carried
from carry_last_list
