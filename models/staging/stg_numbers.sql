with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

signals as (

    select * from {{ ref('base_signals') }}

),

numbers as (

    select * from {{ ref('base_numbers') }}

)

select
    refresh_window.machine,
    signals.variable,
    signals.role,
    signals.divisor,
    signals.nominal_kw,
    refresh_window.time_zone,
    refresh_window.from_ms,
    refresh_window.end_ms,
    numbers.logged_ms,
    numbers.value,
    numbers.is_carried
from refresh_window
inner join numbers on refresh_window.machine = numbers.machine
inner join signals
    on
        numbers.machine = signals.machine
        and numbers.id_var = signals.id_var
