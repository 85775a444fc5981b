"""[JOB]: starts, repeats, finals, and acknowledgements that fail."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import time
import uuid
import zlib
from typing import Any

from obt_agent.protocol.jobs import TERMINAL_STATES
from obt_conformance.agent_harness import AgentHarness, KitSession, part_bytes
from obt_conformance.agent_rules.registry import CHECKS
from obt_conformance.checks import RuleBroken
from obt_conformance.wire import NO_ANSWER, Frame, JsonObject

JOB_CONFLICT = -32012


def _new_id() -> str:
    return f"conformance-{uuid.uuid4()}"


async def _start(session: KitSession, harness: AgentHarness, job_id: str, **plan: Any) -> Frame:
    return await session.wire.ask("run_benchmark", {"job_id": job_id, "plan": harness.plan(**plan)})


async def _started(session: KitSession, harness: AgentHarness, **plan: Any) -> str:
    job_id = _new_id()
    answer = await _start(session, harness, job_id, **plan)
    result = answer.result if isinstance(answer.result, dict) else {}
    if result.get("job_id") != job_id or not isinstance(result.get("state"), str):
        raise RuleBroken(f"run_benchmark was answered with {answer.message}"[:300])
    return job_id


def _finals(session: KitSession, job_id: str) -> list[Frame]:
    return [frame for frame in session.wire.of("job.finished") if frame.params.get("job_id") == job_id]


async def _final(harness: AgentHarness, session: KitSession, job_id: str, *, count: int = 1) -> Frame:
    await session.wire.until(
        lambda: len(_finals(session, job_id)) >= count,
        "job.finished did not come",
        within_s=harness.deadlines.job_s,
    )
    return _finals(session, job_id)[count - 1]


def _text(session: KitSession, final: Frame) -> bytes:
    """The result's text, from the final or from its pieces of text."""
    if isinstance(final.params.get("result"), str):
        return str(final.params["result"]).encode()
    parts: dict[int, bytes] = {}
    for frame in session.wire.of("job.part"):
        if frame.params.get("job_id") == final.params.get("job_id"):
            parts[int(frame.params.get("offset", -1))] = part_bytes(frame)
    joined = b"".join(parts[offset] for offset in sorted(parts))
    return joined if final.params.get("encoding") != "gzip" else _gunzip(joined)


