"""The embedded PostgreSQL: its cluster in the state folder, made once, configured again at every start."""

from __future__ import annotations

import shutil
from pathlib import Path

from spindle import tools
from spindle.errors import MachineNotReady
from spindle.settings import Settings, socket_dir
from spindle.state_files import own, prepare_state_dir, state_lock, write_private, writing
from spindle.unprivileged import (
    ServiceUser,
    current_user_name,
    run_unprivileged,
    service_user,
    service_user_name,
)

SUPERUSER = "spindle_admin"
SPARE_BYTES = 300 * 1024**2
# Parallel queries share memory; the 64 MB that containers get by default is too little for them.
ENOUGH_SHARED_MEMORY = 1024**3

PARAMETERS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "work_mem": "32MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}

ACCESS_RULES = """\
# Written by Spindle at every start. Only the unix socket; PostgREST and the foreign tables log in by password.
local  all  authenticator  scram-sha-256
local  all  plant_reader   scram-sha-256
local  all  all            peer map=spindle
"""


def ensure_cluster(settings: Settings) -> None:
    """Make the cluster if there is none, and write its configuration for this place and these users.

    Raises MachineNotReady when the disk, a permission or another PostgreSQL's files stand in the way.
    """
    prepare_state_dir(settings)
    user = service_user(settings)
    cluster = cluster_dir(settings)
    with state_lock(settings):
        if not has_cluster(settings):
            _make_cluster(settings, cluster, user)
        _check_version(cluster)
        with writing(cluster):
            own(cluster, user)
        _configure(settings, cluster, user)


def cluster_dir(settings: Settings) -> Path:
    return settings.state_dir / "postgres"


def has_cluster(settings: Settings) -> bool:
    """Whether one was made, and whole."""
    cluster = cluster_dir(settings)
    return (cluster / "PG_VERSION").is_file() and (cluster / "global" / "pg_control").is_file()


def server_command(settings: Settings) -> list[str]:
    """The command that is the server."""
    return [str(tools.postgres_binary("postgres")), "-D", str(cluster_dir(settings))]


def _make_cluster(settings: Settings, cluster: Path, user: ServiceUser | None) -> None:
    # Made aside and renamed when whole, so that a crash or a full disk never leaves half a cluster in its place.
    aside = cluster.with_name("postgres.new")
    with writing(aside):
        _check_space(settings.state_dir)
        for half_made in (aside, cluster):
            if half_made.exists():
                shutil.rmtree(half_made)
        aside.mkdir(mode=0o700)
        own(aside, user)
    done = run_unprivileged(
        settings,
        [
            tools.postgres_binary("initdb"),
            f"--pgdata={aside}",
            f"--username={SUPERUSER}",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--auth-local=peer",
            "--auth-host=reject",
            "--no-instructions",
        ],
        timeout=300,
    )
    if done.returncode != 0:
        last = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise MachineNotReady(
            f"initdb could not make the embedded database in {aside}:\n  {last}",
            "free some space on that disk"
            if "No space left" in last
            else "nothing of it was kept: mend that, try again",
        )
    with writing(cluster):
        with (aside / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write("\ninclude 'spindle.conf'  # rewritten at every start\n")
        aside.rename(cluster)


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < SPARE_BYTES:
        raise MachineNotReady(
            f"only {free // 1024**2} MB are free in {folder}, the embedded database needs {SPARE_BYTES // 1024**2} MB",
            "free some space, or set STATE_DIR to a folder on another disk",
        )


def _check_version(cluster: Path) -> None:
    with writing(cluster):
        made_by = (cluster / "PG_VERSION").read_text(encoding="ascii").strip()
    ours = tools.postgres_major()
    if made_by != ours:
        raise MachineNotReady(
            f"the embedded database in {cluster} was made by PostgreSQL {made_by}, this is {ours}",
            "`make clean` removes it; a new one is made and filled again",
        )


def _configure(settings: Settings, cluster: Path, user: ServiceUser | None) -> None:
    parameters = PARAMETERS | {"unix_socket_directories": f'"{socket_dir(settings.state_dir)}"'}
    if not _has_shared_memory():
        parameters["dynamic_shared_memory_type"] = "mmap"
    lines = [f"{name} = {_quoted(value)}" for name, value in parameters.items()]
    names = sorted({current_user_name(), service_user_name(settings)})
    write_private(cluster / "spindle.conf", "# Written by Spindle at every start.\n" + "\n".join(lines) + "\n", user)
    write_private(cluster / "pg_hba.conf", ACCESS_RULES, user)
    write_private(cluster / "pg_ident.conf", "".join(f'spindle  "{name}"  all\n' for name in names), user)


def _quoted(value: str) -> str:
    doubled = value.replace("'", "''")
    return f"'{doubled}'"


def _has_shared_memory() -> bool:
    try:
        return shutil.disk_usage("/dev/shm").total >= ENOUGH_SHARED_MEMORY
    except OSError:
        return True
