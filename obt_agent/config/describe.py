"""The configuration as its owner may see it: secrets masked, each value with its origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from obt_agent.config.keys import all_keys
from obt_agent.config.load import LoadedConfig
from obt_agent.config.origins import Origin
from obt_agent.config.reload import value_of
from obt_agent.config.urls import without_userinfo


@dataclass(frozen=True)
class ShownKey:
    """A key, its value with secrets masked, and where it came from."""

    key: str
    value: Any
    origin: Origin


def for_owner(loaded: LoadedConfig) -> list[ShownKey]:
    """Return every key in the schema's order."""
    return [ShownKey(key, _masked(value_of(loaded, key)), loaded.origins[key]) for key in all_keys()]


def _masked(value: Any) -> Any:
    # No key holds a secret by itself; user and password in an address are the one way in.
    return without_userinfo(value) if isinstance(value, str) and "://" in value else value
