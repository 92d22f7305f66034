with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

signal_config as (

    select * from {{ ref('signal_config') }}

),

find_variables as (

    select
        refresh_window.machine,
        refresh_window.time_zone,
        refresh_window.from_ms,
        refresh_window.cut_ms,
        variable.id as id_var,
        variable.name as variable
    from refresh_window
    cross join lateral raw.read_variables(refresh_window.machine) as variable

)

select
    find_variables.machine,
    signal_config.variable,
    signal_config.role,
    signal_config.divisor,
    signal_config.nominal_kw,
    find_variables.id_var,
    find_variables.time_zone,
    find_variables.from_ms,
    find_variables.cut_ms
from find_variables
inner join signal_config
    on
        find_variables.machine = signal_config.machine
        and find_variables.variable = signal_config.variable
