"""Files of the state folder: who owns them, written in one step, by one command at a time, with errors that advise."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spindle.errors import MachineNotReady, ServiceDown
from spindle.settings import Settings, socket_dir
from spindle.unprivileged import ServiceUser

LOCK_PATIENCE_SECONDS = 120
# What nginx, PostgREST and supervisor all read as itself between double quotes.
PLAIN_PATH = re.compile(r"/[\w/ .+@=~()-]*")


def prepare_state_dir(settings: Settings) -> None:
    """Make the state folder: others may pass through it to what is theirs, but not look around."""
    with writing(settings.state_dir):
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        if settings.state_dir.stat().st_uid == os.geteuid():
            settings.state_dir.chmod(0o711)
        settings.logs.mkdir(mode=0o700, exist_ok=True)


def prepare_socket_dir(settings: Settings, user: ServiceUser | None) -> None:
    """Make the folder of the sockets, which only the service user and the caller may enter."""
    folder = socket_dir(settings.state_dir)
    with writing(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        allowed = {os.geteuid(), *(user.owner[:1] if user else ())}
        # In /tmp anybody could have made a folder of that name first; in the state folder only its owner.
        foreign = found.st_uid not in allowed and folder.parent != settings.state_dir
        if foreign or not stat.S_ISDIR(found.st_mode):
            raise MachineNotReady(f"{folder} belongs to somebody else", "remove it, or set another STATE_DIR")
        own(folder, user)
        # By the open folder: in /tmp its owner may put a link in its place at any moment.
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        os.fchmod(opened, 0o700)
        os.close(opened)


@contextmanager
def state_lock(settings: Settings) -> Iterator[None]:
    """Let one command at a time make, start or stop what is in the state folder. It must exist."""
    with writing(settings.state_dir / "lock"):
        file = (settings.state_dir / "lock").open("a")
    with file:
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ServiceDown(
                        f"another command has been starting or stopping services for {LOCK_PATIENCE_SECONDS} s",
                        f"wait for it, or end it; it holds {settings.state_dir / 'lock'}",
                    ) from error
            time.sleep(0.1)
        yield


def own(path: Path, user: ServiceUser | None) -> None:
    """Give a folder and all in it to the service user. Quick when it already is.

    Raises MachineNotReady for a symbolic link: the service user could have made one to a folder that is not its own.
    """
    if os.geteuid() != 0:
        return
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise MachineNotReady(
            f"{path} is a symbolic link, and root does not follow one that somebody else could have made",
            "remove it and run it again; for another disk, set STATE_DIR to a folder there",
        )
    uid, gid = user.owner if user else (0, 0)
    if found.st_uid == uid:
        return
    # By open folders, not by names: whoever owns a folder could put a link in its place meanwhile.
    for _, folders, files, opened in os.fwalk(path):
        for name in [*folders, *files]:
            os.chown(name, uid, gid, dir_fd=opened, follow_symlinks=False)
    # The folder itself last: if this is interrupted, the next start sees the old owner and does it again.
    os.chown(path, uid, gid, follow_symlinks=False)


def write_private(path: Path, text: str, user: ServiceUser | None = None) -> bool:
    """Write a file that only its reader may read, in one step. Tells whether it changed."""
    with writing(path):
        if path.exists() and path.read_text(encoding="utf-8") == text and _owned_by(path, user):
            return False
        aside = path.with_name(f"{path.name}.new")
        aside.unlink(missing_ok=True)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            if user is not None:
                os.fchown(file.fileno(), *user.owner)
        aside.replace(path)
    return True


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what can go wrong while files are written into an error that says what to do."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineNotReady(
                f"the disk is full: cannot write {where}", "free some space and run it again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise MachineNotReady(
                f"no permission to write {where}",
                "it may belong to another user: run this as that user, or set STATE_DIR to a folder of your own",
            ) from error
        raise MachineNotReady(f"cannot write {where}: {error.strerror}", "see STATE_DIR in .env.example") from error


def plain_path(path: Path) -> str:
    """The path as it may stand in a configuration.

    Raises MachineNotReady for a path with characters that mean something there, such as $ or a quote.
    """
    if not PLAIN_PATH.fullmatch(str(path)):
        raise MachineNotReady(
            f"the path {str(path)!r} has characters that nginx, PostgREST or supervisor would misread",
            "use letters, digits, blanks and ._+@=~()- only: move the checkout, or set STATE_DIR",
        )
    return str(path)


def _owned_by(path: Path, user: ServiceUser | None) -> bool:
    return user is None or path.stat().st_uid == user.owner[0]
