{#
    Materialization `extracted`: rows that are read from the machines' production databases, each exactly once a run.

    Makes a view <model>_source, which reads when it is asked, and an unlogged table <model> of the same columns.
    dbt alone fills the table with all machines. The runs of bootstrap.py let dbt only make both (environment variable
    SPINDLE_EXTRACT=later) and then fill the table machine by machine, side by side, so that one that is down or slow
    stops no other (spindle/extract.py).
#}
{% materialization extracted, adapter='postgres' %}
    {%- set table = this.incorporate(type='table') -%}
    {%- set source_view = api.Relation.create(
        database=database, schema=schema, identifier=this.identifier ~ '_source', type='view'
    ) -%}
    {%- set existing_view = adapter.get_relation(database, schema, source_view.identifier) -%}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {%- if existing_view is none or not has_definition(existing_view, sql) %}
        {%- do run_query('drop view if exists ' ~ source_view.render()) %}
        {%- do run_query('create view ' ~ source_view.render() ~ ' as ' ~ sql) %}
    {%- endif %}
    {%- if not has_columns_of(table, source_view) %}
        {#- the staging views on it are dropped too; they come later in the same run, which makes them again #}
        {%- do run_query('drop table if exists ' ~ table.render() ~ ' cascade') %}
        {%- do run_query(
            'create unlogged table ' ~ table.render() ~ ' as select * from ' ~ source_view.render() ~ ' with no data'
        ) %}
    {%- endif %}

    {% call statement('main') %}
        {%- if env_var('SPINDLE_EXTRACT', 'now') == 'now' %}
        delete from {{ table }};
        insert into {{ table }} select * from {{ source_view }}
        {%- else %}
        select 'bootstrap.py extracts'
        {%- endif %}
    {% endcall %}
    {% do persist_docs(table, model) %}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {% do adapter.commit() %}
    {{ return({'relations': [table]}) }}
{% endmaterialization %}


{# Whether a table is there with the names and types of the columns of a view, in order. Returns a boolean. #}
{% macro has_columns_of(table, view) %}
    {%- set columns -%}
        select array_agg((attname, format_type(atttypid, atttypmod)) order by attnum)
        from pg_attribute
        where attnum > 0 and not attisdropped and attrelid = to_regclass('{{ '%s' }}')
    {%- endset -%}
    {%- set compared = run_query(
        'select (' ~ (columns | replace('%s', table.render())) ~ ') = (' ~ (columns | replace('%s', view.render())) ~ ')'
    ) -%}
    {{ return(compared.columns[0].values()[0] == true) }}
{% endmacro %}


{#
    What the present run was asked for, by settings of the session: a backfill's local days (spindle.from_day and
    spindle.to_day as YYYY-MM-DD; first and last), with spindle.next_days = on when the backfill's next step begins on
    the day after; or everything (spindle.everything = on). Not set for a refresh.
#}
{% macro requested_from_day() -%}
    nullif(current_setting('spindle.from_day', true), '')::date
{%- endmacro %}

{% macro requested_to_day() -%}
    nullif(current_setting('spindle.to_day', true), '')::date
{%- endmacro %}

{% macro are_next_days_requested() -%}
    (coalesce(current_setting('spindle.next_days', true), '') = 'on')
{%- endmacro %}

{% macro is_everything_requested() -%}
    (coalesce(current_setting('spindle.everything', true), '') = 'on')
{%- endmacro %}
