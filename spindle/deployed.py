"""Whether the results database has everything that is not rows of results just as the dbt project makes it.

A run then need not load and test the seeds or look at each view again, which is most of its time. Both sides are
digests: of the project's files, and of what the catalogue says of our relations and of the rows of the seeds. So a
view, a grant, a comment or a seed's row that somebody changed by hand is put right by the next run, as ever.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

import psycopg
from psycopg import sql

from spindle.database import SCHEMAS

FOLDERS = ("models", "api_views", "macros", "seeds", "dbt_packages")
# what makes relations of the files
PACKAGES = ("dbt-core", "dbt-adapters", "dbt-postgres")

# One text a fact: each relation with owner, rights and definition, its columns, comments, keys and indexes.
CATALOGUE = """
with relations as (
    select * from pg_class where relnamespace = any(%(schemas)s::regnamespace[]) and relkind in ('r', 'v')
),
facts as (
    select format(
        '%%s %%s %%s %%s %%s %%s %%s', oid::regclass, relkind, relpersistence, relowner::regrole, relacl, reloptions,
        case relkind when 'v' then pg_get_viewdef(oid) end
    ) as fact
    from relations
    union all
    select format(
        '%%s %%s %%s %%s %%s %%s', attrelid::regclass, attnum, attname, format_type(atttypid, atttypmod), attnotnull,
        attacl
    )
    from pg_attribute
    where attrelid in (select oid from relations) and attnum > 0 and not attisdropped
    union all
    select format('%%s %%s %%s', objoid::regclass, objsubid, description)
    from pg_description
    where classoid = 'pg_class'::regclass and objoid in (select oid from relations)
    union all
    select format('%%s %%s', conrelid::regclass, pg_get_constraintdef(oid))
    from pg_constraint
    where conrelid in (select oid from relations)
    union all
    select pg_get_indexdef(indexrelid) from pg_index where indrelid in (select oid from relations)
)
select md5(string_agg(fact, E'\\n' order by fact)) from facts
"""


def is_deployed(connection: psycopg.Connection, root: Path) -> bool:
    """Whether the project at `root` was deployed last, and all it made is still so."""
    row = connection.execute("select obj_description(to_regnamespace('staging'), 'pg_namespace')").fetchone()
    return row is not None and row[0] == _mark(connection, root)


def mark_deployed(connection: psycopg.Connection, root: Path) -> None:
    """Say that the project at `root` has just been deployed; the mark stands as the comment of the schema staging."""
    mark = sql.Literal(_mark(connection, root))
    connection.execute(sql.SQL("comment on schema staging is {}").format(mark))


def _mark(connection: psycopg.Connection, root: Path) -> str:
    files = sorted(file for folder in FOLDERS for file in (root / folder).rglob("*") if file.is_file())
    project = hashlib.sha256(" ".join(f"{package} {version(package)}" for package in PACKAGES).encode())
    for file in [*sorted(root.glob("*.yml")), *files]:
        project.update(f"{file.relative_to(root)} {file.stat().st_size} ".encode() + file.read_bytes())
    return f"deployed: project {project.hexdigest()[:16]}, database {_digest(connection, root)[:16]}"


def _digest(connection: psycopg.Connection, root: Path) -> str:
    """What the database has: the catalogue, in which a missing seed is missing too, and the rows of the seeds."""
    digests = connection.execute(CATALOGUE, {"schemas": list(SCHEMAS)}).fetchall()
    names = sorted(file.stem for file in (root / "seeds").glob("*.csv"))
    seeds = "select relname from pg_class where relnamespace = 'staging'::regnamespace and relname = any(%s) order by 1"
    for (seed,) in connection.execute(seeds, (names,)).fetchall():
        rows = "select md5(string_agg(seed::text, E'\\n' order by seed::text)) from {} as seed"
        digests += connection.execute(sql.SQL(rows).format(sql.Identifier("staging", seed))).fetchall()
    return hashlib.sha256(repr(digests).encode()).hexdigest()
