"""[JOB]: starts, results in one piece and in several, and what is said when a result is stored."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

from obt_agent.protocol import limits
from obt_conformance.checks import RuleBroken, Untested
from obt_conformance.server_harness import AgentConnection, ServerHarness
from obt_conformance.server_rules.registry import CHECKS
from obt_conformance.wire import Frame, JsonObject

PIECE = 8 << 10


@dataclass(frozen=True)
class KitJob:
    """A job of the kit's agent."""

    agent: AgentConnection
    job_id: str
    started: bool
    """Whether the server started it; else it hears of it with the result."""

    async def finished(self, text: str, *, inline: bool, **changes: object) -> Frame:
        """The final; gives the server's answer."""
        params: JsonObject = {
            "job_id": self.job_id,
            "kind": "benchmark",
            "state": "completed",
            "bytes": len(text.encode()),
            "sha256": digest(text),
            "encoding": "identity",
            **({"result": text} if inline else {}),
            **changes,
        }
        answer = await self.agent.wire.ask("job.finished", params)
        if answer.error_code is not None and not self.started:
            raise Untested(
                f"the server takes no result of a job that it did not start ({answer.error_message}): "
                "give --trigger"
            )
        return answer

    async def acknowledged(self, text: str, *, inline: bool, **changes: object) -> str:
        """The final, acknowledged with its sha256.

        Raises:
            RuleBroken: it was not.
        """
        answer = await self.finished(text, inline=inline, **changes)
        result = answer.result if isinstance(answer.result, dict) else {}
        if result.get("sha256") != digest(text) or result.get("job_id") != self.job_id:
            raise RuleBroken(f"job.finished was answered with {answer.message}"[:300])
        if result.get("conflict") or result.get("resend_from") is not None:
            raise RuleBroken(f"acknowledged, and not: {answer.message}"[:300])
        return "acknowledged with its sha256"

    async def parts(self, data: bytes, encoding: str) -> None:
        """The pieces, each acknowledged."""
        offset = 0
        while offset < len(data):
            piece = data[offset : offset + PIECE]
            if encoding == "identity":
                text = piece.decode(errors="ignore")  # a character that the border cuts goes with the next
                piece = text.encode()
            else:
                text = base64.b64encode(piece).decode()
            await self.part(offset, text, encoding)
            offset += len(piece)

    async def part(self, offset: int, text: str, encoding: str = "identity") -> Frame:
        """One piece."""
        params = {"job_id": self.job_id, "offset": offset, "data": text, "encoding": encoding}
        answer = await self.agent.wire.ask("job.part", params)
        if answer.error_code is not None and not self.started:
            raise Untested("the server takes no piece of a job that it did not start: give --trigger")
        if answer.error_code is not None:
            raise RuleBroken(f"job.part was answered with error {answer.error_code} {answer.error_message}")
        return answer


