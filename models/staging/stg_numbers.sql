{%- set carried_when = {
    'operation': 'true',
    'load': 'true',
    'program': is_off('value') ~ ' or ' ~ is_program('value'),
} -%}

with signals as (

    select * from {{ ref('stg_signals') }} where role in ('temperature', 'operation', 'program', 'load')

),

read_window as (

    select
        signals.*,
        log.date as logged_ms,
        log.value,
        false as is_carried
    from signals
    cross join lateral raw.read_numbers(
        signals.machine, signals.id_var, signals.from_ms, signals.cut_ms
    ) as log
    where log.value is not null

),

{% for role, condition in carried_when.items() -%}
carry_{{ role }} as (

    select
        signals.*,
        log.date as logged_ms,
        log.value::real as value,
        true as is_carried
    from signals
    cross join lateral raw.last_row_before(
        signals.machine, 'variable_log_float', signals.id_var, signals.from_ms, $${{ condition }}$$
    ) as log
    where signals.role = '{{ role }}'

),

{% endfor -%}
unite_rows as (

    select * from read_window
    {%- for role in carried_when %}
    union all
    select * from carry_{{ role }}
    {%- endfor %}

)

select
    machine,
    variable,
    role,
    divisor,
    nominal_kw,
    time_zone,
    cut_ms,
    from_ms,
    logged_ms,
    value,
    is_carried
from unite_rows
