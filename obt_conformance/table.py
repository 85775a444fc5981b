"""The table of rules and checks, as ``docs/reference/conformance.md`` shows it. Pure."""

from __future__ import annotations

from typing import TypeVar

from obt_conformance.agent_rules import BOOK as AGENT_BOOK
from obt_conformance.checks import CheckRegistry
from obt_conformance.rules import NOT_OF_AGENTS, NOT_OF_SERVERS, RULES
from obt_conformance.server_rules import BOOK as SERVER_BOOK

S = TypeVar("S")


def markdown() -> str:
    """A row a rule: what is tried against a server and against an agent, or why nothing is."""
    lines = ["| rule | a server | an agent |", "|---|---|---|"]
    lines += [
        f"| {rule} | {_cell(rule, SERVER_BOOK, NOT_OF_SERVERS)} | {_cell(rule, AGENT_BOOK, NOT_OF_AGENTS)} |"
        for rule in RULES
    ]
    return "\n".join([*lines, ""])


def _cell(rule: str, book: CheckRegistry[S], without: dict[str, str]) -> str:
    tried = [
        check.title + (f" ({check.takes_s:g} s)" if check.takes_s else "")
        for check in book.checks
        if check.rule == rule
    ]
    return "; ".join(tried) if tried else f"*not tested:* {without[rule]}"
