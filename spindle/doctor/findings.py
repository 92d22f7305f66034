"""What the doctor found: each finding says where, what, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from spindle.errors import SpindleError


class Severity(str, Enum):
    """An error stops a refresh of what it is about, a warning does not, a note is good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """`where` is a machine's name, `results` or `settings`; `exit_code` is 0 unless it is an error."""

    severity: Severity
    where: str
    what: str
    advice: str
    exit_code: int = 0


class Findings(list[Finding]):
    """The findings about one place, in the order in which they were made."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def error(self, error: SpindleError) -> None:
        self.append(Finding(Severity.ERROR, self.where, error.what, error.advice, error.exit_code))

    def warn(self, what: str, advice: str) -> None:
        self.append(Finding(Severity.WARNING, self.where, what, advice))

    def note(self, what: str, advice: str = "") -> None:
        self.append(Finding(Severity.NOTE, self.where, what, advice))
