"""[JOB]: starts, results in one piece and in several, and how the server acknowledges them."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import get_args

from obt_agent.protocol import limits
from obt_agent.protocol.jobs import TerminalState
from obt_conformance.checks import RuleBroken, Untested, require
from obt_conformance.drivers import NO_QUERY
from obt_conformance.frames import Frame, JsonObject
from obt_conformance.identity import sha256
from obt_conformance.server_harness import CHECKS, AgentConnection, ServerHarness

PIECE = 8 << 10
TERMINAL = get_args(TerminalState)


@dataclass(frozen=True)
class KitJob:
    """A job of the kit's agent."""

    agent: AgentConnection
    job_id: str
    # Whether the server started it; else it hears of it with the result.
    started: bool

    async def finished(self, text: str, *, inline: bool, **changes: object) -> Frame:
        """The final; return the server's answer."""
        params: JsonObject = {
            "job_id": self.job_id,
            "kind": "benchmark",
            "state": "completed",
            "bytes": len(text.encode()),
            "sha256": sha256(text),
            "encoding": "identity",
            **({"result": text} if inline else {}),
            **changes,
        }
        answer = await self.agent.wire.ask("job.finished", params)
        # A server need not take what it never asked for, and says nothing of its rules then.
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
        result = answer.result
        named = result.get("sha256") == sha256(text) and result.get("job_id") == self.job_id
        require(named, f"job.finished was answered with {answer.message}")
        withheld = result.get("conflict") or result.get("resend_from") is not None
        require(not withheld, f"acknowledged, and not: {answer.message}")
        return "acknowledged with its sha256"

    async def parts(self, data: bytes, encoding: str) -> None:
        """A result in pieces."""
        offset = 0
        while offset < len(data):
            piece = data[offset : offset + PIECE]
            if encoding == "identity":
                # A character that the border cuts goes with the next piece.
                text = piece.decode(errors="ignore")
                piece = text.encode()
            else:
                text = base64.b64encode(piece).decode()
            await self.part(offset, text, encoding)
            offset += len(piece)

    async def part(self, offset: int, text: str, encoding: str = "identity") -> int:
        """One piece; return the next offset that the answer names."""
        params = {"job_id": self.job_id, "offset": offset, "data": text, "encoding": encoding}
        answer = await self.agent.wire.ask("job.part", params)
        if answer.error_code is not None and not self.started:
            raise Untested("the server takes no piece of a job that it did not start: give --trigger")
        code = answer.error_code
        require(code is None, f"job.part was answered with error {code} {answer.error_message}")
        following = answer.result.get("next_offset")
        if not isinstance(following, int):
            raise RuleBroken(f"job.part was answered with {answer.message}")
        return following


