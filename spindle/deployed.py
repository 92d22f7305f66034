"""Whether the results database has everything that is not rows of results just as the dbt project makes it.

A run then need not load and test the seeds or look at each view again, which is most of its time. What stands for it is
a mark of three digests: of the project as dbt read it, of the seeds' rows, and of what the catalogue says of our
relations. So a view, a right or a seed's row that somebody changed by hand is put right by the next run, as ever.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from spindle.database import SCHEMAS

# What dbt makes once and then keeps. A table it makes anew at every run, and so it must the views on it.
KEPT = {"incremental", "extracted", "view", "ephemeral", "seed"}
# What a model's text may come out differently by, though no file has changed.
CHANGING = re.compile(r"\b(env_var|run_query|call statement|run_started_at|invocation_id|modules\.)")

# One text a fact: each relation with owner, rights and definition, its columns, comments, keys and indexes.
CATALOGUE = """
with relations as (
    select pg_class.*
    from pg_class inner join pg_namespace on relnamespace = pg_namespace.oid
    where nspname = any(%s) and relkind in ('r', 'v')
),
facts as (
    select concat_ws(
        ' ', oid::regclass, relkind, relpersistence, relowner::regrole, relacl::text, reloptions::text,
        case relkind when 'v' then pg_get_viewdef(oid) end
    ) as fact
    from relations
    union all
    select concat_ws(
        ' ', attrelid::regclass, attnum, attname, format_type(atttypid, atttypmod), attnotnull, attacl::text
    )
    from pg_attribute
    where attrelid in (select oid from relations) and attnum > 0 and not attisdropped
    union all
    select concat_ws(' ', objoid::regclass, objsubid, description)
    from pg_description
    where classoid = 'pg_class'::regclass and objoid in (select oid from relations)
    union all
    select concat_ws(' ', conrelid::regclass, pg_get_constraintdef(oid))
    from pg_constraint
    where conrelid in (select oid from relations)
    union all
    select pg_get_indexdef(indexrelid) from pg_index where indrelid in (select oid from relations)
)
select md5(string_agg(fact, E'\\n' order by fact)) from facts
"""


class Deployment:
    """What a dbt project makes once, and whether the database has it. `manifest` is dbt's, of the project at `root`."""

    def __init__(self, connection: psycopg.Connection, root: Path, manifest: Any, suffix: str = "") -> None:
        self.connection = connection
        seeds = [node for node in manifest.nodes.values() if node.resource_type == "seed"]
        models = [node for node in manifest.nodes.values() if node.resource_type == "model"]
        self.seeds = sorted((seed.schema, seed.alias) for seed in seeds)
        # of what dbt did read, whatever is in the files when the mark is written
        files = [root / "dbt_project.yml", *sorted(root / seed.original_file_path for seed in seeds)]
        read = sorted((name, file.checksum.checksum) for name, file in manifest.files.items())
        self.project = _digest([*read, *((file.name, file.read_bytes()) for file in files)])
        self.seeded = ""
        schemas = {schema + suffix for schema in SCHEMAS}
        self.keeps_all = all(
            node.config.materialized in KEPT and node.schema in schemas and not CHANGING.search(_text(node, manifest))
            for node in [*seeds, *models]
        )

    def is_current(self) -> bool:
        """Whether this project was deployed last, and all it made is still so."""
        row = self.connection.execute("select obj_description(to_regnamespace('staging'), 'pg_namespace')").fetchone()
        if not (self.keeps_all and row and row[0]):
            return False
        self.note_seeds()
        return bool(row[0] == self._mark())

    def note_seeds(self) -> None:
        """The seeds' rows are right now. One that is missing, the catalogue lacks too."""
        digests = []
        for schema, name in self.seeds:
            rows = sql.SQL("select md5(string_agg(seed::text, E'\\n' order by seed::text)) from {} as seed")
            with suppress(psycopg.errors.UndefinedTable), self.connection.transaction():
                digests += self.connection.execute(rows.format(sql.Identifier(schema, name))).fetchall()
        self.seeded = _digest(digests)

    def mark(self) -> None:
        """Say that all of this has just been made, as the comment of the schema staging.

        Without the right to do so, as where somebody else owns it, the next run makes all again.
        """
        with suppress(psycopg.Error):
            comment = sql.Literal(self._mark())
            self.connection.execute(sql.SQL("comment on schema staging is {}").format(comment))

    def _mark(self) -> str:
        catalogue = _digest(self.connection.execute(CATALOGUE, (list(SCHEMAS),)).fetchall())
        return f"Spindle deployed: project {self.project}, seeds {self.seeded}, relations {catalogue}"


def _text(node: Any, manifest: Any) -> str:
    """A model with its own hooks and the macros that it calls itself."""
    macros = [manifest.macros[name] for name in node.depends_on.macros if name in manifest.macros]
    hooks = [*(node.config.pre_hook or []), *(node.config.post_hook or [])]
    own = [macro.macro_sql for macro in macros if not macro.package_name.startswith("dbt")]
    return "\n".join([node.raw_code, *own, *(hook.sql for hook in hooks)])


def _digest(parts: Iterable[object]) -> str:
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()[:16]
