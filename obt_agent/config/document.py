"""YAML read into settings with their lines. The one module that knows YAML.

The file is data from the outside: its size, depth and number of nodes are bounded, aliases are refused (they
multiply a small file into a large one), and nothing in it can name a Python object.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import yaml

# Every key with its comment takes a fiftieth of this.
MAX_BYTES: Final = 256 << 10
MAX_DEPTH: Final = 16
MAX_NODES: Final = 20_000


class WrongDocument(Exception):
    """The text is no YAML document that can be read; ``line`` counts from 1, 0 when there is none."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


@dataclass(frozen=True)
class Scalar:
    """A single value as written. ``plain`` is false for quoted text, which is never a number or a truth."""

    text: str
    plain: bool
    line: int

    @property
    def empty(self) -> bool:
        """Nothing stands there (or ``~`` or ``null``)."""
        return self.plain and self.text in {"", "~", "null", "Null", "NULL"}


@dataclass(frozen=True)
class SequenceNode:
    """A list."""

    items: tuple[Node, ...]
    line: int


@dataclass(frozen=True)
class MappingEntry:
    """One key of a mapping and what it holds."""

    key: str
    line: int
    value: Node


@dataclass(frozen=True)
class Mapping:
    """Keys in the order of the file, doubles included."""

    entries: tuple[MappingEntry, ...]
    line: int


Node = Scalar | SequenceNode | Mapping


def read(data: bytes) -> Mapping:
    """The document's settings; an empty document has none.

    Raises:
        WrongDocument: too large, not UTF-8, not YAML, several documents, aliases, too deep, or no mapping.
    """
    if len(data) > MAX_BYTES:
        raise WrongDocument(0, f"is {len(data)} bytes long; a configuration has at most {MAX_BYTES}")
    text = _decoded(data)
    try:
        node = _Composer(text).document()
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error) from error
    except yaml.reader.ReaderError as error:
        raise _wrong_character(text, error.position) from error
    except (ValueError, OverflowError) as error:  # the library takes an escape of any number for a character
        raise WrongDocument(0, f"is not YAML: an escape names no character ({error})") from error
    if node is None or (isinstance(node, Scalar) and node.empty):
        return Mapping((), 1)
    if not isinstance(node, Mapping):
        raise WrongDocument(node.line, "expected sections such as server: and policy:, each with its keys")
    return node


def _decoded(data: bytes) -> str:
    try:
        # Editors of Windows write a mark at the beginning.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise WrongDocument(
            line, f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


def _not_yaml(error: yaml.MarkedYAMLError) -> WrongDocument:
    mark = error.problem_mark or error.context_mark
    words = ", ".join(part for part in (error.context, error.problem) if part)
    return WrongDocument(mark.line + 1 if mark else 0, f"is not YAML: {words}")


def _wrong_character(text: str, position: int) -> WrongDocument:
    line = text.count("\n", 0, position) + 1
    return WrongDocument(line, f"is not YAML: character U+{ord(text[position]):04X} may not stand in it")


class _Composer:
    """Builds nodes from the parser's events, so that nothing is constructed before it is bounded."""

    def __init__(self, text: str) -> None:
        # Of the parser, which reads on only as they are asked for.
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        # Values so far, keys counted, against ``MAX_NODES``.
        self._nodes = 0

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise WrongDocument(_line(event), "holds a second document; keep everything in the first")
                root = self._node(next(self._events), 1)
        return root

    def _node(self, event: yaml.Event, depth: int) -> Node:
        # Before anything of it is kept: a file that is too large or too deep must cost nothing.
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise WrongDocument(_line(event), f"holds more than {MAX_NODES} values")
        if depth > MAX_DEPTH:
            raise WrongDocument(_line(event), f"is nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.AliasEvent):
            # Nine aliases of nine aliases, nine deep, are a billion values.
            raise WrongDocument(_line(event), f"uses the alias *{event.anchor}; write the value out instead")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(event, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._listing(event, depth)
        return _scalar(event)

    def _mapping(self, start: yaml.Event, depth: int) -> Mapping:
        entries = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if not isinstance(key, Scalar):
                raise WrongDocument(_line(event), "has a key that is not a word")
            entries.append(MappingEntry(key.text, key.line, self._node(next(self._events), depth + 1)))
        return Mapping(tuple(entries), _line(start))

    def _listing(self, start: yaml.Event, depth: int) -> SequenceNode:
        items = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return SequenceNode(tuple(items), _line(start))


def _scalar(event: yaml.Event) -> Scalar:
    if not isinstance(event, yaml.ScalarEvent) or (event.tag is not None and event.tag != "!"):
        tag = getattr(event, "tag", None)
        raise WrongDocument(_line(event), f"uses the tag {tag}; write the value without it")
    # What has no quotes has no style.
    return Scalar(event.value, event.style is None, _line(event))


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0
