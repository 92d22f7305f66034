#!/bin/sh
# The API from a shell. SPINDLE_URL names another gateway; the machine is the first argument.
set -eu
api=${SPINDLE_URL:-http://127.0.0.1:8000}/api/v1
machine=${1:-branosera}

# --globoff: brackets and braces are no ranges of curl's. --fail-with-body: a 4xx prints its message and ends with 22.
get() {
    curl --silent --show-error --globoff --fail-with-body "$@"
}

echo "# the newest day"
get "$api/machine_util?machine=eq.$machine&order=dt.desc&limit=1"
echo

echo "# a time has a + in it: let curl encode it"
get --get "$api/machine_changes" --data-urlencode "machine=eq.$machine" --data-urlencode "order=ts" \
    --data-urlencode "ts=gte.2020-01-01T00:00:00+00:00" --data-urlencode "limit=1"
echo

echo "# CSV, by header"
get --header "Accept: text/csv" "$api/sensors?machine=eq.$machine&order=sensor_name&limit=2"
echo

echo "# CSV as a file, named by the gateway"
get --remote-name --remote-header-name "$api/energy_consumption.csv?machine=eq.$machine&order=hour_ts"
wc -l energy_consumption.csv
