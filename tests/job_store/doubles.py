"""A server's side of the upload, as a session that answers as it is told."""

import asyncio
import base64
import gzip
import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from obt_agent.errors import AgentError, LinkLost
from obt_agent.jobs.store import NewJob
from obt_agent.protocol.jobs import (
    JobFinishedParams,
    JobFinishedResult,
    JobPartParams,
    JobPartResult,
    JobProgressParams,
)
from tests.dispatcher.doubles import FakeSession

Answer = Callable[[Any], Any]


class ServerSession(FakeSession):
    """Stores results as a server does: parts by offset, the first final wins, hashes what it received.

    ``on`` holds overriding answers by job id, each used once: an error to raise, or a function of the params.
    """

    def __init__(self, session: int = 1) -> None:
        super().__init__(session)
        self.results: dict[str, bytes] = {}
        self.states: dict[str, str] = {}
        self.finals: list[str] = []
        self.parts: dict[str, bytearray] = {}
        self.part_offsets: list[int] = []
        self.progress: list[JobProgressParams] = []
        self.progressed = asyncio.Event()
        self.on_part: list[AgentError | Answer] = []
        self.on_final: dict[str, list[AgentError | Answer]] = {}
        self.calls: list[str] = []

    async def request(
        self, method: str, params: Any, result: Any, *, timeout_s: float, bulk: bool = False
    ) -> Any:
        await asyncio.sleep(0)
        if not self.alive:
            raise LinkLost("The session ended.")
        assert bulk, f"{method} must take its turn behind control"
        self.calls.append(f"{method} {params.job_id}")
        wire = msgspec.json.decode(msgspec.json.encode(params), type=type(params))
        answer = self._part(wire) if method == "job.part" else self._finished(wire)
        return msgspec.convert(msgspec.to_builtins(answer), result)

    def notify(self, method: str, params: Any, *, droppable: bool = False) -> bool:
        if not self.alive:
            raise LinkLost("The session ended.")
        assert method == "job.progress"
        assert droppable
        self.progress.append(params)
        self.progressed.set()
        return True

    def _part(self, params: JobPartParams) -> Any:
        if self.on_part:
            return _answered(self.on_part.pop(0), params)
        data = base64.b64decode(params.data) if params.encoding == "gzip" else params.data.encode()
        held = self.parts.setdefault(params.job_id, bytearray())
        if params.offset == 0:
            held.clear()
        self.part_offsets.append(params.offset)
        if params.offset == len(held):
            held += data
        return JobPartResult(job_id=params.job_id, next_offset=len(held))

    def _finished(self, params: JobFinishedParams) -> Any:
        answers = self.on_final.get(params.job_id)
        if answers:
            return _answered(answers.pop(0), params)
        return self.store(params)

    def store(self, params: JobFinishedParams) -> JobFinishedResult:
        """What a good server does with a final."""
        text = self._received(params)
        if text is None or hashlib.sha256(text).hexdigest() != params.sha256:
            return JobFinishedResult(job_id=params.job_id, resend_from=0)
        assert len(text) == params.bytes
        if self.results.setdefault(params.job_id, text) != text:
            return JobFinishedResult(job_id=params.job_id, conflict=True)
        self.states[params.job_id] = params.state
        self.finals.append(params.job_id)
        return JobFinishedResult(job_id=params.job_id, sha256=hashlib.sha256(text).hexdigest())

    def _received(self, params: JobFinishedParams) -> bytes | None:
        if params.result is not None:
            return params.result.encode()
        held = bytes(self.parts.get(params.job_id, b""))
        try:
            return gzip.decompress(held) if params.encoding == "gzip" else held
        except (EOFError, OSError):
            return None


def _answered(answer: AgentError | Answer, params: Any) -> Any:
    if isinstance(answer, AgentError):
        raise answer
    return answer(params)


def new_job(job_id: str = "j", *, params: bytes = b"{}", reserve: int = 1000, **more: Any) -> NewJob:
    fields: dict[str, Any] = {
        "kind": "benchmark",
        "model": "tiny",
        "fingerprint": hashlib.sha256(params).hexdigest(),
        "not_after": None,
    }
    return NewJob(job_id=job_id, params=params, reserve_bytes=reserve, **(fields | more))
