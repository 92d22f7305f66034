with sources as (

    select * from {{ source('raw', 'sources') }}

),

signal_config as (

    select * from {{ ref('signal_config') }}

),

read_variables as (

    select
        sources.machine,
        variable.id as id_var,
        variable.name as variable
    from sources
    cross join lateral raw.read_variables(sources.machine) as variable

)

select
    read_variables.machine,
    read_variables.id_var,
    read_variables.variable,
    signal_config.role,
    signal_config.divisor,
    signal_config.nominal_kw
from read_variables
inner join signal_config
    on
        read_variables.machine = signal_config.machine
        and read_variables.variable = signal_config.variable
