"""Errors cross the wire by kind, and nothing unforeseen leaks."""

from __future__ import annotations

import inspect

import pytest

from obt_agent import errors
from obt_agent.protocol import errors as wire
from obt_agent.protocol.errors import CODE_OF_KIND, ErrorData, StreamEnd, WireError

RAISED = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.AgentError) and cls.kind in CODE_OF_KIND and cls is not errors.AgentError
]


@pytest.mark.parametrize("cls", RAISED)
def test_an_error_comes_out_as_it_went_in(cls: type[errors.AgentError]) -> None:
    sent = cls("what to do", retry_after_ms=5, field="a.b", message_of="x")
    got = wire.from_wire(wire.to_wire(sent))
    assert type(got) is cls
    assert (got.message, got.retryable, got.retry_after_ms, got.detail) == (
        sent.message,
        sent.retryable,
        5,
        sent.detail,
    )


def test_every_code_is_its_own() -> None:
    assert len(set(CODE_OF_KIND.values())) == len(CODE_OF_KIND)


def test_a_foreign_exception_keeps_its_text_to_itself() -> None:
    sent = wire.to_wire(RuntimeError("the secret is xyzzy"), StreamEnd(next_seq=3))
    assert "xyzzy" not in repr(sent)
    assert sent.data is not None
    assert sent.data.stream == StreamEnd(next_seq=3)


def test_an_error_that_must_stay_local_crosses_as_internal() -> None:
    assert wire.to_wire(errors.HardwareError("x")).code == CODE_OF_KIND["internal"]


def test_errors_of_other_programs_are_understood_as_far_as_they_go() -> None:
    assert type(wire.from_wire(WireError(code=-32003, message="later"))) is errors.Busy
    assert type(wire.from_wire(WireError(code=-1, message="?"))) is errors.AgentError
    hostile = ErrorData(kind="busy", detail={"message": "m", "self": 1, "retryable": True})
    assert wire.from_wire(WireError(code=-32003, message="later", data=hostile)).message == "later"
