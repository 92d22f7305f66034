with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

signals as (

    select * from {{ ref('base_signals') }}

),

texts as (

    select * from {{ ref('base_texts') }}

)

select
    refresh_window.machine,
    signals.variable,
    signals.role,
    refresh_window.time_zone,
    texts.logged_ms,
    texts.value,
    texts.is_carried
from refresh_window
inner join texts on refresh_window.machine = texts.machine
inner join signals
    on
        texts.machine = signals.machine
        and texts.id_var = signals.id_var
