{#
    Incremental strategy `replace_window`: the one way results are written.

    Deletes the results of every machine and local day in refresh_window, then inserts the new rows, in the one
    transaction that dbt opens: readers see the old rows or the new ones, and a day that lost its log rows loses its
    results. A model with a unique_key also replaces the rows of the same key, so that it can correct a row of an
    earlier day (an interval that was still open). A model with meta `replaces: machine` has one set of rows a machine
    and replaces that.
#}
{% macro get_incremental_replace_window_sql(arg_dict) %}
    {%- set columns = arg_dict['dest_columns'] | map(attribute='quoted') | join(', ') -%}
    {%- set unique_key = arg_dict['unique_key'] -%}
    {#- not ref(): dbt cannot see a ref inside a strategy; models reach the window through their staging views -#}
    {%- set refresh_window = api.Relation.create(
        database=target.database,
        schema=generate_schema_name('staging', none),
        identifier='refresh_window'
    ) -%}

    delete from {{ arg_dict['target_relation'] }} as old
    using {{ refresh_window }} as refresh
    where
        old.machine = refresh.machine
        {%- if config.get('meta', {}).get('replaces') != 'machine' %}
        and old.day between refresh.from_day and refresh.to_day
        {%- endif %};

    {% if unique_key -%}
    delete from {{ arg_dict['target_relation'] }} as old
    using {{ arg_dict['temp_relation'] }} as new
    where
        {%- for column in unique_key %}
        {% if not loop.first %}and {% endif %}old.{{ column }} = new.{{ column }}
        {%- endfor %};
    {%- endif %}

    insert into {{ arg_dict['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ arg_dict['temp_relation'] }};
{% endmacro %}
