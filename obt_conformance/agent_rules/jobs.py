"""[JOB]: starts, repeats, finals, and acknowledgements that fail."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import time
import uuid
import zlib
from collections.abc import Iterator
from typing import Any

from obt_agent.protocol.errors import CODE_OF_KIND
from obt_agent.protocol.jobs import TERMINAL_STATES
from obt_conformance.agent_harness import CHECKS, AgentHarness, KitSession, part_bytes
from obt_conformance.checks import RuleBroken, Untested, require
from obt_conformance.frames import Frame, JsonObject
from obt_conformance.wire import Handler

_TRIES = 3
_MOST_LATE_S = 0.5
"""Of this process, while it measures how close frames come to each other."""

JOB_CONFLICT = CODE_OF_KIND["job_conflict"]


class _Job:
    """One benchmark, and what came of it in one session."""

    def __init__(self, harness: AgentHarness, session: KitSession, job_id: str = "") -> None:
        self.harness = harness
        self.session = session
        self.job_id = job_id or f"conformance-{uuid.uuid4()}"

    async def start(self, **plan: Any) -> Frame:
        """Send the start, once more if need be; return the answer."""
        params = {"job_id": self.job_id, "plan": self.harness.plan(**plan)}
        return await self.session.wire.ask("run_benchmark", params)

    async def started(self, **plan: Any) -> _Job:
        """Send the start, and check that it was taken."""
        answer = await self.start(**plan)
        taken = answer.result.get("job_id") == self.job_id and isinstance(answer.result.get("state"), str)
        require(taken, f"run_benchmark was answered with {answer.message}")
        return self

    def frames(self, method: str) -> list[Frame]:
        """Frames of one method about this job."""
        frames = self.session.wire.of(method)
        return [frame for frame in frames if frame.params.get("job_id") == self.job_id]

    async def final(self, count: int = 1) -> JsonObject:
        """Wait for the ``count``-th final; return its parameters."""
        await self.session.wire.until(
            lambda: len(self.frames("job.finished")) >= count,
            "job.finished did not come",
            within_s=self.harness.deadlines.job_s,
        )
        return self.frames("job.finished")[count - 1].params

    async def require_one_final(self) -> None:
        """Watch for a second final."""
        await self.session.wire.quiet_for(self.harness.deadlines.quiet_s)
        finals = len(self.frames("job.finished"))
        require(finals == 1, f"{finals} finals came")

    def text(self, final: JsonObject) -> bytes:
        """The result's text, from the final or from its pieces."""
        if isinstance(final.get("result"), str):
            return str(final["result"]).encode()
        # By offset: a piece that was sent again replaces the first.
        parts = {int(frame.params.get("offset", -1)): part_bytes(frame) for frame in self.frames("job.part")}
        joined = b"".join(parts[offset] for offset in sorted(parts))
        if final.get("encoding") != "gzip":
            return joined
        try:
            return gzip.decompress(joined)
        except (OSError, EOFError, zlib.error) as error:
            raise RuleBroken(f"the pieces are no gzip: {error}") from error


async def _started(harness: AgentHarness, **plan: Any) -> _Job:
    return await _Job(harness, await harness.session()).started(**plan)


@contextlib.contextmanager
def _answering_finals(session: KitSession, handler: Handler) -> Iterator[None]:
    usual = session.wire.handlers["job.finished"]
    session.wire.handlers["job.finished"] = handler
    try:
        yield
    finally:
        # The checks that follow go on with this session.
        session.wire.handlers["job.finished"] = usual


@CHECKS.check("JOB-1", "a start is answered with its job_id and state, before it has run")
async def started(harness: AgentHarness) -> str:
    """Start one: the job is listed from then on."""
    job = await _started(harness)
    await job.session.wire.ask_ok("benchmark_status", {"job_id": job.job_id})
    await job.final()
    return "stored"


@CHECKS.check("JOB-2", "a repeat starts nothing, other parameters are a conflict")
async def repeated(harness: AgentHarness) -> str:
    """Repeat a start, and send another under its id."""
    job = await _started(harness)
    again = await job.start()
    other = await job.start(num_iterations=2)
    require(again.result.get("job_id") == job.job_id, f"the repeat was answered with {again.message}")
    require(other.error_code == JOB_CONFLICT, f"other parameters were answered with {other.message}")
    await job.final()
    await job.require_one_final()
    return f"{again.result['state']}; then {JOB_CONFLICT}"