def digest(text: str) -> str:
    """SHA-256 of the text's UTF-8, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def result_text(size: int = 0) -> str:
    """A result; not ASCII alone, so that bytes and characters differ."""
    return json.dumps({"status": "completed", "note": "é" * (size // 2)}, ensure_ascii=False)


@contextlib.asynccontextmanager
async def running_job(harness: ServerHarness) -> AsyncIterator[KitJob]:
    """A job that the server started where it can be made to, else one that it never heard of."""
    async with harness.agent() as agent:
        if harness.driver is None:
            yield KitJob(agent, f"conformance-{uuid.uuid4()}", started=False)
            return
        async with harness.provoked(agent, "run_benchmark") as (_, request):
            yield KitJob(agent, await accept(agent, request), started=True)


async def accept(agent: AgentConnection, request: Frame) -> str:
    """Answer a start as an agent does that has stored the job; gives its id.

    Raises:
        RuleBroken: the id is no job id.
    """
    job_id = request.params.get("job_id")
    if not isinstance(job_id, str) or not 1 <= len(job_id) <= limits.MAX_JOB_ID_CHARS:
        raise RuleBroken(f"job_id is {job_id!r}"[:200])
    result = {"job_id": job_id, "state": "queued"}
    await agent.wire.send({"jsonrpc": "2.0", "id": request.id, "result": result})
    return job_id


@CHECKS.check("JOB-1", "each start names a job_id of its own and a plan")
async def own_ids(harness: ServerHarness) -> str:
    """Two starts are two jobs."""
    ids = []
    async with harness.agent() as agent:
        for _ in range(2):
            async with harness.provoked(agent, "run_benchmark") as (_, request):
                ids.append(await accept(agent, request))
                if not isinstance(request.params.get("plan"), dict):
                    raise RuleBroken("run_benchmark came without a plan")
    if len(set(ids)) != len(ids):
        raise RuleBroken(f"two starts had one job_id: {ids[0]}")
    return ", ".join(ids)


@CHECKS.check("JOB-2", "a start that was not answered is repeated, if at all, with equal parameters")
async def repeated_start(harness: ServerHarness) -> str:
    """The answer is lost with the link."""
    async with harness.agent() as agent, harness.provoked(agent, "run_benchmark") as (_, request):
        agent.wire.abort()
    async with harness.agent() as agent:
        sync = {
            "revision": 1,
            "page": {"index": 0, "last": True},
            "store_id": harness.hello()["store_id"],
            "jobs": [],
        }
        await agent.wire.ask("jobs.sync", sync)
        await agent.wire.quiet_for(harness.deadlines.quiet_s)
        again = [
            frame
            for frame in agent.wire.of("run_benchmark")
            if frame.params.get("job_id") == request.params.get("job_id")
        ]
        for frame in again:
            if frame.params != request.params:
                raise RuleBroken("the start came again with other parameters")
            await accept(agent, frame)
    return "repeated with equal parameters" if again else "not repeated"


@CHECKS.check("JOB-3", "progress is taken, and terminal states of every kind")
async def states(harness: ServerHarness) -> str:
    """A failed job has a final too."""
    seen = []
    for state in ("completed", "failed", "cancelled", "interrupted"):
        async with running_job(harness) as job:
            progress = {"phase": "iteration", "iteration": 1, "iterations_planned": 2}
            params = {"job_id": job.job_id, "state": "running", "progress": progress}
            await job.agent.wire.notify("job.progress", params)
            await job.acknowledged(result_text(), inline=True, state=state)
            seen.append(state)
    return ", ".join(seen)


@CHECKS.check("JOB-4", "a small result comes inline, its text as a string")
async def inline(harness: ServerHarness) -> str:
    """Hashed as it was stored."""
    async with running_job(harness) as job:
        return await job.acknowledged(result_text(20_000), inline=True)


@CHECKS.check("JOB-4", "a large result comes in pieces of text")
async def identity_parts(harness: ServerHarness) -> str:
    """Offsets count UTF-8 bytes."""
    async with running_job(harness) as job:
        text = result_text(40_000)
        await job.parts(text.encode(), "identity")
        return await job.acknowledged(text, inline=False)


@CHECKS.check("JOB-4", "a large result comes gzipped, in base64")
async def gzip_parts(harness: ServerHarness) -> str:
    """Bytes and sha256 are those of the text before compression."""
    async with running_job(harness) as job:
        text = json.dumps([uuid.uuid4().hex for _ in range(2000)])
        await job.parts(gzip.compress(text.encode()), "gzip")
        return await job.acknowledged(text, inline=False, encoding="gzip")


@CHECKS.check("JOB-5", "a piece that is missing is requested again")
async def missing_part(harness: ServerHarness) -> str:
    """Then all of it is acknowledged."""
    async with running_job(harness) as job:
        text = result_text(40_000)
        await job.part(0, text[: PIECE // 2])
        answer = await job.finished(text, inline=False)
        result = answer.result if isinstance(answer.result, dict) else {}
        offset = result.get("resend_from")
        if not isinstance(offset, int) or result.get("sha256") is not None:
            raise RuleBroken(f"half a result was answered with {answer.message}"[:300])
        await job.parts(text.encode(), "identity")
        await job.acknowledged(text, inline=False)
        return f"resend_from {offset}, then acknowledged"


@CHECKS.check("JOB-5", "a result that differs from its sha256 is not acknowledged")
async def wrong_hash(harness: ServerHarness) -> str:
    """An agent would remove its only copy."""
    async with running_job(harness) as job:
        text = result_text()
        await job.finished(text, inline=True)  # whether results of such a job are taken at all
    async with running_job(harness) as job:
        wrong = "0" * 64
        answer = await job.agent.wire.ask(
            "job.finished",
            {
                "job_id": job.job_id,
                "kind": "benchmark",
                "state": "completed",
                "bytes": len(text.encode()),
                "sha256": wrong,
                "encoding": "identity",
                "result": text,
            },
        )
        if isinstance(answer.result, dict) and answer.result.get("sha256") == wrong:
            raise RuleBroken("acknowledged")
        return "not acknowledged"


@CHECKS.check("JOB-5", "a final whose acknowledgement was lost is acknowledged again")
async def lost_acknowledgement(harness: ServerHarness) -> str:
    """In the next session too."""
    async with running_job(harness) as job:
        text = result_text()
        await job.acknowledged(text, inline=True)
    async with harness.agent() as agent:
        again = KitJob(agent, job.job_id, started=True)
        return await again.acknowledged(text, inline=True)


@CHECKS.check("JOB-6", "a different result of the same job is answered conflict")
async def conflict(harness: ServerHarness) -> str:
    """The first one stays."""
    async with running_job(harness) as job:
        await job.acknowledged(result_text(), inline=True)
        answer = await job.finished(result_text(100), inline=True)
        if not isinstance(answer.result, dict) or answer.result.get("conflict") is not True:
            raise RuleBroken(f"answered with {answer.message}"[:300])
        await job.acknowledged(result_text(), inline=True)
        return "conflict: true; the first is still acknowledged"


@CHECKS.check("JOB-6", "a result that is refused does not hold up the next")
async def one_bad_entry(harness: ServerHarness) -> str:
    """An entry that no server takes."""
    async with running_job(harness) as job:
        await job.agent.wire.ask("job.finished", {"job_id": "", "state": "running"})
        return await job.acknowledged(result_text(), inline=True)
