with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

text_signals as (

    select * from {{ ref('stg_signals') }} where role = 'alarms'

),

choose_signals as (

    select
        text_signals.*,
        refresh_window.time_zone,
        refresh_window.from_ms,
        refresh_window.last_ms
    from refresh_window
    inner join text_signals on refresh_window.machine = text_signals.machine

),

read_window as (

    select
        signals.*,
        log.date as logged_ms,
        log.value,
        false as is_carried
    from choose_signals as signals
    cross join lateral raw.read_texts(
        signals.machine, signals.id_var, signals.from_ms, signals.last_ms
    ) as log
    where log.value is not null

),

carry_last_list as (

    select
        signals.*,
        log.date as logged_ms,
        log.value,
        true as is_carried
    from choose_signals as signals
    cross join lateral raw.find_row(
        signals.machine, 'variable_log_string', signals.id_var, 'before', signals.from_ms, 0,
        {{ holds_until_next('signals.role') }}
    ) as log

),

unite_rows as (

    select * from read_window
    union all
    select * from carry_last_list

)

select
    machine,
    variable,
    role,
    time_zone,
    logged_ms,
    value,
    is_carried
from unite_rows
