"""The table of the server's settings that the documentation shows."""

from __future__ import annotations

from obt_agent.config.reference import default_of, meanings
from obt_server.config.load import SERVER, example


def markdown() -> str:
    """Return the table, in the schema's order."""
    found = meanings(example())
    lines = ["| key | variable | default | expected | meaning |", "|---|---|---|---|---|"]
    lines += [
        f"| `{name}` | `{key.variable}` | {default_of(key)} | {key.expected} | {found[name]} |"
        for name, key in SERVER.keys.items()
    ]
    return "\n".join(lines) + "\n"
