"""Finals to the server: peek, send, acknowledge; whatever the server answers."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.errors import AgentError, DeadlineExceeded, LinkLost
from obt_agent.jobs.store import JobStore
from obt_agent.jobs.store.upload import Uploader, piece_end
from obt_agent.protocol.jobs import JobFinishedResult, JobPartResult
from tests.job_store.doubles import ServerSession, new_job

SMALL = b'{"small":"\xc3\xa9"}'
LARGE = b'{"large":"' + hashlib.sha512(b"x").hexdigest().encode() * 3000 + "é".encode() * 40_000 + b'"}'
FAST: dict[str, Any] = {"piece_bytes": 500, "answer_within_s": 5, "retry_s": (0.01, 0.02)}


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[JobStore]:
    box = JobStore(tmp_path)
    await box.open()
    yield box
    await box.close()


async def finished(outbox: JobStore, job_id: str, text: bytes = SMALL) -> None:
    await outbox.accept(new_job(job_id))
    await outbox.finish(job_id, "completed", text)


class Serving:
    """An uploader at work on one session."""

    def __init__(self, outbox: JobStore, peer: ServerSession) -> None:
        self.outbox = outbox
        self.peer = peer
        self.uploader = Uploader(outbox, **FAST)

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self.uploader.run(self.peer, 1000.0))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await self.outbox.wait_changed(self.outbox.generation)


async def test_a_small_result_goes_inline_and_leaves_a_tombstone(outbox: JobStore) -> None:
    await finished(outbox, "j")
    peer = ServerSession()
    async with Serving(outbox, peer) as serving:
        assert await serving.uploader.drain(20)
    assert peer.results == {"j": SMALL}
    assert peer.calls == ["job.finished j"]
    job = await outbox.get("j")
    assert job is not None
    assert job.acknowledged


async def test_a_large_result_goes_in_gzipped_pieces_and_arrives_byte_for_byte(outbox: JobStore) -> None:
    await finished(outbox, "j", LARGE)
    peer = ServerSession()
    async with Serving(outbox, peer) as serving:
        assert await serving.uploader.drain(20)
    assert peer.results == {"j": LARGE}
    assert len(peer.part_offsets) > 1
    assert peer.part_offsets == sorted(peer.part_offsets)


async def test_what_ends_during_a_session_is_sent_in_it(outbox: JobStore) -> None:
    peer = ServerSession()
    async with Serving(outbox, peer) as serving:
        await finished(outbox, "j")
        await serving.until(lambda: "j" in peer.results)
        await finished(outbox, "k")
        await serving.until(lambda: "k" in peer.results)
    assert peer.finals == ["j", "k"]


@pytest.mark.parametrize("text", [SMALL, LARGE], ids=["inline", "in pieces"])
async def test_resend_from_sends_pieces_from_there(outbox: JobStore, text: bytes) -> None:
    await finished(outbox, "j", text)
    peer = ServerSession()

    def lost_the_end(params: Any) -> JobFinishedResult:
        held = peer.parts.setdefault("j", bytearray())
        del held[len(held) // 2 :]
        return JobFinishedResult(job_id="j", resend_from=len(held))

    peer.on_final["j"] = [lost_the_end, lost_the_end]
    async with Serving(outbox, peer) as serving:
        assert await serving.uploader.drain(20)
    assert peer.results == {"j": text}


async def test_a_server_that_expects_another_offset_leads(outbox: JobStore) -> None:
    await finished(outbox, "j", LARGE)
    peer = ServerSession()
    peer.on_part = [lambda p: JobPartResult(job_id="j", next_offset=0)] * 3
    async with Serving(outbox, peer) as serving:
        assert await serving.uploader.drain(20)
    assert peer.results == {"j": LARGE}
    assert peer.part_offsets[0] == 0


async def test_a_conflict_settles_the_entry_and_keeps_the_result_aside(outbox: JobStore) -> None:
    await finished(outbox, "j")
    peer = ServerSession()
    peer.results["j"] = b'{"another":1}'
    async with Serving(outbox, peer) as serving:
        assert await serving.uploader.drain(20)
    assert peer.results == {"j": b'{"another":1}'}
    final = await outbox.result("j")
    assert final is not None
    assert final.text == SMALL


WRONG: dict[str, Callable[[Any], Any]] = {
    "another hash": lambda p: JobFinishedResult(job_id="bad", sha256="0" * 64),
    "no hash": lambda p: JobFinishedResult(job_id="bad"),
    "another job": lambda p: JobFinishedResult(job_id="other", sha256=p.sha256),
    "an offset beyond the end": lambda p: JobFinishedResult(job_id="bad", resend_from=1 << 40),
    "an offset below 0": lambda p: JobFinishedResult(job_id="bad", resend_from=-1),
    "for ever again": lambda p: JobFinishedResult(job_id="bad", resend_from=0),
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG.keys())
async def test_nothing_but_its_own_hash_settles_an_entry_and_others_pass_it(
    outbox: JobStore, answer: Callable[[Any], Any]
) -> None:
    await finished(outbox, "bad")
    await finished(outbox, "good")
    peer = ServerSession()
    peer.on_final["bad"] = [answer] * 1000
    async with Serving(outbox, peer) as serving:
        await serving.until(lambda: "good" in peer.results)
        while True:
            job = await outbox.get("bad")
            assert job is not None
            if job.attempts >= 2:
                break
            await asyncio.sleep(0.001)
    assert not job.acknowledged
    assert [waiting.job_id for waiting in await outbox.waiting()] == ["bad"]
    async with Serving(outbox, ServerSession(2)) as serving:
        assert await serving.uploader.drain(20), "the next session tries again at once"


@pytest.mark.parametrize("error", [DeadlineExceeded("late", waited_for="job.finished"), AgentError("broken")])
async def test_an_entry_that_the_server_fails_on_is_tried_again_in_the_session(
    outbox: JobStore, error: AgentError
) -> None:
    await finished(outbox, "j")
    peer = ServerSession()
    peer.on_final["j"] = [error, error, error]
    async with Serving(outbox, peer) as serving:
        assert await serving.uploader.drain(20)
    assert peer.finals == ["j"]


async def test_a_part_that_never_fits_fails_its_entry_only(outbox: JobStore) -> None:
    await finished(outbox, "bad", LARGE)
    await finished(outbox, "good")
    peer = ServerSession()
    peer.on_part = [lambda p: JobPartResult(job_id="bad", next_offset=0)] * 100
    async with Serving(outbox, peer) as serving:
        assert await serving.uploader.drain(20), "the server came to its senses"
    assert peer.results["good"] == SMALL
    assert peer.results["bad"] == LARGE


async def test_a_lost_session_ends_the_upload_and_the_next_one_goes_on(outbox: JobStore) -> None:
    await finished(outbox, "j", LARGE)
    lost, peer = ServerSession(1), ServerSession(2)

    def breaks(params: Any) -> Any:
        lost.alive = False
        raise LinkLost("cut")

    lost.on_part = [breaks]
    async with Serving(outbox, lost) as serving:
        async with asyncio.timeout(20):
            await serving.task
    assert outbox.waiting_counts.entries == 1
    async with Serving(outbox, peer) as serving:
        assert await serving.uploader.drain(20)
    assert peer.finals == ["j"]


async def test_an_acknowledgement_that_is_lost_leads_to_a_second_sending_of_the_same(
    outbox: JobStore,
) -> None:
    await finished(outbox, "j")
    peer = ServerSession()

    def stores_and_breaks(params: Any) -> Any:
        peer.store(params)
        raise LinkLost("cut after the server's commit")

    peer.on_final["j"] = [stores_and_breaks]
    async with Serving(outbox, peer) as serving, asyncio.timeout(20):
        await serving.task
    again = ServerSession(2)
    again.results = peer.results
    async with Serving(outbox, again) as serving:
        assert await serving.uploader.drain(20)
    assert again.results == {"j": SMALL}


async def test_a_drain_ends_in_time_when_nobody_answers(outbox: JobStore) -> None:
    await finished(outbox, "j")
    assert not await Uploader(outbox).drain(0.01)


@given(st.text(max_size=60), st.integers(4, 9))
def test_pieces_of_a_text_never_cut_a_character_and_join_to_the_whole(text: str, size: int) -> None:
    data = text.encode()
    pieces, start = [], 0
    while start < len(data):
        end = piece_end(data, start, size, text=True)
        assert start < end <= start + size
        pieces.append(data[start:end].decode())
        start = end
    assert "".join(pieces) == text


@pytest.mark.parametrize("ask", ["resend_from", "next_offset"])
async def test_an_offset_inside_a_character_is_refused_and_the_session_goes_on(
    outbox: JobStore, ask: str
) -> None:
    inside = SMALL.index(b"\xa9")
    await finished(outbox, "bad")
    await finished(outbox, "good", b"{}")
    peer = ServerSession()
    if ask == "resend_from":
        peer.on_final["bad"] = [lambda p: JobFinishedResult(job_id="bad", resend_from=inside)]
    else:
        peer.on_final["bad"] = [lambda p: JobFinishedResult(job_id="bad", resend_from=0)]
        peer.on_part = [lambda p: JobPartResult(job_id="bad", next_offset=inside)]
    async with Serving(outbox, peer) as serving:
        assert await serving.uploader.drain(20)
    assert peer.results == {"bad": SMALL, "good": b"{}"}
