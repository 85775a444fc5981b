"""The example configuration, and the table of all keys that the documentation shows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from obt_agent.config.keys import Key, all_keys
from obt_agent.config.reload import APPLIED_LIVE

EXAMPLE: Final = "agent.example.yaml"
# A key may be commented out, where its default is nothing.
_KEY: Final = re.compile(r"( *)#?([a-z_]+):( .*)?", re.ASCII)
_COMMENT: Final = re.compile(r" *# (.*)")
_INDENT: Final = 2


@dataclass(frozen=True)
class KeyRow:
    """One key as it is documented; ``live``: a reload (SIGHUP) is enough."""

    key: Key
    meaning: str
    live: bool


def example() -> str:
    """The text of the example configuration: each key with its meaning and its default."""
    return resources.files("obt_agent.config").joinpath(EXAMPLE).read_text(encoding="utf-8")


def rows() -> list[KeyRow]:
    """Every key, in the schema's order, with the meaning that the example's comment gives it."""
    found = meanings(example())
    return [KeyRow(key, found[name], name.startswith(APPLIED_LIVE)) for name, key in all_keys().items()]


def markdown() -> str:
    """The table of keys."""
    lines = ["| key | default | expected | meaning | reload |", "|---|---|---|---|---|"]
    lines += [
        f"| `{row.key.name}` | {default_of(row.key)} | {row.key.expected} | {row.meaning} "
        f"| {'at once' if row.live else 'restart'} |"
        for row in rows()
    ]
    return "\n".join(lines) + "\n"


def meanings(text: str) -> dict[str, str]:
    """Return the comment above each key of an example."""
    found: dict[str, str] = {}
    comment: list[str] = []
    path: list[str] = []
    for line in text.splitlines():
        if words := _COMMENT.fullmatch(line):
            comment.append(words[1])
            continue
        if key := _KEY.fullmatch(line):
            # The depth of a line tells how much of the path before it still holds.
            path[len(key[1]) // _INDENT :] = [key[2]]
            found[".".join(path)] = " ".join(comment)
        comment = []
    return found


def default_of(key: Key) -> str:
    """Return a key's default as the table shows it."""
    value: Any = list(key.default) if isinstance(key.default, tuple) else key.default
    return "" if value in (None, "", []) else f"`{value if isinstance(value, str) else json.dumps(value)}`"
