"""The table of rules and checks, as ``docs/reference/conformance.md`` shows it. Pure."""

from __future__ import annotations

from typing import TypeVar

from obt_conformance.agent_rules import CHECKS as AGENT_CHECKS
from obt_conformance.checks import CheckRegistry
from obt_conformance.rules import NOT_OF_AGENTS, NOT_OF_SERVERS, RULES
from obt_conformance.server_rules import CHECKS as SERVER_CHECKS

S = TypeVar("S")


def markdown() -> str:
    """A row a rule: what is tried against a server and against an agent, or why nothing is."""
    lines = ["| rule | a server | an agent |", "|---|---|---|"]
    for rule in RULES:
        server, agent = _cell(rule, SERVER_CHECKS, NOT_OF_SERVERS), _cell(rule, AGENT_CHECKS, NOT_OF_AGENTS)
        lines.append(f"| {rule} | {server} | {agent} |")
    return "\n".join([*lines, ""])


def _cell(rule: str, registry: CheckRegistry[S], without: dict[str, str]) -> str:
    # Without the seconds where a check waits for nothing by rule.
    tried = [
        check.title + (f" ({check.takes_s:g} s)" if check.takes_s else "")
        for check in registry.checks
        if check.rule == rule
    ]
    return "; ".join(tried) if tried else f"*not tested:* {without[rule]}"
