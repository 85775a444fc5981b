"""The configuration as it may be shown: to its owner with origins, to the server without the host's paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from obt_agent.config.keys import PATHS, all_keys, nested
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


def for_server(loaded: LoadedConfig) -> dict[str, Any]:
    """Return sections as nested objects of JSON values; instead of a path, only whether one is set."""
    # Paths hold names of users and machines, which are no business of the server.
    shown = {one.key: bool(one.value) if one.key in PATHS else one.value for one in for_owner(loaded)}
    return nested(shown)


def _masked(value: Any) -> Any:
    # No key holds a secret by itself; user and password in an address are the one way in.
    return without_userinfo(value) if isinstance(value, str) and "://" in value else value
