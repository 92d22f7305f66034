"""What /docs and /lineage show, written to the state folder, from where nginx serves it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from spindle import database, describe, gateway, transform
from spindle.settings import Settings
from spindle.state_files import own, write_private, writing
from spindle.unprivileged import service_user

# What the lineage page is made of.
PROJECT = ("models", "api_views", "macros", "seeds", "dbt_project.yml")

# dbt's page asks for addresses that its own placeholders make: hundreds of errors in a browser's console.
MENDED = (
    ('xlink:href="{{', 'ng-attr-xlink:href="{{'),
    ("""href="${require('./assets/favicons/favicon.ico')}\"""", 'href="/icon.svg"'),
    ("<title>dbt Docs</title>", "<title>Spindle: lineage</title>"),
)


def publish_descriptions(settings: Settings) -> None:
    """Write the OpenAPI descriptions, with examples of days that have results.

    Where there is a login the examples are neutral: /docs needs no token.
    """
    samples = describe.NEUTRAL
    if not settings.access.login:
        with database.results(settings) as connection:
            samples = describe.find_samples(connection, settings.default_machine)
    for name, document in {
        "openapi.json": describe.describe(settings.root, samples),
        "old-dialect.json": describe.describe_old(settings.root, samples),
    }.items():
        _write(settings, name, json.dumps(document, ensure_ascii=False))


def publish_lineage(settings: Settings) -> bool:
    """Let dbt write its documentation as one page, if the project changed since it did. Tells whether there is one."""
    page = gateway.pages_dir(settings) / "lineage.html"
    if page.exists() and page.stat().st_mtime > max(path.stat().st_mtime for path in _project_files(settings.root)):
        return True
    parsed, target = (settings.state_dir / "dbt" / name for name in ("target", "docs"))
    arguments = ["docs", "generate", "--static", "--target-path", str(target)]
    # Tests are named on the page, not compiled for it. A refresh has parsed the project: that saves seconds.
    arguments += ["--select", *(f"resource_type:{kind}" for kind in ("source", "seed", "model"))]
    arguments += ["--partial-parse-file-path", str(parsed / "partial_parse.msgpack")]
    if transform.run_any(settings, ["--log-level", "none", *arguments]) != 0:
        return False
    text = (target / "static_index.html").read_text(encoding="utf-8")
    for broken, mended in MENDED:
        text = text.replace(broken, mended)
    _write(settings, page.name, text)
    return True


def _project_files(root: Path) -> Iterator[Path]:
    for name in PROJECT:
        path = root / name
        yield path
        yield from path.rglob("*")


def _write(settings: Settings, name: str, text: str) -> None:
    folder, user = gateway.pages_dir(settings), service_user(settings)
    with writing(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        own(folder, user)
    write_private(folder / name, text, user)
