{{ config(indexes=[
    {'columns': ['machine', 'hour_started_at'], 'unique': true},
    {'columns': ['machine', 'day']},
]) }}

with load_rows as (

    select * from {{ ref('stg_numbers') }} where role = 'load'

),

find_spans as (

    select
        machine,
        time_zone,
        nominal_kw,
        divisor,
        value,
        greatest(logged_ms, from_ms) as start_ms,
        coalesce(lead(logged_ms) over (partition by machine, variable order by logged_ms), end_ms) as end_ms
    from load_rows

),

keep_power_on as (

    select
        machine,
        time_zone,
        nominal_kw,
        case
            when {{ is_finite('value') }} and value > 0 then {{ as_logged('value') }} / divisor
            else 0
        end as load_percent,
        start_ms,
        end_ms,
        {{ hour_start_ms('start_ms', 'time_zone') }} as hour_start_ms
    from find_spans
    where not {{ is_off('value') }} and end_ms > start_ms

),

split_at_hours as (

    -- Nearly every span lies within one hour; only the others pay for the series.
    select
        machine,
        time_zone,
        nominal_kw,
        load_percent,
        hour_start_ms,
        end_ms - start_ms as duration_ms
    from keep_power_on
    where end_ms <= hour_start_ms + {{ hour_ms() }}

    union all

    select
        spans.machine,
        spans.time_zone,
        spans.nominal_kw,
        spans.load_percent,
        hours.start_ms as hour_start_ms,
        least(spans.end_ms, hours.start_ms + {{ hour_ms() }}) - greatest(spans.start_ms, hours.start_ms) as duration_ms
    from keep_power_on as spans
    cross join lateral generate_series(
        spans.hour_start_ms, spans.end_ms - 1, {{ hour_ms() }}
    ) as hours (start_ms)
    where spans.end_ms > spans.hour_start_ms + {{ hour_ms() }}

),

sum_energy as (

    -- percent x kW x ms, exact; one division to kWh at the end
    select
        machine,
        time_zone,
        hour_start_ms,
        sum(load_percent * nominal_kw * duration_ms) / (100 * {{ hour_ms() }}) as energy_kwh
    from split_at_hours
    group by machine, time_zone, hour_start_ms

)

select
    machine,
    {{ local_day('hour_start_ms', 'time_zone') }} as day,
    {{ local_time('hour_start_ms', 'time_zone') }} as hour_ts,
    {{ moment('hour_start_ms') }} as hour_started_at,
    round(energy_kwh, 3)::double precision as energy_kwh
from sum_energy
