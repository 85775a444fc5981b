"""Struct types made ready for threads.

msgspec (0.22) works out how to decode a type at its first use, and keeps the result before it is complete: a
type with other Structs in its fields runs Python code in between. Another thread that decodes the type in
that moment follows a null pointer, and the process dies of it. Worked out in one thread beforehand, it is
safe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec


def prepare(*types: type[msgspec.Struct]) -> None:
    """Have the types, and those in their fields, worked out; before other threads decode them."""
    for one in types:
        msgspec.json.Decoder(one)


def prepare_all() -> None:
    """Have every Struct worked out that is defined by now: 50 ms for 300 of them, once."""
    for one in _below(msgspec.Struct):
        # Some are for encoding alone: one of msgspec 0.19's own, or one of the application around the server.
        with contextlib.suppress(TypeError, NameError, AttributeError):
            prepare(one)


def _below(base: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for one in base.__subclasses__():
        yield one
        yield from _below(one)
