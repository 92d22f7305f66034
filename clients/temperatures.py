"""Temperatures of a machine as a pandas table: python clients/temperatures.py [machine]. SPINDLE_URL: the gateway."""

import json
import os
import sys
from collections.abc import Iterator
from urllib.parse import urlencode
from urllib.request import urlopen

import pandas as pd

API = os.environ.get("SPINDLE_URL", "http://127.0.0.1:8000") + "/api/v1"


def read(view: str, **filters: str) -> pd.DataFrame:
    """The rows of a view that meet the filters, such as `day="eq.2021-09-14"`. Times are text: see `main`."""
    with urlopen(f"{API}/{view}?{urlencode(filters)}") as answer:
        return pd.DataFrame(json.load(answer))


def read_pages(view: str, machine: str, key: str, rows: int = 1000) -> Iterator[pd.DataFrame]:
    """All rows of one machine, page by page. `key` has another value in each row of the machine, such as `ts`."""
    after: dict[str, str] = {}
    while True:
        page = read(view, machine=f"eq.{machine}", order=key, limit=str(rows), **after)
        if not page.empty:
            yield page
        if len(page) < rows:
            return
        after = {key: f"gt.{page[key].iloc[-1]}"}


def main() -> None:
    machine = sys.argv[1] if len(sys.argv) > 1 else "branosera"
    last_day = read("machines", machine=f"eq.{machine}")["last_day"].iloc[0]
    hours = read("temperatures", machine=f"eq.{machine}", day=f"eq.{last_day}", order="dt,sensor_name")
    hours["dt"] = pd.to_datetime(hours["dt"])  # local time of the machine; ts and started_at have an offset: utc=True
    print(hours.pivot_table(index="dt", columns="sensor_name", values="avg_value"))

    changes = pd.concat(read_pages("machine_changes", machine, "ts"))
    print(changes["state"].value_counts())


if __name__ == "__main__":
    main()
