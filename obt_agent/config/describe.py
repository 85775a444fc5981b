"""The configuration as it may be shown: to its owner with origins, to the server without the host's paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from obt_agent.config.keys import PATHS, all_keys
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
    """Every key in the schema's order."""
    return [ShownKey(key, _masked(value_of(loaded, key)), loaded.origins[key]) for key in all_keys()]


def for_server(loaded: LoadedConfig) -> dict[str, Any]:
    """Sections as nested objects of JSON values. Instead of a path it says only whether one is set."""
    tree: dict[str, Any] = {}
    for shown in for_owner(loaded):
        *sections, last = shown.key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = bool(shown.value) if shown.key in PATHS else shown.value
    return tree


def _masked(value: Any) -> Any:
    return without_userinfo(value) if isinstance(value, str) and "://" in value else value
