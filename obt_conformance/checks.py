"""What a check is, how it ends, and the verdict of the checks of one rule. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Verdict = Literal["pass", "fail", "not tested"]
S = TypeVar("S")


# Of what the other side sent: a whole frame may be a mebibyte.
_MOST_CHARS = 300


class RuleBroken(Exception):
    """The other side broke the rule; the text says what was seen."""

    def __init__(self, text: str) -> None:
        super().__init__(text[:_MOST_CHARS])


def require(kept: object, otherwise: str) -> None:
    """Raise ``RuleBroken`` with the text ``otherwise`` unless ``kept`` is true."""
    if not kept:
        raise RuleBroken(otherwise)


class Untested(Exception):
    """The rule could not be tried; the text says why."""


@dataclass(frozen=True)
class Check(Generic[S]):
    """One way to try one rule.

    ``run`` returns what was seen when the rule was kept, and raises ``RuleBroken`` or ``Untested`` otherwise.
    ``takes_s`` is the time that the rule itself makes the check wait (0: none to speak of). One that
    ``restarts`` the other side ends every other check's session.
    """

    rule: str
    title: str
    run: Callable[[S], Awaitable[str]]
    takes_s: float = 0.0
    restarts: bool = False


class CheckRegistry(Generic[S]):
    """The checks of one side, in the order of the document."""

    def __init__(self) -> None:
        self.checks: list[Check[S]] = []

    def check(
        self, rule: str, title: str, *, takes_s: float = 0.0, restarts: bool = False
    ) -> Callable[[Callable[[S], Awaitable[str]]], Callable[[S], Awaitable[str]]]:
        """Enter a coroutine function as a check."""

        def enter(run: Callable[[S], Awaitable[str]]) -> Callable[[S], Awaitable[str]]:
            self.checks.append(Check(rule, title, run, takes_s, restarts))
            return run

        return enter


@dataclass(frozen=True)
class CheckResult:
    """How one check ended. ``detail`` is what was seen, or why the check could not be made."""

    rule: str
    title: str
    verdict: Verdict
    detail: str
    seconds: float


def rule_verdict(results: Sequence[CheckResult]) -> Verdict:
    """One failure fails a rule; it passes when something was tried and nothing failed."""
    # What could not be tested says nothing, beside what was.
    verdicts = {result.verdict for result in results}
    if "fail" in verdicts:
        return "fail"
    return "pass" if "pass" in verdicts else "not tested"


def by_rule(results: Sequence[CheckResult]) -> dict[str, list[CheckResult]]:
    """Findings under their rule, in the order in which rules first appear."""
    found: dict[str, list[CheckResult]] = {}
    for result in results:
        found.setdefault(result.rule, []).append(result)
    return found
