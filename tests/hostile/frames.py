"""The one corpus of hostile frames: every message type of the protocol, each field with each kind of value.

Made from the structs themselves, so that a new message is attacked from the day it exists.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import inspect

from obt_agent.protocol.methods import METHODS

LARGE: Final = 900_000
"""Bytes of the largest values: under the frame's limit of 1 MiB, so that they are read and not refused."""
NESTED: Final = 3
"""How far into structs fields are looked for: from the parameters to a field of a field of a field."""
MISSING: Final = object()

BAD_FRAMES: Final[dict[str, str]] = {
    "no json": "no json",
    "broken off": "{not json",
    "batch": "[]",
    "null": "null",
    "another version": '{"jsonrpc":"1.0","id":1,"method":"x"}',
    "no method": '{"jsonrpc":"1.0"}',
    "id null": '{"jsonrpc":"2.0","id":null,"method":"models.sync","params":{}}',
    "id negative": '{"jsonrpc":"2.0","id":-1,"method":"models.sync"}',
    "deep": "[" * 100 + "]" * 100,
    "deep parameters": '{"jsonrpc":"2.0","method":"x","params":' + "[" * 70 + "]" * 70 + "}",
}
"""What is no message at all: each is answered with an error, and ten in a minute end the session."""


@dataclass(frozen=True)
class HostileFrame:
    """One text frame, and what is wrong with it."""

    kind: str
    method: str
    text: str


def smallest(kind: inspect.Type) -> Any:  # noqa: PLR0911 - one for each kind of type
    """Return the least value that a type takes: every required field, nothing else."""
    match kind:
        case inspect.StructType(fields=fields):
            return {field.encode_name: smallest(field.type) for field in fields if field.required}
        case inspect.IntType(ge=ge, gt=gt) | inspect.FloatType(ge=ge, gt=gt):
            return ge if ge is not None else 0 if gt is None else gt + 1
        case inspect.StrType(min_length=least):
            return "x" * (least or 0)
        case inspect.BoolType():
            return False
        case inspect.LiteralType(values=values):
            return values[0]
        case inspect.ListType() | inspect.VarTupleType() | inspect.TupleType():
            return []
        case inspect.UnionType(types=types):
            return smallest(_chosen(types))
    return None if isinstance(kind, inspect.NoneType) else {}


