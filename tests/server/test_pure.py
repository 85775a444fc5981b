"""Arithmetic without sockets: credit, floods, results, images, pages."""

import gzip
import hashlib
import tracemalloc
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.errors import Busy, InvalidParams, ProtocolError, TooLarge
from obt_agent.protocol import codec, limits
from obt_agent.protocol.jobs import JobFinishedParams
from obt_agent.protocol.signed import SIGNED_METHODS
from obt_agent.protocol.state import Page
from obt_server.hub import images, results
from obt_server.hub.command_params import json_object
from obt_server.hub.incoming import Bounds, Pages
from obt_server.hub.window import ReceiveWindow
from obt_server.rest.problems import error_response
from obt_server.rest.signed import SignedMethod

SIZES = st.lists(st.integers(min_value=1, max_value=40_000), max_size=200)


@given(sizes=SIZES, window=st.integers(min_value=1, max_value=100_000))
def test_a_sender_that_keeps_to_its_credit_never_breaks_the_window_nor_starves(
    sizes: list[int], window: int
) -> None:
    ours = ReceiveWindow(window, 40_000)
    theirs = window
    unread = 0
    for size in sizes:
        if theirs <= 0:
            theirs += ours.consume(unread)
            unread = 0
        assert theirs > 0, "everything was read, and still it may not send"
        theirs -= size
        ours.charge(size)
        unread += size


@given(sizes=SIZES)
def test_a_sender_without_credit_is_stopped_within_two_frames_of_its_window(sizes: list[int]) -> None:
    ours = ReceiveWindow(32_768, 40_000)
    taken = 0
    try:
        for size in sizes:
            ours.charge(size)
            taken += size
    except ProtocolError:
        pass
    assert taken <= 32_768 + 2 * 40_000


def final(text: bytes, **more: object) -> JobFinishedParams:
    fields = {
        "job_id": "j",
        "kind": "benchmark",
        "state": "completed",
        "bytes": len(text),
        "sha256": hashlib.sha256(text).hexdigest(),
    }
    return msgspec.convert({**fields, **more}, JobFinishedParams)


@given(value=st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=20))
def test_a_result_passes_only_whole_and_unchanged(value: object) -> None:
    text = msgspec.json.encode(value)
    packed = gzip.compress(text)
    assert results.read(final(text), text, 1 << 20) == (text, None, None)
    assert results.read(final(text, encoding="gzip"), packed, 1 << 20) == (text, None, None)
    assert results.read(final(text), text + b" ", 1 << 20) is None
    assert results.read(final(text, encoding="gzip"), packed[:-1], 1 << 20) is None


def test_a_result_that_is_no_utf8_or_too_large_is_refused() -> None:
    with pytest.raises(InvalidParams):
        results.read(final(b'"\xff"'), b'"\xff"', 100)
    with pytest.raises(TooLarge):
        results.read(final(b"[]"), b"[]", 1)


def test_gzip_is_unpacked_up_to_a_ratio() -> None:
    text = b'"' + b"x" * (60 << 20) + b'"'
    packed = gzip.compress(text)
    with pytest.raises(TooLarge, match="times as many"):
        results.read(final(text, encoding="gzip"), packed, 64 << 20)
    text = text[: 4 << 20] + b'"'
    packed = gzip.compress(text)
    assert results.read(final(text, encoding="gzip"), packed, 64 << 20) is not None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'{"environment":{"model":"m","model_digest":"d"}}', ("m", "d")),
        (b'{"environment":{}}', (None, None)),
        (b"[]", (None, None)),
        (b'{"environment":[]}', (None, None)),
        (b'{"environment":{"model":"m\\u0000","model_digest":"d"}}', (None, "d")),
    ],
)
def test_the_model_of_a_result(text: bytes, found: tuple[str | None, str | None]) -> None:
    assert results.read(final(text), text, 1 << 20) == (text, *found)


@given(size=st.integers(min_value=0, max_value=200_000))
def test_an_images_pieces_join_to_the_image(size: int) -> None:
    text = "QUJD" * size
    prepared = images.Prepared(msgspec.Raw(b"{}"), (("b", text),) if text else ())
    joined = ""
    for piece in prepared.pieces(lambda: 48 << 10):
        assert piece.offset == len(joined) // 4 * 3
        joined += piece.data
        assert piece.last == (len(joined) == len(text))
    assert joined == text


def test_parameters_that_would_make_a_frame_too_deep_for_an_agent_are_refused() -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' * levels + b"1" + b"}" * levels

    codec.decode(codec.encode_request(1, "generate", json_object(nested(limits.MAX_DEPTH - 1))))
    with pytest.raises(InvalidParams, match="nest at most"):
        json_object(nested(limits.MAX_DEPTH))


def test_parameters_that_fit_travel_as_they_came() -> None:
    raw = msgspec.Raw(b'{ "model": "m",  "images": ["QUJD"] }')
    assert images.prepare("generate", raw, 1 << 16).params is raw


def test_pages_replace_each_other_and_never_mix() -> None:
    pages, bounds = Pages(), Bounds(entries=10, size=100)
    assert pages.take(1, Page(index=0, last=False), ("a",), bounds, 60) is None
    assert pages.take(2, Page(index=0, last=False), ("b",), bounds, 60) is None
    with pytest.raises(ProtocolError):
        pages.take(1, Page(index=1, last=True), ("c",), bounds, 1)
    assert pages.take(2, Page(index=1, last=True), ("d",), bounds, 40) == ["b", "d"]
    with pytest.raises(TooLarge):
        pages.take(3, Page(), ("x",) * 11, bounds, 1)
    with pytest.raises(TooLarge):
        pages.take(3, Page(), ("x",), bounds, 101)


def test_a_bomb_is_unpacked_one_byte_further_than_announced() -> None:
    unpacked = results.unpack(gzip.compress(b" " * 5_000_000), "gzip", 10)
    assert unpacked is None
    tracemalloc.start()
    try:
        bomb = gzip.compress(b" " * 50_000_000)
        tracemalloc.reset_peak()
        results.unpack(bomb, "gzip", 10)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("asked_ms", "header"), [(1, "1"), (-5, "0"), (10**400, "3600")], ids=["soon", "past", "absurd"]
)
def test_whatever_wait_an_agent_names_the_header_is_one_that_a_client_can_read(
    asked_ms: int, header: str
) -> None:
    assert error_response(Busy("later", retry_after_ms=asked_ms)).headers["Retry-After"] == header


def test_of_a_gzip_bomb_no_more_is_unpacked_than_it_says() -> None:
    bomb = gzip.compress(b" " * (16 << 20))
    # The whole would be returned, and be wrong for its size: None says that its end was not reached.
    assert results.unpack(bomb, "gzip", 1000) is None
    assert results.unpack(gzip.compress(b"text"), "gzip", 4) == b"text"


def test_the_interface_takes_a_signature_for_what_the_table_of_commands_says() -> None:
    assert set(get_args(SignedMethod)) == SIGNED_METHODS
