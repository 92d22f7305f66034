"""Errors a user can act on. Each carries the exit code that cron and scripts see (docs/commands.md lists them)."""


class SpindleError(Exception):
    """What went wrong and what to do about it, in one message a person can act on."""

    exit_code = 1

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what if not advice else f"{what}\n  {advice}")
        self.what = what
        self.advice = advice


class RefreshFailed(SpindleError):
    """A refresh, a dbt run or the check after it failed. Each result is as the last run that computed it left it."""

    exit_code = 1


class SettingsError(SpindleError):
    """A setting is unknown, malformed, missing or contradicts another."""

    exit_code = 2


class CannotConnect(SpindleError):
    """A database does not answer, or refuses the login."""

    exit_code = 3


class DataStale(SpindleError):
    """Everything works, but the newest log row is older than STALE_AFTER_HOURS."""

    exit_code = 4


class ServiceDown(SpindleError):
    """A service that should run does not, or does not answer."""

    exit_code = 5


class RefreshBusy(SpindleError):
    """Another refresh holds the lock."""

    exit_code = 6


class MachineNotReady(SpindleError):
    """This computer lacks something: a tool, a free port, disk space, a permission."""

    exit_code = 7


class MachinesFailed(SpindleError):
    """Some machines failed; the others are computed up to their cuts."""

    exit_code = 8