def largest(kind: inspect.Type, size: int = LARGE) -> Any:  # noqa: PLR0911 - as above
    """Return a value of about ``size`` bytes of JSON that a type takes, as far as its bounds allow."""
    match kind:
        case inspect.StructType(fields=fields):
            # Whole fields first: a value that is refused for a missing field costs nothing.
            whole = {field.encode_name: smallest(field.type) for field in fields}
            share = size // max(1, len(fields))
            return whole | {field.encode_name: largest(field.type, share) for field in fields}
        case inspect.IntType(le=le, lt=lt):
            return le if le is not None else 2**63 - 1 if lt is None else lt - 1
        case inspect.FloatType(le=le):
            return 1.7e308 if le is None else le
        case inspect.StrType(max_length=most):
            return "x" * min(most or size, max(size, 1))
        case inspect.BoolType():
            return True
        case inspect.LiteralType(values=values):
            return values[-1]
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            one = largest(item, min(size, 200))
            return [one] * (size // (len(json.dumps(one)) + 2))
        case inspect.UnionType(types=types):
            return largest(_chosen(types), size)
    if isinstance(kind, inspect.DictType | inspect.RawType | inspect.AnyType):
        return {str(number): number for number in range(size // 16)}
    return smallest(kind)


def _chosen(types: tuple[inspect.Type, ...]) -> inspect.Type:
    return next((one for one in reversed(types) if not isinstance(one, inspect.NoneType)), types[0])


def _wrong(kind: inspect.Type) -> Any:
    texts = isinstance(kind, inspect.StrType | inspect.LiteralType)
    return {"x": [1]} if texts else "x"


VALUES: Final[dict[str, Callable[[inspect.Type], Any]]] = {
    "largest": largest,
    "smallest": smallest,
    "wrong type": _wrong,
    "missing": lambda _: MISSING,
    "nothing": lambda _: None,
    "long text": lambda _: "x" * LARGE,
    "wide text": lambda _: "\U0001f980" * (LARGE // 12),
    "surrogate": lambda _: "\ud800\u0000",
    "long list": lambda _: [0] * (LARGE // 3),
    "many keys": lambda _: {str(number): 0 for number in range(LARGE // 12)},
    "deep": lambda _: json.loads("[" * 50 + "]" * 50),
    "too deep": lambda _: json.loads("[" * 400 + "]" * 400),
    "negative": lambda _: -(2**63),
    "not a number": lambda _: float("nan"),
    "infinite": lambda _: float("inf"),
    "10^400": lambda _: 10**400,
    "10^4000": lambda _: 10**4000,
}


def fields_of(kind: inspect.Type, depth: int = NESTED) -> Iterator[tuple[tuple[str, ...], inspect.Type]]:
    """Yield the path and type of every field below a type; lists are gone into by their first item."""
    if isinstance(kind, inspect.UnionType):
        kind = _chosen(kind.types)
    if isinstance(kind, inspect.ListType | inspect.VarTupleType):
        kind = kind.item_type
    if not isinstance(kind, inspect.StructType) or depth == 0:
        return
    for field in kind.fields:
        yield (field.encode_name,), field.type
        for path, inner in fields_of(field.type, depth - 1):
            yield (field.encode_name, *path), inner


def _changed(kind: inspect.Type, path: tuple[str, ...], value: Any) -> Any:
    """Return the least value of a type with one field, somewhere in it, replaced."""
    if not path:
        return value
    if isinstance(kind, inspect.UnionType):
        kind = _chosen(kind.types)
    if isinstance(kind, inspect.ListType | inspect.VarTupleType):
        return [_changed(kind.item_type, path, value)]
    assert isinstance(kind, inspect.StructType)
    whole: dict[str, Any] = smallest(kind)
    inner = next(field.type for field in kind.fields if field.encode_name == path[0])
    new = _changed(inner, path[1:], value)
    return {name: one for name, one in (whole | {path[0]: new}).items() if one is not MISSING}


Target = tuple[str, str, inspect.Type, tuple[str, ...], inspect.Type]


def _targets() -> list[Target]:
    """Every field of every message: method, ``params`` or ``result``, its type, the path and its type."""
    found: list[Target] = []
    for name, method in METHODS.items():
        for side, struct in (("params", method.params), ("result", method.result)):
            if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
                continue
            kind = inspect.type_info(struct)
            found.append((name, side, kind, (), kind))
            found += [(name, side, kind, path, inner) for path, inner in fields_of(kind)]
    return found


TARGETS: Final = _targets()


def frame(target: int, value: str, number: int, form: str = "request") -> HostileFrame:
    """Return the frame of one field with one kind of value.

    Args:
        target: index in ``TARGETS``.
        value: of ``VALUES``.
        number: makes ids and names of jobs fresh.
        form: request or notification; of a result it is always an answer.
    """
    method, side, kind, path, inner = TARGETS[target]
    body = _changed(kind, path, VALUES[value](inner))
    body = {} if body is MISSING else body
    # Honest beside the one field, so that what is wrong gets as far as it can.
    if isinstance(body, dict) and side == "params":
        honest = {"model": "large:latest", "job_id": f"j{number}", "input": "x"}
        body |= {k: v for k, v in honest.items() if k in body and (k,) != path}
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": body}
    if side == "result":
        message = {"jsonrpc": "2.0", "id": number % 50, "result": body}
    elif form == "request":
        message["id"] = f"h{number}"
    return HostileFrame(value, method, json.dumps(message))


def corpus(seed: int = 0) -> Iterator[HostileFrame]:
    """Yield frames without end: every field with every value, in another order each time through."""
    random_ = random.Random(seed)
    number = 0
    while True:
        every = [(target, value) for target in range(len(TARGETS)) for value in VALUES]
        random_.shuffle(every)
        for target, value in every:
            number += 1
            yield frame(target, value, number, random_.choice(["request", "request", "notification"]))
