{# State of a machine by its operation variable (real): 'off' after power-off, 'idle' at 0, else 'running'. #}
{% macro operation_state(value) -%}
    case
        when {{ is_off(value) }} then 'off'
        when {{ value }} = 0 then 'idle'
        else 'running'
    end
{%- endmacro %}

{# The operation variable as an int: as logged, 0 for power-off; what is no int (an infinity) counts as 255, running. #}
{% macro operation_value(value) -%}
    case
        when {{ is_off(value) }} then 0
        when {{ value }} between -1000000 and 1000000 and {{ value }} = floor({{ value }}) then {{ value }}::int
        else 255
    end
{%- endmacro %}
