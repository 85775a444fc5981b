"""Finals to the server: peeked, sent, and settled only when the server answered with the same hash.

    waiting() ─► job.part … job.part ─► job.finished ─► sha256 equal │ conflict ─► acknowledge
                     ▲                        │ resend_from
                     └────────────────────────┘

An entry that fails waits for its next turn, a little longer each time, and never holds up the others. A new
session tries everything again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import structlog

from obt_agent.errors import AgentError, LinkLost, ProtocolError, StorageFailed
from obt_agent.jobs.store.job_store import JobStore
from obt_agent.jobs.store.rows import FinalText, StoredJob
from obt_agent.protocol import limits
from obt_agent.protocol.jobs import (
    JobFinishedParams,
    JobFinishedResult,
    JobPartParams,
    JobPartResult,
    TerminalState,
)
from obt_agent.session import Session

log = structlog.get_logger(__name__)

# How often a server may ask for bytes again, so that a faulty one does not keep the link busy for ever.
MAX_REWINDS: Final = 16


# Bytes of a result in one ``job.part``, before base64.
PIECE_BYTES: Final = 12 << 10
# How long a server has to answer a part or a final: it may have to write the result to a slow disk.
ANSWER_WITHIN_S: Final = 120.0
# An entry that failed waits the first of these seconds for its next turn, doubling up to the second.
RETRY_S: Final = (15.0, 900.0)


@dataclass
class _Retry:
    """When an entry's next turn is (monotonic seconds), and how long it waited last."""

    at: float
    wait_s: float


