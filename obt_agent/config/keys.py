"""Every key of a configuration in one flat table, made from its schema: name, type, default, variable.

The agent's is ``AGENT``. The server has a scheme of its own, which is read by the same code.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
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
    prefix: str = PREFIX

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return self.prefix + self.name.replace(".", "_").upper()


@dataclass(frozen=True, kw_only=True, eq=False)
class Scheme:
    """What a program's configuration is made of, and where it is looked for.

    Args:
        schema: the sections.
        prefix: of the variables that set keys.
        file_variable: the variable that names the file.
        file_name: of a user's file, below the user's folder of configurations.
        system_file: the file where the user has none.
        short_names: further variables, and the keys that they set. The long name of the same key wins.
        own_names: variables with the prefix that set no key.
        others_names: variables with the prefix that other programs set; they are passed over.
        paths: keys that hold a path: ``~`` is expanded; a relative one starts at the file that says it.
        secret_keys: keys that do not exist, and that people write, where a secret would stand.
        secret_names: variables likewise, which every process of the user could read.
        keep_apart: the answer to those two.
    """

    schema: type[msgspec.Struct]
    prefix: str
    file_variable: str
    file_name: str
    system_file: Path
    keep_apart: str
    short_names: Mapping[str, str] = field(default_factory=dict)
    own_names: frozenset[str] = frozenset()
    others_names: re.Pattern[str] | None = None
    paths: frozenset[str] = frozenset()
    secret_keys: frozenset[str] = frozenset()
    secret_names: frozenset[str] = frozenset()

    @cached_property
    def keys(self) -> dict[str, Key]:
        """The table, by dotted name, in the schema's order."""
        return dict(_keys_of(self.schema, "", self.prefix))

    @cached_property
    def sections(self) -> frozenset[str]:
        """The dotted names of everything that holds keys."""
        return frozenset(
            name.rsplit(".", depth)[0] for name in self.keys for depth in range(1, name.count(".") + 1)
        )

    @cached_property
    def variables(self) -> dict[str, Key]:
        """Keys by the variable of their own name."""
        return {key.variable: key for key in self.keys.values()}


def all_keys() -> dict[str, Key]:
    """Return the agent's table, by dotted name, in the schema's order."""
    return AGENT.keys


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


def _keys_of(section: type[msgspec.Struct], above: str, prefix: str) -> list[tuple[str, Key]]:
    # With extras: the words for what a value must be stand in the annotations.
    hints = typing.get_type_hints(section, include_extras=True)
    found: list[tuple[str, Key]] = []
    for one in msgspec.structs.fields(section):
        name = above + one.name
        hint = hints[one.name]
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            found += _keys_of(hint, name + ".", prefix)
        else:
            found.append((name, _key(name, hint, one.default, prefix)))
    return found


def _key(name: str, hint: Any, default: Any, prefix: str) -> Key:
    inner, optional = _without_none(hint)
    base = typing.get_args(inner)[0] if typing.get_origin(inner) is typing.Annotated else inner
    key = partial(Key, name=name, type=hint, default=default, optional=optional, prefix=prefix)
    if typing.get_origin(base) is tuple:
        item = _key(name, typing.get_args(base)[0], None, prefix)
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

AGENT: Final = Scheme(
    schema=Config,
    prefix=PREFIX,
    file_variable="OBT_AGENT_CONFIG",
    file_name="obt-agent/agent.yaml",
    system_file=Path("/etc/obt-agent/agent.yaml"),
    short_names=SHORT_NAMES,
    own_names=frozenset({"OBT_AGENT_CONFIG"}),
    paths=PATHS,
    secret_keys=frozenset({"server.token", "server.password", "server.secret", "server.api_key"}),
    secret_names=frozenset({"OBT_AGENT_SERVER_TOKEN", "OBT_AGENT_TOKEN"}),
    keep_apart="a secret does not belong in the configuration; write it to a file that only the agent can "
    "read, and name that file in server.token_file",
)