def result_text(size: int = 0) -> str:
    """A result; not ASCII alone, so that bytes and characters differ."""
    return json.dumps({"status": "completed", "note": "é" * (size // 2)}, ensure_ascii=False)


@contextlib.asynccontextmanager
async def running_job(harness: ServerHarness) -> AsyncIterator[KitJob]:
    """A job that the server started where it can be made to, else one that it never heard of."""
    async with harness.admitted() as agent:
        if not harness.driver.triggers:
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
        raise RuleBroken(f"job_id is {job_id!r}")
    await agent.wire.reply(request, {"job_id": job_id, "state": "queued"})
    return job_id


@CHECKS.check("JOB-1", "each start names a job_id of its own and a plan")
async def own_ids(harness: ServerHarness) -> str:
    """Have two jobs started."""
    ids = []
    async with harness.admitted() as agent:
        for _ in range(2):
            async with harness.provoked(agent, "run_benchmark") as (_, request):
                ids.append(await accept(agent, request))
                plan = request.params.get("plan")
                require(isinstance(plan, dict), "run_benchmark came without a plan")
    require(len(set(ids)) == len(ids), f"two starts had one job_id: {ids[0]}")
    return ", ".join(ids)


@CHECKS.check("JOB-2", "a start that was not answered is repeated with equal parameters")
async def repeated_start(harness: ServerHarness) -> str:
    """Lose the answer with the link."""
    return await _repeated(harness, await _unanswered_start(harness))


@CHECKS.check("JOB-2", "a start that was not answered outlives a restart of the server", restarts=True)
async def start_after_restart(harness: ServerHarness) -> str:
    """Lose the answer with the server."""
    request = await _unanswered_start(harness)
    await harness.restart()
    return await _repeated(harness, request)


async def _unanswered_start(harness: ServerHarness) -> Frame:
    async with harness.admitted() as agent, harness.provoked(agent, "run_benchmark") as (_, request):
        agent.wire.abort()
    return request


async def _repeated(harness: ServerHarness, request: Frame) -> str:
    job_id = request.params.get("job_id")
    async with harness.admitted() as agent:

        def again() -> list[Frame]:
            return [one for one in agent.wire.of("run_benchmark") if one.params.get("job_id") == job_id]

        # Only now does the server know that the agent has no such job.
        await agent.wire.ask("jobs.sync", harness.jobs_sync(harness.hello()["store_id"]))
        await agent.wire.until(lambda: bool(again()), "the start did not come again")
        for frame in again():
            require(frame.params == request.params, "the start came again with other parameters")
            await accept(agent, frame)
        # By its answer the server has the acceptance, and sends the start no more.
        await agent.check_responsive()
    return "repeated with equal parameters"


@CHECKS.check("JOB-3", "progress is taken, and terminal states of every kind")
async def states(harness: ServerHarness) -> str:
    """Send a final of each: a failed job has one too."""
    for state in TERMINAL:
        async with running_job(harness) as job:
            progress = {"phase": "iteration", "iteration": 1, "iterations_planned": 2}
            params = {"job_id": job.job_id, "state": "running", "progress": progress}
            await job.agent.wire.notify("job.progress", params)
            await job.acknowledged(result_text(), inline=True, state=state)
    return ", ".join(TERMINAL)


@CHECKS.check("JOB-3", "the server then shows a job in the state that its final named")
async def states_shown(harness: ServerHarness) -> str:
    """Look after each: a failed job must not pass for a measured one."""
    if not harness.driver.queries:
        raise Untested(NO_QUERY)
    for state in TERMINAL:
        async with running_job(harness) as job:
            await job.acknowledged(result_text(), inline=True, state=state)
            await _shown(harness, job.job_id, state=state)
    return ", ".join(TERMINAL)


async def _shown(harness: ServerHarness, job_id: str, **expected: object) -> None:
    """Raise ``RuleBroken`` unless the server shows the job so: at once, for it has acknowledged."""
    job = await harness.driver.job(harness.identity.agent_id, job_id)
    kept = job is not None and all(getattr(job, name) == value for name, value in expected.items())
    require(kept, f"the server shows {job}, not {expected}")


@CHECKS.check("JOB-4", "a small result comes inline, its text as a string")
async def inline(harness: ServerHarness) -> str:
    """Send a text that is hashed as it is."""
    async with running_job(harness) as job:
        return await job.acknowledged(result_text(20_000), inline=True)


@CHECKS.check("JOB-4", "a large result comes in pieces of text")
async def identity_parts(harness: ServerHarness) -> str:
    """Send pieces whose offsets count UTF-8 bytes."""
    async with running_job(harness) as job:
        text = result_text(40_000)
        await job.parts(text.encode(), "identity")
        return await job.acknowledged(text, inline=False)


@CHECKS.check("JOB-4", "a large result comes gzipped, in base64")
async def gzip_parts(harness: ServerHarness) -> str:
    """Send pieces of gzip; bytes and sha256 are those of the text before compression."""
    async with running_job(harness) as job:
        # Random, so that it is large after compression too.
        text = json.dumps([uuid.uuid4().hex for _ in range(2000)])
        await job.parts(gzip.compress(text.encode()), "gzip")
        return await job.acknowledged(text, inline=False, encoding="gzip")


@CHECKS.check("JOB-4", "a piece at another offset is not kept, and its answer names the next one")
async def other_offset(harness: ServerHarness) -> str:
    """Leave a hole, and repeat a piece; then begin anew, which is acknowledged."""
    async with running_job(harness) as job:
        text = result_text(10_000)
        # ASCII until here: the offsets are those of the text.
        held = await job.part(0, text[:20])
        for offset in (50, 10):
            named = await job.part(offset, "x" * 20)
            require(named == held == 20, f"a piece at {offset} after {held} bytes: next_offset {named}")  # noqa: PLR2004 - what was sent
        await job.parts(text.encode(), "identity")
        await job.acknowledged(text, inline=False)
    return "next_offset stays where it was"


@CHECKS.check("JOB-5", "an acknowledged result is what the server shows of the job")
async def kept(harness: ServerHarness) -> str:
    """Send one inline and one in pieces, and look at both: the agent removes its only copy."""
    if not harness.driver.queries:
        raise Untested(NO_QUERY)
    for inline, size in ((True, 100), (False, 40_000)):
        async with running_job(harness) as job:
            text = await _finish(job, size, inline=inline)
            await _shown(harness, job.job_id, result=json.loads(text))
    return "both are"


async def _finish(job: KitJob, size: int, *, inline: bool) -> str:
    """Send a result until it is acknowledged; return its text."""
    text = result_text(size)
    if not inline:
        await job.parts(text.encode(), "identity")
    await job.acknowledged(text, inline=inline)
    return text


@CHECKS.check("JOB-5", "an acknowledged result outlives a restart of the server", restarts=True)
async def kept_after_restart(harness: ServerHarness) -> str:
    """Look again after it, or send another one, which must be a conflict then."""
    async with running_job(harness) as job:
        text = await _finish(job, 100, inline=True)
    await harness.restart()
    if harness.driver.queries:
        await _shown(harness, job.job_id, result=json.loads(text))
        return "the result is there"
    async with harness.admitted() as agent:
        answer = await KitJob(agent, job.job_id, started=True).finished(result_text(200), inline=True)
        require(answer.result.get("conflict") is True, f"another result was answered with {answer.message}")
    return "another result is a conflict"


@CHECKS.check("JOB-5", "a piece that is missing is requested again")
async def missing_part(harness: ServerHarness) -> str:
    """Send half, then all of it, which is acknowledged."""
    async with running_job(harness) as job:
        text = result_text(40_000)
        # From the start, so that the server can name the byte that it expects next.
        await job.part(0, text[: PIECE // 2])
        answer = await job.finished(text, inline=False)
        offset = answer.result.get("resend_from")
        again = isinstance(offset, int) and answer.result.get("sha256") is None
        require(again, f"half a result was answered with {answer.message}")
        await job.parts(text.encode(), "identity")
        await job.acknowledged(text, inline=False)
        return f"resend_from {offset}, then acknowledged"


@CHECKS.check("JOB-5", "a result that differs from its sha256 is not acknowledged")
async def wrong_hash(harness: ServerHarness) -> str:
    """Send a wrong hash: an agent would remove its only copy."""
    async with running_job(harness) as job:
        # Whether results of such a job are taken at all.
        await job.finished(result_text(), inline=True)
    async with running_job(harness) as job:
        # An error is a good answer here, of a job that the server did not start too.
        wrong, refusable = "0" * 64, replace(job, started=True)
        answer = await refusable.finished(result_text(), inline=True, sha256=wrong)
        require(answer.result.get("sha256") != wrong, "acknowledged")
        return "not acknowledged"


@CHECKS.check("JOB-5", "a final whose acknowledgement was lost is acknowledged again")
async def lost_acknowledgement(harness: ServerHarness) -> str:
    """Send the final again, in the next session."""
    async with running_job(harness) as job:
        text = result_text()
        await job.acknowledged(text, inline=True)
    async with harness.admitted() as agent:
        # Whatever it was before: a job whose result was acknowledged is known.
        again = KitJob(agent, job.job_id, started=True)
        return await again.acknowledged(text, inline=True)


@CHECKS.check("JOB-6", "a different result of the same job is answered conflict")
async def conflict(harness: ServerHarness) -> str:
    """Send a second result: the first one stays."""
    async with running_job(harness) as job:
        await job.acknowledged(result_text(), inline=True)
        answer = await job.finished(result_text(100), inline=True)
        require(answer.result.get("conflict") is True, f"answered with {answer.message}")
        await job.acknowledged(result_text(), inline=True)
        return "conflict: true; the first is still acknowledged"


@CHECKS.check("JOB-6", "the result of a job that was given up as lost is taken")
async def lost_and_found(harness: ServerHarness) -> str:
    """Come with another store, and then with the result all the same."""
    async with running_job(harness) as job:
        await job.agent.check_responsive()
    async with harness.admitted(store_id="a-store-of-a-backup") as agent:
        await agent.wire.ask("jobs.sync", harness.jobs_sync("a-store-of-a-backup"))
        return await replace(job, agent=agent).acknowledged(result_text(), inline=True)


@CHECKS.check("JOB-6", "a result that is refused does not hold up the next")
async def one_bad_entry(harness: ServerHarness) -> str:
    """Send an entry that no server takes, and a good one."""
    async with running_job(harness) as job:
        await job.agent.wire.ask("job.finished", {"job_id": "", "state": "running"})
        return await job.acknowledged(result_text(), inline=True)
