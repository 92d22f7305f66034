with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

numeric_signals as (

    select * from {{ ref('stg_signals') }} where role in ('temperature', 'operation', 'program', 'load')

),

choose_signals as (

    select
        numeric_signals.*,
        refresh_window.time_zone,
        refresh_window.from_ms,
        refresh_window.last_ms,
        refresh_window.end_ms
    from refresh_window
    inner join numeric_signals on refresh_window.machine = numeric_signals.machine

),

read_window as (

    select
        signals.*,
        log.date as logged_ms,
        log.value,
        false as is_carried
    from choose_signals as signals
    cross join lateral raw.read_numbers(
        signals.machine, signals.id_var, signals.from_ms, signals.last_ms
    ) as log
    where log.value is not null

),

carry_last_values as (

    select
        signals.*,
        log.date as logged_ms,
        log.value::real as value,
        true as is_carried
    from choose_signals as signals
    cross join lateral raw.find_row(
        signals.machine, 'variable_log_float', signals.id_var, 'before', signals.from_ms, 0,
        {{ holds_until_next('signals.role') }}
    ) as log
    where signals.role <> 'temperature'

),

unite_rows as (

    select * from read_window
    union all
    select * from carry_last_values

)

select
    machine,
    variable,
    role,
    divisor,
    nominal_kw,
    time_zone,
    from_ms,
    end_ms,
    logged_ms,
    value,
    is_carried
from unite_rows
