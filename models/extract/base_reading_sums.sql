with refresh_window as (

    select * from {{ ref('refresh_window') }}

),

signals as (

    select * from {{ ref('base_signals') }} where role = 'temperature'

)

select
    refresh_window.machine,
    signals.id_var,
    sums.first_ms,
    sums.readings_count,
    sums.min_value,
    sums.max_value,
    sums.sum_value,
    sums.sum_squares
from refresh_window
inner join signals on refresh_window.machine = signals.machine
cross join lateral raw.read_sums(
    refresh_window.machine, signals.id_var, refresh_window.from_ms, refresh_window.last_ms,
    $${{ is_reading('value') }}$$, {{ quarter_ms() }}
) as sums