class Uploader:
    """Sends the finals of one store over whatever session is admitted.

    Args:
        store: the jobs.
        clock: monotonic seconds.
        piece_bytes: how much of a result goes in one request, before base64.
        answer_within_s: how long the server has to answer a request.
        retry_s: least and longest seconds before an entry that failed is sent again.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        clock: Callable[[], float] = time.monotonic,
        piece_bytes: int = PIECE_BYTES,
        answer_within_s: float = ANSWER_WITHIN_S,
        retry_s: tuple[float, float] = RETRY_S,
    ) -> None:
        self._store = store
        self._clock = clock
        self._piece_bytes = piece_bytes
        self._answer_within_s = answer_within_s
        self._retry_s, self._retry_max_s = retry_s

    async def run(self, session: Session, server_time: float | None) -> None:
        """Serve one session until it ends; never raises ``LinkLost``.

        Args:
            session: the session.
            server_time: Unix seconds by the server's clock at this moment, if it is known.
        """
        # From monotonic seconds to Unix seconds by the server's clock.
        offset = None if server_time is None else server_time - self._clock()
        retries: dict[str, _Retry] = {}
        try:
            if server_time is not None:
                await self._expire(server_time)
            while True:
                generation = self._store.generation
                try:
                    await self._turn(session, offset, retries)
                except StorageFailed as error:
                    log.warning("upload.store_not_read", reason=error.message, again_in_s=self._retry_s)
                    await self._wait_at_most(generation, self._retry_s)
                else:
                    await self._wait(generation, retries)
        except LinkLost:
            log.debug("upload.session_ended", session=session.number)

    async def drain(self, within_s: float) -> bool:
        """Wait until no result waits, at most ``within_s`` seconds; return whether none does."""
        try:
            async with asyncio.timeout(within_s):
                while self._store.waiting_counts.entries:
                    await self._store.wait_changed(self._store.generation)
        except TimeoutError:
            return False
        return True

    async def _expire(self, server_time: float) -> None:
        # Old tombstones can wait for the next session: a failure is not this one's.
        try:
            await self._store.expire(server_time)
        except StorageFailed as error:
            log.warning("store.not_expired", reason=error.message)

    async def _turn(self, session: Session, offset: float | None, retries: dict[str, _Retry]) -> None:
        """Send every entry whose turn it is."""
        for job in await self._store.waiting():
            retry = retries.get(job.job_id)
            if retry is not None and retry.at > self._clock():
                continue
            try:
                await self._send(session, job, None if offset is None else offset + self._clock())
                retries.pop(job.job_id, None)
            except LinkLost:
                raise
            except AgentError as error:
                await self._failed(job, error, retries)

    async def _failed(self, job: StoredJob, error: AgentError, retries: dict[str, _Retry]) -> None:
        before = retries.get(job.job_id)
        wait_s = self._retry_s if before is None else min(before.wait_s * 2, self._retry_max_s)
        retries[job.job_id] = _Retry(at=self._clock() + wait_s, wait_s=wait_s)
        log.warning(
            "upload.not_acknowledged",
            job_id=job.job_id,
            kind=error.kind,
            reason=error.message,
            attempts=job.attempts + 1,
            again_in_s=wait_s,
        )
        # A count for people, not worth a retry.
        with contextlib.suppress(StorageFailed):
            await self._store.failed_upload(job.job_id)

    async def _wait(self, generation: int, retries: dict[str, _Retry]) -> None:
        """Until the store changes or an entry's next turn comes."""
        due = min((retry.at for retry in retries.values()), default=None)
        await self._wait_at_most(generation, None if due is None else max(0.0, due - self._clock()))

    async def _wait_at_most(self, generation: int, timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._store.wait_changed(generation)
        except TimeoutError:
            return

    async def _send(self, session: Session, job: StoredJob, server_time: float | None) -> None:
        """Send one final until the server settles it.

        Raises:
            LinkLost, or why the entry failed this time.
        """
        final = await self._store.result(job.job_id)
        if final is None or job.kind is None:
            # Settled meanwhile, by its owner or by an earlier session.
            return
        # In a thread: unpacking and hashing megabytes would hold up the link.
        if not await asyncio.to_thread(lambda: final.whole):
            raise StorageFailed(
                "The stored result is no longer the one that was stored; see the agent's log."
            )
        inline = final.encoding == "identity" and final.size <= limits.INLINE_RESULT_BYTES
        if not inline:
            await self._send_parts(session, job.job_id, final, 0)
        answer = await self._finished(session, job, final, inline=inline)
        for _ in range(MAX_REWINDS):
            if answer.resend_from is None:
                break
            await self._send_parts(session, job.job_id, final, answer.resend_from)
            answer = await self._finished(session, job, final, inline=False)
        await self._settle(job, final, answer, server_time)

    async def _settle(
        self, job: StoredJob, final: FinalText, answer: JobFinishedResult, server_time: float | None
    ) -> None:
        # Only the server's word that it has these very bytes lets the agent give up its copy.
        if answer.job_id != job.job_id:
            raise ProtocolError(f"The server answered for job {answer.job_id!r}.")
        if answer.conflict:
            log.warning("upload.conflict", job_id=job.job_id, what_now="the server keeps another result")
        elif answer.sha256 != final.sha256:
            raise ProtocolError("The server answered with another sha256 than that of the result.")
        await self._store.acknowledge(job.job_id, final.sha256, server_time, conflict=answer.conflict)
        log.info("job.acknowledged", job_id=job.job_id, bytes=final.size, conflict=answer.conflict)

    async def _finished(
        self, session: Session, job: StoredJob, final: FinalText, *, inline: bool
    ) -> JobFinishedResult:
        params = JobFinishedParams(
            job_id=job.job_id,
            kind=job.kind or "benchmark",
            # Only jobs that have ended wait here.
            state=cast("TerminalState", job.state),
            bytes=final.size,
            sha256=final.sha256,
            encoding=final.encoding,
            result=final.stored.decode() if inline else None,
            error=job.error,
        )
        within = self._answer_within_s
        return await session.request("job.finished", params, JobFinishedResult, timeout_s=within, bulk=True)

    async def _send_parts(self, session: Session, job_id: str, final: FinalText, start: int) -> None:
        """Send pieces from ``start``; the server's next offset leads, within bounds."""
        data, offset, rewinds = final.stored, start, 0
        if not _may_start(final, start):
            raise ProtocolError(f"The server asks for offset {start} of {len(data)} bytes.")
        while offset < len(data):
            # Base64 adds a third.
            size = min(self._piece_bytes, session.piece_bytes * 3 // 4)
            end = piece_end(data, offset, size, text=final.encoding == "identity")
            expected = await self._part(session, job_id, final, data[offset:end], offset)
            if expected != end:
                rewinds += 1
                if rewinds > MAX_REWINDS or not _may_start(final, expected):
                    raise ProtocolError(f"The server expects offset {expected} after {end}.")
            offset = expected

    async def _part(self, session: Session, job_id: str, final: FinalText, piece: bytes, offset: int) -> int:
        text = piece.decode() if final.encoding == "identity" else base64.b64encode(piece).decode()
        params = JobPartParams(job_id=job_id, offset=offset, data=text, encoding=final.encoding)
        within = self._answer_within_s
        answer = await session.request("job.part", params, JobPartResult, timeout_s=within, bulk=True)
        return answer.next_offset


def _may_start(final: FinalText, offset: int) -> bool:
    """Whether a piece may begin there: within the result, and not inside a character of a text."""
    data = final.stored
    if not 0 <= offset < len(data):
        return offset == len(data)
    return final.encoding != "identity" or data[offset] & 0xC0 != 0x80  # noqa: PLR2004 - UTF-8's continuation bytes


def piece_end(data: bytes, start: int, size: int, *, text: bool) -> int:
    """Where a piece ends that begins at ``start``: never inside a character of a text."""
    end = min(start + size, len(data))
    while text and end < len(data) and data[end] & 0xC0 == 0x80:  # noqa: PLR2004 - UTF-8's continuation bytes
        end -= 1
    return end
