{#
    Materialization `view`: one that has not changed is left alone, and one that has is swapped patiently.

    dbt swaps every view at every run, by renaming, which waits for each reader of it and makes all later readers wait.
    A refresh changes rows, not views, so here it swaps none. A changed view is swapped in one transaction, when no
    reader holds it: see lock_view. Comments and grants are brought up to date either way.
#}
{% materialization view, adapter='postgres' %}
    {%- set existing = load_cached_relation(this) -%}
    {%- set target_relation = this.incorporate(type='view') -%}
    {%- set backup = make_backup_relation(target_relation, 'view') -%}
    {%- if config.get('contract').enforced -%}
        {%- do get_assert_columns_equivalent(sql) -%}
    {%- endif -%}
    {%- set is_changed = existing is none or not existing.is_view or not has_definition(existing, sql) %}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {%- if is_changed and existing is not none %}
        {%- do lock_view(existing) if existing.is_view %}
        {%- do adapter.rename_relation(existing, backup) %}
    {%- endif %}
    {% call statement('main') %}
        {{ get_create_view_as_sql(target_relation, sql) if is_changed else "select 'unchanged'" }}
    {% endcall %}
    {% do apply_grants(target_relation, config.get('grants'), should_revoke=True) %}
    {% do persist_docs(target_relation, model) %}
    {%- if is_changed and existing is not none %}
        {#- staging views on it are dropped too; they come later in the same run, which makes them again #}
        {%- do adapter.drop_relation(backup) %}
    {%- endif %}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {% do adapter.commit() %}
    {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}


{# Whether a view is what `sql` would make it: PostgreSQL itself compares, by a temporary view. Returns a boolean. #}
{% macro has_definition(view, sql) %}
    {%- set probe = 'probe_' ~ local_md5(view.render())[:12] -%}
    {%- do run_query('create temporary view ' ~ probe ~ ' as ' ~ sql) -%}
    {%- set compared = run_query(
        "select pg_get_viewdef('pg_temp." ~ probe ~ "'::regclass) = pg_get_viewdef('" ~ view.render() ~ "'::regclass)"
    ) -%}
    {%- do run_query('drop view pg_temp.' ~ probe) -%}
    {{ return(compared.columns[0].values()[0]) }}
{% endmacro %}


{#
    Take the lock on a view that a swap needs, with patience of a tenth of a second, again and again for two minutes:
    a slow reader delays the swap, but never the readers that would queue behind it. Raises lock_not_available.
#}
{% macro lock_view(view) %}
    {%- call statement('lock_view') %}
        do $$
        begin
            set local lock_timeout = '100ms';
            for attempt in 1..240 loop
                begin
                    -- changes nothing, and locks the view alone: `lock table` would lock its tables too
                    alter view {{ view }} reset (check_option);
                    set local lock_timeout = 0;
                    return;
                exception
                    when lock_not_available then
                        if attempt = 240 then
                            raise;
                        end if;
                        perform pg_sleep(0.4);
                end;
            end loop;
        end
        $$
    {%- endcall %}
{% endmacro %}
