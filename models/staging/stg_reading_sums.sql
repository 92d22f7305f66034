with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

signals as (

    select * from {{ ref('base_signals') }}

),

reading_sums as (

    select * from {{ ref('base_reading_sums') }}

)

select
    refresh_window.machine,
    signals.variable as sensor_name,
    signals.divisor,
    refresh_window.time_zone,
    reading_sums.first_ms,
    reading_sums.readings_count,
    reading_sums.min_value,
    reading_sums.max_value,
    reading_sums.sum_value,
    reading_sums.sum_squares
from refresh_window
inner join reading_sums on refresh_window.machine = reading_sums.machine
inner join signals
    on
        reading_sums.machine = signals.machine
        and reading_sums.id_var = signals.id_var
