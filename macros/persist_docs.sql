{#
    What dbt calls to write descriptions as comments. A refresh would write some two hundred again each time; here only
    those of a relation on which some comment is not the description are written.
#}
{% macro postgres__persist_docs(relation, model, for_relation, for_columns) -%}
    {%- set wanted = {} -%}
    {%- if for_relation and config.persist_relation_docs() and model.description -%}
        {%- do wanted.update({'': model.description}) -%}
    {%- endif -%}
    {%- if for_columns and config.persist_column_docs() -%}
        {%- for name, column in model.columns.items() if column.description -%}
            {%- do wanted.update({name: column.description}) -%}
        {%- endfor -%}
    {%- endif -%}
    {%- set comments = run_query(
        "select coalesce(attname, ''), description from pg_description"
        " left join pg_attribute on attrelid = objoid and attnum = objsubid and objsubid > 0"
        " where classoid = 'pg_class'::regclass and objoid = '" ~ relation.render() ~ "'::regclass"
    ) -%}
    {%- set found = {} -%}
    {%- for name, comment in comments.rows -%}
        {%- do found.update({name: comment}) -%}
    {%- endfor -%}
    {%- if found != wanted -%}
        {{ dbt.default__persist_docs(relation, model, for_relation, for_columns) }}
    {%- endif -%}
{%- endmacro %}
