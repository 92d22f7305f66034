with signals as (

    select * from {{ ref('stg_signals') }} where role = 'alarms'

),

read_window as (

    select
        signals.*,
        log.date as logged_ms,
        log.value,
        false as is_carried
    from signals
    cross join lateral raw.read_texts(
        signals.machine, signals.id_var, signals.from_ms, signals.cut_ms
    ) as log
    where log.value is not null

),

carry_alarms as (

    select
        signals.*,
        log.date as logged_ms,
        log.value,
        true as is_carried
    from signals
    cross join lateral raw.last_row_before(
        signals.machine,
        'variable_log_string',
        signals.id_var,
        signals.from_ms,
        $${{ is_off('value') }} or {{ is_alarm_list('value') }}$$
    ) as log

),

unite_rows as (

    select * from read_window
    union all
    select * from carry_alarms

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
