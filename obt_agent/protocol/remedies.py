"""The line of the agent's configuration that would allow what was refused. Pure.

One place for all refusals: ``to_wire`` adds the line wherever an error's detail has a ``policy_key``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from obt_agent.errors import Scalar

# With fields of the error's detail. Of a list, the line shows what has to stand in it beside what is there.
_LINES: Final[dict[str, str]] = {
    "policy.allow_changes": "policy.allow_changes: [{command}]",
    "policy.commands.allow": "policy.commands.allow: [{command}]",
    "policy.commands.deny": "policy.commands.deny: nothing that matches {command}",
    "policy.models.allow": 'policy.models.allow: ["{model}"]',
    "policy.models.deny": "policy.models.deny: nothing that matches {model}",
    "policy.registries": 'policy.registries: ["{host}"]',
    "policy.remote_models": "policy.remote_models: true",
    "policy.templates": "policy.templates: true",
    "benchmark.during_benchmark": "benchmark.during_benchmark: note",
}


def remedy(policy_key: str, detail: Mapping[str, Scalar]) -> str | None:
    """Return the line; None when no line would allow it, or when it cannot be told from ``detail``."""
    line = _LINES.get(policy_key)
    if line is not None:
        try:
            return line.format_map(detail)
        # Refused whatever the key says: a field that no server may use, for instance, names no host.
        except KeyError:
            return None
    if "asked" in detail:
        # What has no end is allowed by no number.
        asked = detail["asked"]
        return f"{policy_key}: {'null' if asked is None else _number(asked)}"
    return f"{policy_key}: more than {_number(detail['allowed'])}" if "allowed" in detail else None


def with_remedy(detail: dict[str, Scalar]) -> dict[str, Scalar]:
    """Return an error's detail, with ``remedy`` where it has a ``policy_key`` and a line would help."""
    key = detail.get("policy_key")
    line = remedy(key, detail) if isinstance(key, str) else None
    return detail if line is None else detail | {"remedy": line}


def _number(value: Scalar) -> str:
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
