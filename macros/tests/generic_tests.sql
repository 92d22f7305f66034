{# Data test on a model: no two rows share the values of `key` (list of columns), and none of them is NULL. #}
{% test unique_rows(model, key) %}
    select
        {{ key | join(', ') }},
        count(*) as times
    from {{ model }}
    group by {{ key | join(', ') }}
    having count(*) > 1 or {{ key | join(' is null or ') }} is null
{% endtest %}


{# Data test on a model: `condition` (SQL over the columns) holds in every row. #}
{% test holds(model, condition) %}
    select * from {{ model }} where not coalesce({{ condition }}, false)
{% endtest %}


{# Data test on a column: values that are not NULL lie within minimum and maximum, both included. #}
{% test within(model, column_name, minimum=none, maximum=none) %}
    select *
    from {{ model }}
    where
        false
        {%- if minimum is not none %}
        or {{ column_name }} < {{ minimum }}
        {%- endif %}
        {%- if maximum is not none %}
        or {{ column_name }} > {{ maximum }}
        {%- endif %}
{% endtest %}
