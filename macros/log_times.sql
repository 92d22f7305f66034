{#
    Log times are bigint milliseconds since 1970 UTC. Days and hours are a machine's local ones.
    Arguments named *_ms are such times; time_zone is an IANA name, as text.
#}

{# The moment of a log time, timestamptz, exact to the millisecond. #}
{% macro moment(logged_ms) -%}
    (timestamptz 'epoch' + ({{ logged_ms }}) * interval '1 millisecond')
{%- endmacro %}

{# The local time of a log time, timestamp. #}
{% macro local_time(logged_ms, time_zone) -%}
    ({{ moment(logged_ms) }} at time zone {{ time_zone }})
{%- endmacro %}

{# The local day of a log time, date. #}
{% macro local_day(logged_ms, time_zone) -%}
    {{ local_time(logged_ms, time_zone) }}::date
{%- endmacro %}

{# The log time at which a local day begins, bigint; right for days of 23 and 25 hours. #}
{% macro day_start_ms(day, time_zone) -%}
    {%- set midnight = '(' ~ day ~ ')::timestamp' -%}
    {%- set moment = midnight ~ ' at time zone ' ~ time_zone -%}
    {#- where clocks are put back at midnight it comes twice, and PostgreSQL takes the second one -#}
    (
        extract(epoch from
            case
                when (({{ moment }}) - interval '1 hour') at time zone {{ time_zone }} = {{ midnight }}
                    then ({{ moment }}) - interval '1 hour'
                else {{ moment }}
            end
        ) * 1000
    )::bigint
{%- endmacro %}

{# The log time at which the local hour of a log time begins, bigint. On a day of 25 hours the repeated hour is two. #}
{% macro hour_start_ms(logged_ms, time_zone) -%}
    (extract(epoch from date_trunc('hour', {{ moment(logged_ms) }}, {{ time_zone }})) * 1000)::bigint
{%- endmacro %}

{# Seconds between two log times, numeric. #}
{% macro seconds_between(start_ms, end_ms) -%}
    (({{ end_ms }}) - ({{ start_ms }})) / 1000.0
{%- endmacro %}

{# Milliseconds of an hour. #}
{% macro hour_ms() -%}
    3600000
{%- endmacro %}

{# Milliseconds of 31 days. #}
{% macro month_ms() -%}
    2678400000
{%- endmacro %}

{# Milliseconds of a quarter of an hour: every time zone's hours and days begin at one, as UTC counts them. #}
{% macro quarter_ms() -%}
    900000
{%- endmacro %}
