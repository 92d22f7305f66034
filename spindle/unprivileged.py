"""Run services without root's rights: `python -m spindle.unprivileged [options] -- command args…`.

PostgreSQL refuses to run as root, and nothing else here needs root either. Started by root, a service runs as another
user. Where that user cannot reach the files (a checkout in /root, say), it runs in a user namespace instead: there it
is that user by name, while outside it stays root without root's rights, so the files stay reachable.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spindle.errors import MachineNotReady

if TYPE_CHECKING:
    from spindle.settings import Settings

PACKAGE_PARENT = Path(__file__).resolve().parent.parent
SERVICE_USERS = ("postgres", "nobody")
DEATH_SIGNALS = {"INT": signal.SIGINT, "TERM": signal.SIGTERM}
# The user id the kernel shows for any user a namespace does not know: in there it must never be one that is trusted.
OVERFLOW_UID = 65534
CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ServiceUser:
    """Whom the services run as when root starts them."""

    name: str
    uid: int
    gid: int
    namespaced: bool = False

    @property
    def owner(self) -> tuple[int, int]:
        """Who must own the services' files, seen from outside: in a namespace that is still root."""
        return (0, 0) if self.namespaced else (self.uid, self.gid)


def service_user(settings: Settings) -> ServiceUser | None:
    """Whom to run the services as, found out by trying; None when the caller is an ordinary user anyway."""
    if os.geteuid() != 0:
        return None
    folders = _needed_folders(settings)
    candidates = [*_accounts(SERVICE_USERS), _owner_of(settings.root)]
    for user in candidates:
        if user is not None and _reaches(user, folders):
            return user
    namespaced = _namespace_account()
    if namespaced is not None and _reaches_namespaced(namespaced, folders):
        return namespaced
    raise MachineNotReady(
        f"PostgreSQL refuses to run as root, and no other user can reach {settings.root}",
        "run this as an ordinary user, or move the checkout to a folder that every user can enter (chmod a+rx)",
    )


def service_user_name(settings: Settings) -> str:
    """The system user the services run as."""
    user = service_user(settings)
    return user.name if user else current_user_name()


def current_user_name() -> str:
    """The system user who runs this."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:
        raise MachineNotReady(
            f"user id {os.geteuid()} has no name on this computer, and PostgreSQL needs one",
            "run this as a user that is in /etc/passwd",
        ) from error


def launcher(user: ServiceUser | None, *options: str) -> list[str]:
    """The start of a command that runs the rest of it without root's rights."""
    prefix = [sys.executable, "-m", "spindle.unprivileged", *options]
    if user is not None:
        prefix += ["--user", user.name, *(["--namespace"] if user.namespaced else [])]
    return [*prefix, "--"]


