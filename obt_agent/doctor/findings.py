"""What a look finds. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import msgspec

Level = Literal["ok", "warning", "failure", "skipped"]


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing: ``check`` is its stable name, ``says`` how it is, ``remedy`` what to do if it is not well.

    ``skipped`` is neither good nor bad: it could not be looked at, and ``says`` tells why.
    """

    check: str
    level: Level
    says: str
    remedy: str | None = None


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A key of the configuration, its value with secrets masked, and where it came from."""

    key: str
    value: Any
    origin: str


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """All findings, in the order of the looks; ``version`` is the program's."""

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
        words: list[tuple[Level, str]] = [
            ("ok", "ok"),
            ("warning", "warnings"),
            ("failure", "failures"),
            ("skipped", "skipped"),
        ]
        return ", ".join(
            f"{number[level]} {level if number[level] == 1 else plural}"
            for level, plural in words
            if number[level]
        )


def ok(check: str, says: str) -> Finding:
    """It is well."""
    return Finding(check=check, level="ok", says=says)


def warning(check: str, says: str, remedy: str) -> Finding:
    """It works, and should be looked at."""
    return Finding(check=check, level="warning", says=says, remedy=remedy)


def failure(check: str, says: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(check=check, level="failure", says=says, remedy=remedy)


def skipped(check: str, says: str) -> Finding:
    """It could not be looked at."""
    return Finding(check=check, level="skipped", says=says)