@CHECKS.check("JOB-2", "a start that comes after its cancellation does not run")
async def cancelled_first(harness: AgentHarness) -> str:
    """Cancel first: on two links, the cancellation may overtake the start."""
    job = _Job(harness, await harness.session())
    await job.session.wire.ask("cancel", {"job_id": job.job_id})
    answer = await job.start()
    state = answer.result.get("state") or answer.error_data.get("kind")
    require(state == "cancelled", f"the late start was answered with {answer.message}")
    return "cancelled"


@CHECKS.check("JOB-3", "progress comes at most twice a second, and the final's state is a terminal one")
async def progress(harness: AgentHarness) -> str:
    """Run ten iterations."""
    for _ in range(_TRIES):
        with harness.lateness.part() as lateness:
            job = await _started(harness, num_iterations=10)
            state = (await job.final()).get("state")
        require(state in TERMINAL_STATES, f"the final's state is {state!r}")
        if lateness.worst_s >= _MOST_LATE_S:
            continue
        times = [frame.at for frame in job.frames("job.progress")]
        # Over three intervals: the network may push two frames closer together, and so may this process.
        least_s = 1.0 - lateness.worst_s
        for first, fourth in zip(times, times[3:], strict=False):
            require(fourth - first >= least_s, "more than two a second came")
        return f"{len(times)} times; {state}"
    raise Untested(f"in each of {_TRIES} tries the kit itself stood still for {_MOST_LATE_S:g} s or longer")


@CHECKS.check("JOB-4", "bytes and sha256 of the final are those of the text that came")
async def hashed(harness: AgentHarness) -> str:
    """Join the text, inline or in pieces."""
    job = await _started(harness)
    final = await job.final()
    text = job.text(final)
    require(len(text) == final.get("bytes"), f"{len(text)} bytes came, the final says {final.get('bytes')}")
    same = hashlib.sha256(text).hexdigest() == final.get("sha256")
    require(same, "the text has another sha256 than the final says")
    return f"{len(text)} bytes"


@CHECKS.check("JOB-5", "resend_from brings the text again")
async def resent(harness: AgentHarness) -> str:
    """Ask from the start: also for what came inline at first."""
    session = await harness.session()
    job = _Job(harness, session)

    def once_more(final: Frame) -> JsonObject:
        first = len(job.frames("job.finished")) == 1
        ask = {"resend_from": 0} if first else {"sha256": final.params.get("sha256")}
        return {"job_id": final.params.get("job_id"), **ask}

    with _answering_finals(session, once_more):
        await job.started()
        first, again = await job.final(), await job.final(2)
    require(first.get("sha256") == again.get("sha256"), "the second final has another sha256")
    same = hashlib.sha256(job.text(again)).hexdigest() == again.get("sha256")
    require(same, "what came again does not hash to what the final says")
    return "the same again"


@CHECKS.check("JOB-5", "a final that was not acknowledged comes again in the next session")
async def lost_acknowledgement(harness: AgentHarness) -> str:
    """Leave the final unanswered, and end the session."""
    session = await harness.session()
    session.wire.handlers["job.finished"] = lambda _: None
    job = await _started(harness)
    first = await job.final()
    job.session = await harness.session(fresh=True)
    again = await job.final()
    require(first.get("sha256") == again.get("sha256"), "it came with another sha256")
    return "the same again"


@CHECKS.check("JOB-6", "a result that is answered conflict does not come again, and holds up no other")
async def conflict(harness: AgentHarness) -> str:
    """Answer that another result came first."""
    session = await harness.session()
    with _answering_finals(session, lambda final: {"job_id": final.params.get("job_id"), "conflict": True}):
        job = await _started(harness)
        await job.final()
    await (await _started(harness)).final()
    job.session = await harness.session(fresh=True)
    await job.session.wire.expect("jobs.sync")
    await job.session.wire.quiet_for(harness.deadlines.quiet_s)
    require(not job.frames("job.finished"), "it came again")
    return "set aside"


@CHECKS.check("JOB-7", "a start that comes again after the acknowledgement runs nothing")
async def tombstone(harness: AgentHarness) -> str:
    """Repeat the start of a job that has ended: the agent remembers it."""
    job = await _started(harness)
    await job.final()
    until = time.monotonic() + harness.deadlines.answer_s
    # Until the acknowledgement is stored, the job may still count as running.
    while (state := (answer := await job.start()).result.get("state")) not in TERMINAL_STATES:
        require(time.monotonic() < until, f"the late repeat was answered with {answer.message}")
        await job.session.wire.quiet_for(0.1)
    await job.require_one_final()
    return f"{state}"
