"""What a machine's run refuses, so that results are neither lost nor mixed. Each raises RefreshFailed.

They look at what the run is about to do, in the transaction that extracts the machine, so that one machine's trouble
stops no other.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg

from spindle import database
from spindle.errors import RefreshFailed
from spindle.extract import Check


def make_check(*, has_results: bool, accept_loss: bool, accept_time_zone: bool = False) -> Check | None:
    """The refusals that a run wants; without results there is nothing to lose."""
    if not has_results:
        return None

    def check(connection: psycopg.Connection, machine: str) -> None:
        if not accept_time_zone:
            refuse_new_time_zone(connection, machine)
        refuse_shortened_log(connection, machine, accept_loss=accept_loss)

    return check


def refuse_new_time_zone(connection: psycopg.Connection, machine: str) -> None:
    """Days of two time zones must not be mixed in one machine's results."""
    row = connection.execute(
        "select summary.time_zone, config.time_zone from agg.machine_summary as summary"
        " inner join machine_config as config using (machine) where machine = %s",
        (machine,),
    ).fetchone()
    if row and row[0] != row[1]:
        raise RefreshFailed(
            f"the time zone of {machine} changed from {row[0]} to {row[1]}: its days are others now",
            f"`make rebuild MACHINE={machine}` computes them again; or change seeds/machine_config.csv back",
        )


def refuse_shortened_log(connection: psycopg.Connection, machine: str, *, accept_loss: bool) -> None:
    """A log that ends before the last cut was emptied, or an old dump was loaded: keep the results until told.

    An empty log has no window for a refresh to replace, so there only a rebuild removes the results.
    """
    row = connection.execute(
        "select (extract(epoch from data_until) * 1000)::bigint,"
        " (select max(newest_ms) from base_log_ids where machine = %(machine)s)"
        " from agg.machine_summary where machine = %(machine)s",
        {"machine": machine},
    ).fetchone()
    if row is None:
        return
    cut_ms, newest_ms = row
    if newest_ms is None:
        raise RefreshFailed(
            f"the log of {machine} is empty, but results go up to {_moment(cut_ms)}: rows were lost there",
            "is it the right database? Load the rows again; or, to remove the results:"
            f" `make rebuild MACHINE={machine} ARGS=--yes`",
        )
    if newest_ms < cut_ms and not accept_loss:
        raise RefreshFailed(
            f"the log of {machine} ends at {_moment(newest_ms)}, but results go up to {_moment(cut_ms)}:"
            " rows were lost there",
            "load them again; or, to delete the results after its end: `make refresh ARGS=--yes`",
        )


def has_results(connection: psycopg.Connection) -> bool:
    """Whether a run ever finished computing."""
    row = connection.execute("select to_regclass('agg.machine_summary') is not null").fetchone()
    return bool(row and row[0])


def refuse_dependents(connection: psycopg.Connection) -> None:
    """Views of somebody else on our relations would stay on the old ones of a rebuild, and be dropped with them."""
    rows = connection.execute(
        "select distinct rewriting.ev_class::regclass::text, depended.oid::regclass::text"
        " from pg_depend inner join pg_rewrite as rewriting on pg_depend.objid = rewriting.oid"
        " inner join pg_class as dependent on rewriting.ev_class = dependent.oid"
        " inner join pg_class as depended on pg_depend.refobjid = depended.oid"
        " where pg_depend.classid = 'pg_rewrite'::regclass and pg_depend.refclassid = 'pg_class'::regclass"
        " and depended.relnamespace = any(%(ours)s::regnamespace[])"
        " and not dependent.relnamespace = any(%(ours)s::regnamespace[])",
        {"ours": list(database.SCHEMAS)},
    ).fetchall()
    if rows:
        raise RefreshFailed(
            "views outside Spindle depend on its relations: " + ", ".join(f"{view} on {of}" for view, of in rows),
            "make them in api_views/ or drop them; a rebuild replaces what they stand on",
        )


def _moment(milliseconds: int) -> str:
    moment: Any = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=milliseconds)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
