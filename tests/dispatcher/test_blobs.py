"""Blobs: pieces in order, bounded together, gone when nobody uses them."""

import base64

import pytest

from obt_agent.dispatcher import Dispatcher
from obt_agent.dispatcher.blobs import MAX_BLOBS, Blobs
from obt_agent.dispatcher.core import DispatchLimits
from obt_agent.errors import Busy, InvalidParams, TooLarge
from obt_agent.protocol.byte_budget import ByteBudget
from obt_agent.protocol.streams import BlobPut
from tests.dispatcher.doubles import FakeSession, permissive, request
from tests.waiting import until


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def piece(blob: str, data: bytes, offset: int = 0, *, last: bool = False) -> BlobPut:
    return BlobPut(blob=blob, offset=offset, data=base64.b64encode(data).decode(), last=last)


def test_pieces_are_joined_in_order_and_kept_for_several_requests() -> None:
    blobs = Blobs(Clock(), ByteBudget())
    blobs.put(piece("b", b"one "))
    assert blobs.put(piece("b", b"two", 4, last=True)).bytes == 7
    assert blobs.get("b") == bytes(blobs.get("b")) == b"one two"


def test_offset_0_starts_anew_and_frees_what_was_there() -> None:
    blobs = Blobs(Clock(), ByteBudget(), max_bytes=4)
    blobs.put(piece("b", b"aaaa", last=True))
    blobs.put(piece("b", b"bbbb", last=True))
    assert bytes(blobs.get("b")) == b"bbbb"
    assert blobs.held_bytes == 4


@pytest.mark.parametrize("offset", [1, 5])
def test_a_hole_is_refused_with_the_offset_expected(offset: int) -> None:
    blobs = Blobs(Clock(), ByteBudget())
    blobs.put(piece("b", b"abc"))
    with pytest.raises(InvalidParams, match="goes on at 3"):
        blobs.put(piece("b", b"d", offset))


def test_nothing_follows_the_last_piece() -> None:
    blobs = Blobs(Clock(), ByteBudget())
    blobs.put(piece("b", b"abc", last=True))
    with pytest.raises(InvalidParams, match="anew at 0"):
        blobs.put(piece("b", b"d", 3))


def test_what_is_not_base64_is_refused() -> None:
    with pytest.raises(InvalidParams, match="base64"):
        Blobs(Clock(), ByteBudget()).put(BlobPut(blob="b", offset=0, data="%%%%"))


def test_a_blob_without_its_last_piece_is_not_here() -> None:
    blobs = Blobs(Clock(), ByteBudget())
    blobs.put(piece("b", b"abc"))
    with pytest.raises(InvalidParams, match="last: true"):
        blobs.get("b")


def test_all_blobs_together_are_bounded_in_bytes_and_number() -> None:
    blobs = Blobs(Clock(), ByteBudget(), max_bytes=1000)
    blobs.put(piece("a", b"x" * 600))
    with pytest.raises(TooLarge):
        blobs.put(piece("b", b"x" * 401))
    assert blobs.held_bytes == 600
    many = Blobs(Clock(), ByteBudget())
    for number in range(MAX_BLOBS):
        many.put(piece(f"b{number}", b"x"))
    with pytest.raises(TooLarge):
        many.put(piece("one more", b"x"))
    many.put(piece("b0", b"y", 1))


def test_blobs_count_in_the_budget_of_the_process_until_they_go() -> None:
    clock, budget = Clock(), ByteBudget(1000)
    blobs, others = Blobs(clock, budget, lifetime_s=60), Blobs(clock, budget, lifetime_s=90)
    blobs.put(piece("a", b"x" * 600))
    blobs.put(piece("a", b"y" * 300))
    others.put(piece("a", b"x" * 600))
    with pytest.raises(Busy) as refused:
        blobs.put(piece("b", b"x" * 101))
    assert refused.value.retry_after_ms
    assert (budget.held_bytes, blobs.held_bytes) == (900, 300)
    clock.now = 60.0
    blobs.expire()
    assert budget.held_bytes == 600
    others.clear()
    assert budget.held_bytes == 0


def test_a_blob_that_nobody_uses_goes_after_its_time() -> None:
    clock = Clock()
    blobs = Blobs(clock, ByteBudget(), lifetime_s=60)
    blobs.put(piece("b", b"abc", last=True))
    clock.now = 59.9
    assert bytes(blobs.get("b")) == b"abc"
    clock.now = 60.0
    with pytest.raises(InvalidParams):
        blobs.get("b")
    assert blobs.held_bytes == 0


async def test_blobs_of_a_silent_session_are_swept_without_another_request() -> None:
    session = FakeSession()
    desk = Dispatcher((), permissive(), bounds=DispatchLimits(blob_lifetime_s=0.2))
    data = base64.b64encode(b"x" * 100_000).decode()
    desk.on_request(session, request(1, "blob.put", blob="b", offset=0, data=data, last=True))
    assert desk.blob_bytes == 100_000
    await until(lambda: desk.blob_bytes == 0)
    desk.on_request(session, request(2, "blob.put", blob="b", offset=0, data=data, last=True))
    assert desk.blob_bytes == 100_000
    desk.session_ended(session)
    assert desk.blob_bytes == 0
