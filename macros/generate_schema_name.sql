{#
    Schemas are named as configured (staging, agg, api), without dbt's prefix of the target schema. A rebuild builds
    beside them, in staging_next, agg_next and api_next (var schema_suffix), and swaps.
#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ custom_schema_name or target.schema }}{{ var('schema_suffix') }}
{%- endmacro %}
