"""Removes the results of a machine that is gone."""

from __future__ import annotations

from psycopg import sql

from spindle import cache, database
from spindle.errors import SettingsError
from spindle.runs import only_one
from spindle.settings import Settings


def forget(settings: Settings, machine: str) -> int:
    """Delete all rows of the machine in agg, in one transaction; the record of runs stays. Returns how many.

    Raises SettingsError when the machine has a source, as the next refresh would compute it again, or no results.
    """
    if machine in settings.machines:
        raise SettingsError(
            f"{machine} still has a source", "take its row out of seeds/machine_config.csv, or DB_* out of .env, first"
        )
    with database.results(settings) as connection, only_one(connection), connection.transaction():
        tables = connection.execute(
            "select relname from pg_class inner join pg_attribute on attrelid = pg_class.oid and attname = 'machine'"
            " where relkind = 'r' and relnamespace = 'agg'::regnamespace and relname <> 'refresh_cuts'"
        ).fetchall()
        rows = 0
        for (table,) in tables:
            statement = sql.SQL("delete from {} where machine = %s").format(sql.Identifier("agg", table))
            rows += connection.execute(statement, (machine,)).rowcount
        if not rows:
            known = connection.execute("select machine from agg.machine_summary order by machine").fetchall()
            raise SettingsError(
                f"there are no results of a machine {machine}", f"known: {', '.join(name for (name,) in known)}"
            )
        # what its runs did is gone too: were it to come back, all its days would have to be computed
        connection.execute("delete from agg.refresh_cuts where machine = %s", (machine,))
        connection.execute("select gateway.end_change()")
    cache.refresh_cache(settings)
    return rows
