{{ config(
    meta={'replaces': 'machine'},
    indexes=[{'columns': ['machine'], 'unique': true}],
) }}

with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

machine_config as (

    select * from {{ ref('machine_config') }}

),

{% set records = {
    'sensor_records': ref('sensor_stats'),
    'utilization_records': ref('activity'),
    'change_records': ref('state_changes'),
    'program_records': ref('program_time'),
    'energy_records': ref('energy'),
    'alert_records': ref('alerts'),
} -%}
{% for name, relation in records.items() -%}
count_{{ name }} as (

    select
        machine,
        count(*) as {{ name }},
        min(day) as first_day,
        max(day) as last_day
    from {{ relation }}
    group by machine

),

{% endfor -%}
count_skipped_lists as (

    select
        machine,
        sum(skipped_lists)::bigint as skipped_lists
    from {{ ref('skipped_lists_per_day') }}
    group by machine

)

select
    refresh_window.machine,
    machine_config.label,
    refresh_window.time_zone,
    least(
        {%- for name in records %}
        count_{{ name }}.first_day{{ ',' if not loop.last }}
        {%- endfor %}
    ) as first_day,
    greatest(
        {%- for name in records %}
        count_{{ name }}.last_day{{ ',' if not loop.last }}
        {%- endfor %}
    ) as last_day,
    {{ moment('refresh_window.cut_ms') }} as data_until,
    {% for name in records -%}
    coalesce(count_{{ name }}.{{ name }}, 0) as {{ name }},
    {% endfor -%}
    coalesce(count_skipped_lists.skipped_lists, 0) as skipped_lists
from refresh_window
inner join machine_config on refresh_window.machine = machine_config.machine
{% for name in records -%}
left join count_{{ name }} on refresh_window.machine = count_{{ name }}.machine
{% endfor -%}
left join count_skipped_lists on refresh_window.machine = count_skipped_lists.machine
