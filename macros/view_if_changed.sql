{#
    Materialization `view`, dbt's own but for one thing: a view whose definition has not changed is left alone.

    dbt swaps a view by renaming, which waits for every reader of it and makes all later readers wait. A refresh
    changes rows, not views, so it swaps none. Comments and grants are brought up to date either way.
#}
{% materialization view, adapter='postgres' %}
    {%- set existing = load_cached_relation(this) -%}
    {%- if existing is none or not existing.is_view or not has_definition(existing, sql) -%}
        {{ return(dbt.materialization_view_default()) }}
    {%- endif -%}

    {%- set target_relation = this.incorporate(type='view') -%}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {% call statement('main') %}select 'unchanged'{% endcall %}
    {% do apply_grants(target_relation, config.get('grants'), should_revoke=True) %}
    {% do persist_docs(target_relation, model) %}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {% do adapter.commit() %}
    {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}


{# Whether a view is what `sql` would make it: PostgreSQL itself compares, by a temporary view. Returns a boolean. #}
{% macro has_definition(view, sql) %}
    {%- if config.get('contract').enforced -%}
        {%- do get_assert_columns_equivalent(sql) -%}
    {%- endif -%}
    {%- set probe = 'probe_' ~ local_md5(view.render())[:12] -%}
    {%- do run_query('create temporary view ' ~ probe ~ ' as ' ~ sql) -%}
    {%- set compared = run_query(
        "select pg_get_viewdef('pg_temp." ~ probe ~ "'::regclass) = pg_get_viewdef('" ~ view.render() ~ "'::regclass)"
    ) -%}
    {%- do run_query('drop view pg_temp.' ~ probe) -%}
    {{ return(compared.columns[0].values()[0]) }}
{% endmacro %}
