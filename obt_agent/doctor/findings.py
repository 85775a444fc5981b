"""Results of checks. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import msgspec

Level = Literal["ok", "warning", "failure", "skipped"]


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``check`` is its stable name, ``message`` the state of it, ``remedy`` what to do if it is not well.

    ``skipped`` is neither good nor bad: it could not be checked, and ``message`` gives the reason.
    """

    # Programs go by it: it is never renamed for wording.
    check: str
    level: Level
    message: str
    remedy: str | None = None


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A key of the configuration, its value with secrets masked, and where it came from."""

    key: str
    value: Any
    origin: str


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """All findings, in the order of the checks; ``version`` is the program's."""

    version: str
    findings: tuple[Finding, ...]
    configuration: tuple[Value, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether anything is a failure."""
        return any(finding.level == "failure" for finding in self.findings)

    def counts(self) -> str:
        """``9 ok, 1 warning, 2 failures``, without what there is none of."""
        number = Counter(finding.level for finding in self.findings)
        plurals: dict[Level, str] = {
            "ok": "ok",
            "warning": "warnings",
            "failure": "failures",
            "skipped": "skipped",
        }
        return ", ".join(
            f"{number[level]} {level if number[level] == 1 else plural}"
            for level, plural in plurals.items()
            if number[level]
        )


def ok(check: str, message: str) -> Finding:
    """It is well."""
    return Finding(check=check, level="ok", message=message)


def warning(check: str, message: str, remedy: str) -> Finding:
    """It works, and needs attention."""
    return Finding(check=check, level="warning", message=message, remedy=remedy)


def failure(check: str, message: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(check=check, level="failure", message=message, remedy=remedy)


def skipped(check: str, message: str) -> Finding:
    """It could not be checked."""
    return Finding(check=check, level="skipped", message=message)