def _gunzip(data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise RuleBroken(f"the pieces are no gzip: {error}") from error


@CHECKS.check("JOB-1", "a start is answered with its job_id and state, before it has run")
async def started(harness: AgentHarness) -> str:
    """And the job is listed from then on."""
    session = await harness.session()
    job_id = await _started(session, harness)
    status = await session.wire.ask("benchmark_status", {"job_id": job_id})
    if status.error_code is not None:
        raise RuleBroken(f"benchmark_status was answered with error {status.error_code}")
    await _final(harness, session, job_id)
    return "stored"


@CHECKS.check("JOB-2", "a repeat starts nothing, other parameters are a conflict")
async def repeated(harness: AgentHarness) -> str:
    """Also after the job has ended."""
    session = await harness.session()
    job_id = await _started(session, harness)
    again = await _start(session, harness, job_id)
    other = await _start(session, harness, job_id, num_iterations=2)
    if not isinstance(again.result, dict) or again.result.get("job_id") != job_id:
        raise RuleBroken(f"the repeat was answered with {again.message}"[:300])
    if other.error_code != JOB_CONFLICT:
        raise RuleBroken(f"other parameters were answered with {other.message}"[:300])
    await _final(harness, session, job_id)
    await session.wire.quiet_for(harness.deadlines.quiet_s)
    if len(_finals(session, job_id)) != 1:
        raise RuleBroken(f"{len(_finals(session, job_id))} finals came")
    return f"{again.result['state']}; then -32012"


@CHECKS.check("JOB-2", "a start that comes after its cancellation does not run")
async def cancelled_first(harness: AgentHarness) -> str:
    """The cancellation overtook it."""
    session = await harness.session()
    job_id = _new_id()
    await session.wire.ask("cancel", {"job_id": job_id})
    answer = await _start(session, harness, job_id)
    state = answer.result.get("state") if isinstance(answer.result, dict) else answer.error_kind
    if state != "cancelled":
        raise RuleBroken(f"the late start was answered with {answer.message}"[:300])
    return "cancelled"


@CHECKS.check("JOB-3", "progress comes at most twice a second, and the final's state is a terminal one")
async def progress(harness: AgentHarness) -> str:
    """Ten iterations."""
    session = await harness.session()
    job_id = await _started(session, harness, num_iterations=10)
    final = await _final(harness, session, job_id)
    if final.params.get("state") not in TERMINAL_STATES:
        raise RuleBroken(f"the final's state is {final.params.get('state')!r}")
    told = [frame.at for frame in session.wire.of("job.progress") if frame.params.get("job_id") == job_id]
    for first, third in zip(told, told[3:], strict=False):
        if third - first < 1.0:
            raise RuleBroken("more than two a second came")
    return f"{len(told)} times; {final.params['state']}"


@CHECKS.check("JOB-4", "bytes and sha256 of the final are those of the text that came")
async def hashed(harness: AgentHarness) -> str:
    """Inline or in pieces."""
    session = await harness.session()
    job_id = await _started(session, harness)
    final = await _final(harness, session, job_id)
    text = _text(session, final)
    if len(text) != final.params.get("bytes"):
        raise RuleBroken(f"{len(text)} bytes came, the final tells {final.params.get('bytes')}")
    if hashlib.sha256(text).hexdigest() != final.params.get("sha256"):
        raise RuleBroken("the text has another sha256 than the final tells")
    return f"{len(text)} bytes"


@CHECKS.check("JOB-5", "resend_from brings the text again")
async def resent(harness: AgentHarness) -> str:
    """From the start: also what came inline at first."""
    session = await harness.session()
    asks = itertools.count()

    async def once_more(frame: Frame) -> JsonObject:
        first = next(asks) == 0
        ask = {"resend_from": 0} if first else {"sha256": frame.params.get("sha256")}
        return {"job_id": frame.params.get("job_id"), **ask}

    usual = session.wire.handlers["job.finished"]
    session.wire.handlers["job.finished"] = once_more
    try:
        job_id = await _started(session, harness)
        first, again = await _final(harness, session, job_id), await _final(harness, session, job_id, count=2)
    finally:
        session.wire.handlers["job.finished"] = usual
    if first.params.get("sha256") != again.params.get("sha256"):
        raise RuleBroken("the second final tells another sha256")
    if hashlib.sha256(_text(session, again)).hexdigest() != again.params.get("sha256"):
        raise RuleBroken("what came again does not hash to what the final tells")
    return "the same again"


@CHECKS.check("JOB-5", "a final that was not acknowledged comes again in the next session")
async def lost_acknowledgement(harness: AgentHarness) -> str:
    """With the same hash."""
    session = await harness.session()
    session.wire.handlers["job.finished"] = _silent
    job_id = await _started(session, harness)
    first = await _final(harness, session, job_id)
    session = await harness.session(fresh=True)
    again = await _final(harness, session, job_id)
    if first.params.get("sha256") != again.params.get("sha256"):
        raise RuleBroken("it came with another sha256")
    return "the same again"


async def _silent(_: Frame) -> object:
    return NO_ANSWER


@CHECKS.check("JOB-6", "a result that is answered conflict does not come again, and holds up no other")
async def conflict(harness: AgentHarness) -> str:
    """The first result won elsewhere."""
    session = await harness.session()
    usual = session.wire.handlers["job.finished"]
    session.wire.handlers["job.finished"] = _conflict
    try:
        job_id = await _started(session, harness)
        await _final(harness, session, job_id)
    finally:
        session.wire.handlers["job.finished"] = usual
    await _final(harness, session, await _started(session, harness))
    session = await harness.session(fresh=True)
    await session.wire.expect("jobs.sync")
    await session.wire.quiet_for(harness.deadlines.quiet_s)
    if _finals(session, job_id):
        raise RuleBroken("it came again")
    return "set aside"


async def _conflict(frame: Frame) -> JsonObject:
    return {"job_id": frame.params.get("job_id"), "conflict": True}


@CHECKS.check("JOB-7", "a start that comes again after the acknowledgement runs nothing")
async def tombstone(harness: AgentHarness) -> str:
    """Its end is remembered."""
    session = await harness.session()
    job_id = await _started(session, harness)
    await _final(harness, session, job_id)
    until = time.monotonic() + harness.deadlines.answer_s
    while True:
        answer = await _start(session, harness, job_id)
        state = answer.result.get("state") if isinstance(answer.result, dict) else None
        if state in TERMINAL_STATES:
            break
        if time.monotonic() > until:
            raise RuleBroken(f"the late repeat was answered with {answer.message}"[:300])
        await session.wire.quiet_for(0.1)
    await session.wire.quiet_for(harness.deadlines.quiet_s)
    if len(_finals(session, job_id)) != 1:
        raise RuleBroken("it ran again")
    return f"{state}"
