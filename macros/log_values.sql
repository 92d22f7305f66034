{#
    What a logged value means. The same SQL is used for the rows of a window and for the look-up of the value that
    was carried into it (raw.find_row), so the two can never differ.
#}

{# Power-off: NaN in the numeric log (real), 'NaN' in the text log. #}
{% macro is_off(value) -%}
    {{ value }} = 'NaN'
{%- endmacro %}

{# A finite reading. PostgreSQL orders NaN above infinity, so the comparison leaves both out. #}
{% macro is_finite(value) -%}
    ({{ value }} > '-infinity' and {{ value }} < 'infinity')
{%- endmacro %}

{# A reading of a sensor: finite, and not 0, which a sensor logs that is not ready. #}
{% macro is_reading(value) -%}
    ({{ is_finite(value) }} and {{ value }} <> 0)
{%- endmacro %}

{# A program number: whole, 0 to 999. #}
{% macro is_program(value) -%}
    ({{ value }} between 0 and 999 and {{ value }} = floor({{ value }}))
{%- endmacro %}

{#
    A list of active alarms that can be read: a JSON array of arrays that each begin with code and text. Text with
    thousands of opening brackets is no list: nested so deep it would end the parser, and the refresh, with an error.
#}
{% macro is_alarm_list(value) -%}
    case
        when length({{ value }}) - length(translate({{ value }}, '[{', '')) > 5000 then false
        when pg_input_is_valid({{ value }}, 'jsonb')
            then
                jsonb_typeof({{ value }}::jsonb) = 'array'
                and not jsonb_path_exists(
                    {{ value }}::jsonb,
                    'strict $[*] ? (@.type() != "array" || @.size() < 2 || @[0].type() != "string" || @[1].type() != "string")'
                )
        else false
    end
{%- endmacro %}

{#
    Whether a row of the alarm variable ends an alert: power-off, or a list without it. For format(), whose one argument
    is the alert as {"code": …, "text": …} (jsonb).
#}
{% macro ends_alert(value) -%}
    case
        when {{ is_off(value) }} then true
        when {{ is_alarm_list(value) | replace('%', '%%') }}
            then not jsonb_path_exists({{ value }}::jsonb, 'strict $[*] ? (@[0] == $code && @[1] == $text)', %1$L)
        else false
    end
{%- endmacro %}

{#
    The real value as the decimal number that was logged, numeric: 12.3, not 12.3000001907. Sums of it do not depend
    on the order of the rows, so a result is the same however it was computed.
#}
{% macro as_logged(value) -%}
    {{ value }}::text::numeric
{%- endmacro %}

{# The log of a role (text: operation, load, program or alarms), as setup/raw.sql names it. #}
{% macro log_of_role(role) -%}
    case {{ role }} when 'alarms' then 'variable_log_string' else 'variable_log_float' end
{%- endmacro %}

{#
    SQL that returns, as text, the condition for the rows of a role (text: operation, load, program or alarms) whose
    value holds until the next such row. Other rows are passed over: the program, or the list, before them goes on.
#}
{% macro holds_until_next(role) -%}
    case {{ role }}
        when 'program' then $${{ is_off('value') }} or {{ is_program('value') }}$$
        when 'alarms' then $${{ is_off('value') }} or {{ is_alarm_list('value') }}$$
        else 'true'
    end
{%- endmacro %}

{#
    Sample standard deviation, numeric, from a count (bigint), a sum and a sum of squares (exact numeric, so equal
    readings give exactly 0). NULL for one reading.
#}
{% macro sample_std_dev(count, sum, sum_squares) -%}
    sqrt(({{ sum_squares }} - {{ sum }} * {{ sum }} / {{ count }}) / nullif({{ count }} - 1, 0))
{%- endmacro %}
