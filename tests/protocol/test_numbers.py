"""Whole numbers on the wire have 64 bits: what is larger is refused where it arrives, and stored nowhere."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from obt_agent.benchmark.result import BenchmarkResult
from obt_agent.errors import InvalidParams
from obt_agent.protocol import codec
from obt_agent.protocol.admission import HeartbeatParams
from obt_agent.protocol.jobs import JobProgressParams
from obt_agent.protocol.methods import METHODS


def unbounded(kind: inspect.Type, where: str, seen: set[type]) -> Iterator[str]:
    """Where whole numbers stand in a type that may be of any size."""
    match kind:
        case inspect.StructType(cls=cls, fields=fields) if cls not in seen:
            seen.add(cls)
            for field in fields:
                yield from unbounded(field.type, f"{cls.__name__}.{field.name}", seen)
        case inspect.IntType(gt=None, ge=None) | inspect.IntType(lt=None, le=None):
            yield where
        case inspect.UnionType(types=types) | inspect.TupleType(item_types=types):
            for one in types:
                yield from unbounded(one, where, seen)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            yield from unbounded(item, where, seen)
        case inspect.DictType(key_type=key, value_type=value):
            yield from unbounded(key, where, seen)
            yield from unbounded(value, where, seen)


def test_no_number_of_a_message_or_of_a_result_is_of_any_size() -> None:
    seen: set[type] = set()
    types: list[Any] = [one for method in METHODS.values() for one in (method.params, method.result) if one]
    found = [
        where
        for one in (*types, BenchmarkResult)
        for where in unbounded(inspect.type_info(one), repr(one), seen)
    ]
    assert found == ["HardwareWatchParams.interval_ms"], "which is clamped, however large"
    assert len(seen) > 50, "the types were looked through"


class _Any(msgspec.Struct):
    one: tuple[dict[str, int | None], ...] = ()


def test_a_number_of_any_size_would_be_found() -> None:
    assert list(unbounded(inspect.type_info(_Any), "", set())) == ["_Any.one"]


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**40])
def test_a_number_beyond_64_bits_is_refused(number: int) -> None:
    beat = b'{"ollama":{"reachable":true},"t_mono_us":%d}'
    progress = b'{"job_id":"j","state":"running","progress":{"phase":"x","completed_bytes":%d}}'
    for text, kind in ((beat, HeartbeatParams), (progress, JobProgressParams)):
        with pytest.raises(InvalidParams):
            codec.convert(msgspec.Raw(text % number), kind, where="params")
        assert isinstance(codec.convert(msgspec.Raw(text % (2**63 - 1)), kind, where="params"), kind)
