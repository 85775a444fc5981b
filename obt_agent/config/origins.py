"""Where a value came from, in words that a person can follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from obt_agent.config.keys import Key
from obt_agent.config.problems import ConfigProblem


@dataclass(frozen=True)
class Origin:
    """A source of values.

    ``place`` is ``agent.yaml:3``, ``.env:2``, ``OBT_SERVER_URL``, ``--server-url``, or why a default is so.
    """

    kind: Literal["default", "file", "dotenv", "environment", "flag"]
    place: str = ""

    def __str__(self) -> str:
        # The place of a file or of .env says by itself what it is.
        words = {"environment": "environment ", "flag": "flag ", "default": "default "}
        return (words.get(self.kind, "") + self.place).strip()


@dataclass(frozen=True)
class Setting:
    """One key set to a typed value by one source."""

    key: Key
    value: Any
    origin: Origin


@dataclass(frozen=True)
class SourceReading:
    """What one source said: its settings, what is wrong with it, and what its reader should know."""

    settings: tuple[Setting, ...] = ()
    problems: tuple[ConfigProblem, ...] = ()
    notices: tuple[str, ...] = ()
