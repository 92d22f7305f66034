"""Passwords that Spindle makes itself: kept in one file of the state folder that only its owner reads."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from spindle.errors import MachineNotReady
from spindle.settings import Settings


def with_secrets(settings: Settings) -> Settings:
    """The settings with the passwords of `authenticator` and, for the demo plant, of its reader filled in."""
    path = _file(settings)
    with _usable(path):
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
    return with_known_secrets(settings)


def with_known_secrets(settings: Settings) -> Settings:
    """The same where they were made before; makes none."""
    path = _file(settings)
    with _usable(path):
        if not path.exists():
            return settings
        made: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    production = settings.production
    if settings.demo_plant:
        production = {name: replace(source, password=made["plant_reader"]) for name, source in production.items()}
    return replace(
        settings,
        production=production,
        authenticator_password=settings.authenticator_password or made["authenticator"],
    )


def _file(settings: Settings) -> Path:
    return settings.state_dir / "secrets.json"


def _make(path: Path) -> None:
    made = {name: secrets.token_urlsafe(24) for name in ("authenticator", "plant_reader")}
    draft = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(made, file)
    with suppress(FileExistsError):
        os.link(draft, path)  # the first of two commands that start together wins
    draft.unlink()


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise MachineNotReady(
            f"{path} cannot be written or read: {error}", "check permissions and free disk space of STATE_DIR"
        ) from error