def clean_environment() -> dict[str, str]:
    """What the services get to see: no passwords of .env, no PG* and no PGRST_* that would override their files."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
    return kept | {"PYTHONPATH": str(PACKAGE_PARENT), "TZ": "UTC"}


def run_unprivileged(
    settings: Settings, argv: Sequence[str | Path], cwd: Path | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end as the service user, its output captured, its exit code the caller's to check."""
    command = [*launcher(service_user(settings)), *map(str, argv)]
    return subprocess.run(
        command,
        cwd=cwd or settings.state_dir,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _needed_folders(settings: Settings) -> list[Path]:
    from spindle.tools import binary_folders

    wanted = [settings.state_dir, settings.root / "dashboard", *binary_folders(settings)]
    return [folder for folder in wanted if folder.is_dir()]


def _accounts(names: Sequence[str]) -> list[ServiceUser]:
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return [ServiceUser(name, known[name].pw_uid, known[name].pw_gid) for name in names if name in known]


def _owner_of(path: Path) -> ServiceUser | None:
    """The user whose checkout this is, when root works in somebody else's home."""
    uid = path.stat().st_uid
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    return ServiceUser(entry.pw_name, uid, entry.pw_gid) if uid != 0 else None


def _namespace_account() -> ServiceUser | None:
    """A name for root inside a user namespace: PostgreSQL wants one that exists and is not root."""
    if not sys.platform.startswith("linux"):
        return None
    usable = sorted((e for e in pwd.getpwall() if 0 < e.pw_uid < OVERFLOW_UID), key=lambda e: e.pw_name != "postgres")
    return ServiceUser(usable[0].pw_name, usable[0].pw_uid, usable[0].pw_gid, namespaced=True) if usable else None


def _visit(folders: Sequence[Path]) -> list[str]:
    """A command that succeeds for those who may enter all these folders: `folder/.` needs the right to pass."""
    return [shutil.which("ls") or "/bin/ls", "-d", "--", *(f"{folder}/." for folder in folders)]


def _reaches(user: ServiceUser, folders: Sequence[Path]) -> bool:
    # Asked of the kernel, as that user: ACLs, symbolic links and mount options count too.
    quiet = subprocess.DEVNULL
    identity: dict[str, Any] = {"user": user.uid, "group": user.gid, "extra_groups": []}
    try:
        done = subprocess.run(_visit(folders), **identity, cwd="/", stdout=quiet, stderr=quiet, check=False)
    except (OSError, subprocess.SubprocessError):
        # A container may know no other user than root.
        return False
    return done.returncode == 0


def _reaches_namespaced(user: ServiceUser, folders: Sequence[Path]) -> bool:
    command = [*launcher(user), *_visit(folders)]
    done = subprocess.run(command, cwd="/", env=clean_environment(), capture_output=True, check=False)
    return done.returncode == 0


def drop_rights(user: str | None, namespaced: bool) -> None:
    """What the launcher does, for a service that is Python: it goes on in the one that root could reach."""
    parent = os.getppid()
    if user:
        _change_user(user, namespaced)
    _die_with_parent(signal.SIGTERM, parent)


# --- the launcher itself ---------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    """Change user as told, then become the command. Comes back only when that fails."""
    options = _parser().parse_args(argv)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        return _complain("no command given")
    parent = os.getppid()
    try:
        if options.end_leftovers:
            _end_leftovers(command[0])
        if options.remove_socket:
            options.remove_socket.unlink(missing_ok=True)
        if options.user:
            _change_user(options.user, options.namespace)
        if options.death_signal:
            _die_with_parent(DEATH_SIGNALS[options.death_signal], parent)
        os.execv(command[0], command)
    except (OSError, KeyError) as error:
        return _complain(f"cannot run {command[0]}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m spindle.unprivileged", description=__doc__)
    parser.add_argument("--user", help="run as this user (only root can)")
    parser.add_argument("--namespace", action="store_true", help="only be called that user, in a user namespace")
    parser.add_argument("--death-signal", choices=sorted(DEATH_SIGNALS), help="get this signal when the parent dies")
    parser.add_argument(
        "--end-leftovers",
        action="store_true",
        help="first end processes of the same binary in the same folder, left by a crash",
    )
    parser.add_argument("--remove-socket", type=Path, help="first remove this socket, left by a crash: nginx would not")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser


def _complain(what: str) -> int:
    print(f"spindle.unprivileged: {what}", file=sys.stderr)
    return 127


def _change_user(name: str, namespaced: bool) -> None:
    entry = pwd.getpwnam(name)
    if namespaced:
        _enter_namespace(entry.pw_uid, entry.pw_gid)
        return
    for stream in (1, 2):
        # Services open /dev/stdout by name, and that asks who owns the pipe.
        if stat.S_ISFIFO(os.fstat(stream).st_mode):
            os.fchown(stream, entry.pw_uid, entry.pw_gid)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def _enter_namespace(uid: int, gid: int) -> None:
    outside_uid, outside_gid = os.geteuid(), os.getegid()
    _system_call("unshare", CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{uid} {outside_uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{gid} {outside_gid} 1", encoding="ascii")


def _die_with_parent(death_signal: int, parent: int) -> None:
    """Without a supervisor nobody would restart or stop the service: let it end too. Linux only."""
    if not sys.platform.startswith("linux"):
        return
    # After the change of user, which would clear it; it stays over exec.
    _system_call("prctl", PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != parent:
        raise OSError(errno.ESRCH, "the parent process has ended")


def _system_call(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*map(ctypes.c_ulong, arguments)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _end_leftovers(binary: str) -> None:
    """nginx's workers outlive a killed master and keep its port, so that the next one could not start."""
    import psutil

    here, wanted = os.getcwd(), os.path.realpath(binary)
    leftovers = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.exe() == wanted and process.cwd() == here:
                process.kill()
                leftovers.append(process)
        except psutil.Error:
            continue
    psutil.wait_procs(leftovers, timeout=5)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
