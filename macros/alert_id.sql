{#
    A number for an alert that never changes: 52 bits of a digest of what identifies it, so it is below 2^53 and exact
    in JavaScript. machine, alarm_code, alarm_description: text; started_at: timestamptz. Returns bigint.
#}
{% macro alert_id(machine, started_at, alarm_code, alarm_description) -%}
    (
        'x' || left(
            md5(jsonb_build_array(
                {{ machine }}, extract(epoch from {{ started_at }}), {{ alarm_code }}, {{ alarm_description }}
            )::text),
            13
        )
    )::bit(52)::bigint
{%- endmacro %}
