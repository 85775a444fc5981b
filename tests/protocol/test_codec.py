"""Frames: what is taken, what is refused, and with which id and kind."""

from __future__ import annotations

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.errors import InvalidParams, ProtocolError
from obt_agent.protocol import codec, limits
from obt_agent.protocol.admission import Empty
from obt_agent.protocol.codec import FrameError
from obt_agent.protocol.commands import CancelParams, RunBenchmarkParams
from obt_agent.protocol.envelope import ErrorResponse, Notification, Request, RequestId, Response
from obt_agent.protocol.errors import WireError
from obt_agent.protocol.state import StateRequest

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3)
    ),
    max_leaves=12,
)
ids = st.integers(0, limits.MAX_ID) | st.text(st.characters(max_codepoint=127), min_size=1, max_size=64)


@given(ids, st.text(max_size=20), st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_a_request_survives_the_way_there(
    request_id: RequestId, method: str, params: dict[str, object]
) -> None:
    raw = msgspec.Raw(json.dumps(params).encode())
    message = codec.decode(codec.encode_request(request_id, method, raw))
    assert isinstance(message, Request)
    assert (message.id, message.method) == (request_id, method)
    assert type(message.id) is type(request_id)
    assert json.loads(bytes(message.params)) == params


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_frame_error(data: bytes) -> None:
    with contextlib.suppress(FrameError):
        codec.decode(data)


@given(json_values)
def test_any_json_is_a_message_or_a_frame_error_that_can_be_answered(value: object) -> None:
    try:
        codec.decode(json.dumps(value))
    except FrameError as error:
        answer = codec.decode(codec.encode_error(error.id, error.wire))
        assert isinstance(answer, ErrorResponse)


@given(json_values)
def test_depth_agrees_with_a_walk_of_the_value(value: object) -> None:
    def depth(node: object) -> int:
        if isinstance(node, dict):
            return 1 + max((depth(v) for v in node.values()), default=0)
        if isinstance(node, list):
            return 1 + max((depth(v) for v in node), default=0)
        return 0

    text = json.dumps(value).encode()
    deep = depth(value)
    codec.check_depth(text, max(deep, 0))
    if deep > 0:
        with pytest.raises(ProtocolError):
            codec.check_depth(text, deep - 1)


def test_brackets_inside_strings_are_not_depth() -> None:
    codec.check_depth(json.dumps({"text": "[{" * 500 + '\\"' + "[" * 500}).encode())


def test_a_deeply_nested_object_is_refused_whatever_the_parser_would_do() -> None:
    for bomb in (
        b'{"a":' * 100_000,
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b'{"params":' + b"[" * 70 + b"]" * 70 + b"}",
    ):
        with pytest.raises(FrameError):
            codec.decode(bomb)


@pytest.mark.parametrize(
    ("frame", "kind", "request_id"),
    [
        ("", "parse_error", None),
        ("nonsense", "parse_error", None),
        (b'{"jsonrpc":"2.0","method":"\xff"}', "parse_error", None),
        ("\ud800", "parse_error", None),
        ("3", "invalid_request", None),
        ('[{"jsonrpc":"2.0","method":"a"}]', "invalid_request", None),
        ('{"jsonrpc":"2.0"}', "invalid_request", None),
        ('{"jsonrpc":"1.0","id":7,"method":"a"}', "invalid_request", 7),
        ('{"id":7,"method":"a"}', "invalid_request", 7),
        ('{"jsonrpc":"2.0","id":7,"method":3}', "invalid_request", 7),
        ('{"jsonrpc":"2.0","id":null,"method":"a"}', "invalid_request", None),
        ('{"jsonrpc":"2.0","id":1.5,"method":"a"}', "invalid_request", None),
        ('{"jsonrpc":"2.0","id":true,"method":"a"}', "invalid_request", None),
        ('{"jsonrpc":"2.0","id":-1,"method":"a"}', "invalid_request", None),
        ('{"jsonrpc":"2.0","id":"","method":"a"}', "invalid_request", None),
        ('{"jsonrpc":"2.0","id":"é","method":"a"}', "invalid_request", None),
        ('{"jsonrpc":"2.0","id":7,"method":"a","params":[]}', "invalid_params", 7),
        ('{"jsonrpc":"2.0","result":{}}', "invalid_request", None),
        ("x" * (limits.MAX_FRAME_BYTES + 1), "too_large", None),
    ],
)
def test_a_wrong_frame_is_refused_with_its_kind_and_id(
    frame: str | bytes, kind: str, request_id: RequestId | None
) -> None:
    with pytest.raises(FrameError) as caught:
        codec.decode(frame)
    assert caught.value.wire.data is not None
    assert (caught.value.wire.data.kind, caught.value.id) == (kind, request_id)


def test_notifications_results_and_errors_are_told_apart() -> None:
    note = codec.decode(codec.encode_notification("link.alive", Empty()))
    assert isinstance(note, Notification)
    assert bytes(note.params) == b"{}"
    bare = codec.decode('{"jsonrpc":"2.0","method":"link.alive","from_the_future":1}')
    assert isinstance(bare, Notification)
    assert bytes(bare.params) == b"{}"
    result = codec.decode(codec.encode_result("1", Empty()))
    assert isinstance(result, Response)
    assert result.id == "1"
    failed = codec.decode(codec.encode_error(1, WireError(code=-32003, message="later")))
    assert isinstance(failed, ErrorResponse)
    assert failed.error.message == "later"


def test_a_malformed_error_object_still_ends_its_request() -> None:
    failed = codec.decode('{"jsonrpc":"2.0","id":4,"error":"oops"}')
    assert isinstance(failed, ErrorResponse)
    assert (failed.id, failed.error.code) == (4, -32603)


@pytest.mark.parametrize(
    ("params", "path"),
    [
        (b"{}", "params"),
        (b'{"job_id":"","plan":{"model_name":"m"}}', "params.job_id"),
        (b'{"job_id":"j","plan":{"model_name":3}}', "params.plan.model_name"),
    ],
)
def test_wrong_parameters_name_the_path_of_the_field(params: bytes, path: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        codec.convert(msgspec.Raw(params), RunBenchmarkParams)
    assert caught.value.message.startswith(path + ":")
    assert caught.value.detail["field"] == path


def test_unknown_fields_are_ignored() -> None:
    params = codec.convert(msgspec.Raw(b'{"id":"a","later":{"x":1}}'), CancelParams)
    assert params.id == "a"


def test_what_is_quoted_of_a_wrong_value_is_short() -> None:
    with pytest.raises(InvalidParams) as caught:
        codec.convert(msgspec.Raw(b'{"kinds":["' + b"x" * 500_000 + b'"]}'), StateRequest)
    assert caught.value.message.startswith("params.kinds[0]: Invalid enum value 'xxx")
    assert len(caught.value.message) < 300
