"""What is wrong with a configuration, all at once, in words that say where and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from obt_agent.errors import ConfigError
from obt_agent.printable import printable

# ``EX_CONFIG`` of sysexits.h: the process ends with it when its configuration cannot be used.
EXIT_CONFIG: Final = 78

# Characters of a value that a message repeats.
_SHOWN: Final = 60


@dataclass(frozen=True, kw_only=True)
class ConfigProblem:
    """One fault: where it stands (``agent.yaml:3``, ``environment OBT_SERVER_URL``), the key, and the text.

    ``text`` says what was found, what is expected, and what to do.
    """

    where: str
    key: str | None
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.text) if part)


class WrongConfig(ConfigError):
    """One or more problems; ``problems`` holds each, the message all of them, one a line."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        count = len(problems)
        head = "The configuration cannot be used" + (":" if count == 1 else f", {count} problems:")
        super().__init__("\n  ".join([head, *map(str, problems)]))
        self.problems = tuple(problems)


def shown(value: object) -> str:
    """A value as a message quotes it: on one line, shortened, control characters escaped."""
    text = value if isinstance(value, str) else repr(value)
    quoted = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return f'"{printable(quoted)}"'
