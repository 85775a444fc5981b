"""Every key of the configuration in one flat table, made from the schema: name, type, default, variable."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, Literal, Union

import msgspec

from obt_agent.config.schema import Config

Kind = Literal["text", "bool", "int", "float", "choice", "list"]

# Variables that users of OBT already have. The long name of the same key wins over them.
SHORT_NAMES: Final = {
    "OBT_SERVER_URL": "server.url",
    "OLLAMA_URL": "ollama.url",
    "CLIENT_ID": "agent.name",
    "HEARTBEAT_INTERVAL": "server.heartbeat_interval_s",
}

# Of variables that set keys: the rest is the key's name, in capitals, with underscores for dots.
PREFIX: Final = "OBT_AGENT_"
# Keys that hold a path: ``~`` is expanded; a relative one starts at the file that says it.
PATHS: Final = frozenset(
    {
        "server.token_file",
        "server.ca_file",
        "server.client_cert_file",
        "server.client_key_file",
        "agent.state_dir",
        "benchmark.lock_dir",
    }
)


@dataclass(frozen=True, kw_only=True)
class Key:
    """One setting. ``item`` is what a list holds; ``optional`` allows an empty value (None)."""

    name: str
    kind: Kind
    type: Any
    default: Any
    optional: bool
    expected: str
    choices: tuple[str, ...] = ()
    item: Key | None = None

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return PREFIX + self.name.replace(".", "_").upper()


@cache
def all_keys() -> dict[str, Key]:
    """Return the table, by dotted name, in the schema's order."""
    return dict(_keys_of(Config, ""))


@cache
def all_sections() -> frozenset[str]:
    """Return the dotted names of everything that holds keys."""
    return frozenset(
        name.rsplit(".", depth)[0] for name in all_keys() for depth in range(1, name.count(".") + 1)
    )


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted name as sections that hold sections."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *sections, last = name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return tree


def _keys_of(section: type[msgspec.Struct], prefix: str) -> list[tuple[str, Key]]:
    # With extras: the words for what a value must be stand in the annotations.
    hints = typing.get_type_hints(section, include_extras=True)
    found: list[tuple[str, Key]] = []
    for field in msgspec.structs.fields(section):
        name = prefix + field.name
        hint = hints[field.name]
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            found += _keys_of(hint, name + ".")
        else:
            found.append((name, _key(name, hint, field.default)))
    return found


def _key(name: str, hint: Any, default: Any) -> Key:
    inner, optional = _without_none(hint)
    base = typing.get_args(inner)[0] if typing.get_origin(inner) is typing.Annotated else inner
    key = partial(Key, name=name, type=hint, default=default, optional=optional)
    if typing.get_origin(base) is tuple:
        item = _key(name, typing.get_args(base)[0], None)
        words = f"a list of: {item.expected}" if item.choices else "a list of text"
        # An annotation of the list itself has words of its own.
        return key(kind="list", expected=words if inner is base else _expected(inner, "list", ()), item=item)
    choices = typing.get_args(base) if typing.get_origin(base) is Literal else ()
    kind: Kind = "choice" if choices else _SCALARS[base]
    return key(kind=kind, expected=_expected(inner, kind, choices), choices=choices)


def _without_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in {Union, types.UnionType}:
        (inner,) = (part for part in typing.get_args(hint) if part is not types.NoneType)
        return inner, True
    return hint, False


def _expected(inner: Any, kind: Kind, choices: tuple[str, ...]) -> str:
    if choices:
        return "one of " + ", ".join(choices)
    if kind == "bool":
        return "true or false"
    described = [meta.description for meta in typing.get_args(inner)[1:] if meta.description]
    return str(described[0]) if described else kind


_SCALARS: Final[dict[Any, Kind]] = {str: "text", bool: "bool", int: "int", float: "float"}
