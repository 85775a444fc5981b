"""[HELLO]: who is admitted, and with what answer."""

from __future__ import annotations

import time

import msgspec

from obt_agent.protocol import limits
from obt_agent.protocol.admission import HelloResult
from obt_agent.protocol.limits import Close
from obt_conformance.both_ways import check_close_code
from obt_conformance.checks import RuleBroken, Untested
from obt_conformance.identity import uuid7
from obt_conformance.server_harness import AgentConnection, ServerHarness
from obt_conformance.server_rules.registry import CHECKS
from obt_conformance.wire import Error


@CHECKS.check("HELLO-1", "the server asks nothing before it has answered the hello")
async def silent_before(harness: ServerHarness) -> str:
    """It may wait for the hello only."""
    async with harness.socket() as wire:
        await wire.quiet_for(harness.deadlines.quiet_s)
        answer = await wire.ask("agent.hello", harness.hello())
        early = [frame for frame in wire.frames[: wire.frames.index(answer)] if frame.is_request]
        if early:
            raise RuleBroken(f"{early[0].method} came before the answer")
    return "nothing came before the answer"


@CHECKS.check("HELLO-1", "a first frame that is no hello ends the socket")
async def hello_comes_first(harness: ServerHarness) -> str:
    """Nothing is done for somebody unknown."""
    async with harness.socket() as wire:
        await wire.post("models.sync", {"revision": 1})
        closed = await wire.until_closed()
        if any(frame.result is not None for frame in wire.frames):
            raise RuleBroken("the request was answered before a hello")
        return f"closed with {closed.code}"


@CHECKS.check("HELLO-1", "a hello over 32 KiB is refused")
async def hello_too_large(harness: ServerHarness) -> str:
    """Nobody is admitted with it."""
    async with harness.socket() as wire:
        await wire.post("agent.hello", harness.hello(x_conformance="x" * limits.MAX_HELLO_BYTES), 1)
        closed = await wire.until_closed()
        if any(frame.result is not None for frame in wire.answers(1)):
            raise RuleBroken("it was admitted")
        return f"closed with {closed.code}"


@CHECKS.check("HELLO-1", "a socket without a hello is closed after 10 s", takes_s=limits.HELLO_WITHIN_S)
async def hello_in_time(harness: ServerHarness) -> str:
    """Not before, not much later."""
    async with harness.socket() as wire:
        started = time.monotonic()
        closed = await wire.until_closed(harness.deadlines.hello_s + harness.deadlines.slack_s)
        waited = closed.at - started
        if waited < harness.deadlines.hello_s - 0.5:
            raise RuleBroken(f"closed after {waited:.1f} s already")
        return f"closed with {closed.code} after {waited:.1f} s"


@CHECKS.check("HELLO-2", "the answer is of the documented shape, and session grows")
async def answer(harness: ServerHarness) -> str:
    """Required: protocol and session."""
    sessions = []
    for _ in range(2):
        async with harness.agent() as agent:
            sessions.append(_admission(agent).session)
    if sessions[1] <= sessions[0]:
        raise RuleBroken(f"session was {sessions[0]}, then {sessions[1]}")
    return f"session {sessions[0]}, then {sessions[1]}"


def _admission(agent: AgentConnection) -> HelloResult:
    try:
        result = msgspec.convert(agent.hello.result, HelloResult)
    except msgspec.ValidationError as error:
        raise RuleBroken(f"the result of agent.hello: {error}") from error
    if result.protocol != limits.PROTOCOL_VERSION:
        raise RuleBroken(f"protocol is {result.protocol}")
    return result


@CHECKS.check("HELLO-2", "the highest version within the agent's range is chosen")
async def highest(harness: ServerHarness) -> str:
    """An agent of the future speaks this version too."""
    async with harness.agent(protocol={"min": 1, "max": 7}) as agent:
        version = agent.admission.get("protocol")
        if not isinstance(version, int) or not 1 <= version <= 7:  # noqa: PLR2004 - the range above
            raise RuleBroken(f"protocol is {version!r} for 1 to 7")
        return f"{version} of 1 to 7"


@CHECKS.check("HELLO-3", "no common version closes 4426")
async def no_common_version(harness: ServerHarness) -> str:
    """A version that nobody speaks."""
    async with harness.socket() as wire:
        await wire.post("agent.hello", harness.hello(protocol={"min": 90_000, "max": 90_001}))
        return check_close_code(await wire.until_closed(), Close.NO_COMMON_VERSION)


@CHECKS.check("HELLO-4", "another agent's id closes 4401")
async def other_id(harness: ServerHarness) -> str:
    """The id is bound to the credential."""
    async with harness.socket() as wire:
        await wire.post("agent.hello", harness.hello(agent={"id": uuid7()}))
        return check_close_code(await wire.until_closed(), Close.CREDENTIAL_REFUSED)


@CHECKS.check("HELLO-5", "a redial of the same instance replaces the older socket")
async def redial(harness: ServerHarness) -> str:
    """Without a word to the new one."""
    async with harness.agent() as first, harness.agent() as second:
        await second.check_responsive()
        closed = await first.wire.until_closed()
        if second.wire.closed is not None:
            raise RuleBroken("the newer socket was closed")
        return f"the older socket was closed with {closed.code}"


@CHECKS.check("HELLO-5", "another instance is closed with 4409 while the first one lives")
async def second_process(harness: ServerHarness) -> str:
    """The first goes on as if nothing had been."""
    async with harness.agent() as first, harness.socket() as other:
        await other.post("agent.hello", harness.hello(agent={"instance": harness.fresh_instance()}), 1)
        closed = await other.until_closed(harness.deadlines.probe_s + harness.deadlines.slack_s)
        check_close_code(closed, Close.IDENTITY_IN_USE)
        await first.check_responsive()
        return f"closed with {closed.code} after {closed.at - other.opened_at:.1f} s"


@CHECKS.check("HELLO-5", "another instance replaces one that is silent for 5 s", takes_s=5.0)
async def silent_process(harness: ServerHarness) -> str:
    """The first reads nothing and sends nothing, pongs neither."""
    async with harness.agent() as first:
        first.wire.stop_sending_alive()
        first.wire.pause_reading()
        async with harness.socket() as other:
            started = time.monotonic()
            hello = await other.post(
                "agent.hello", harness.hello(agent={"instance": harness.fresh_instance()})
            )
            limit = harness.deadlines.probe_s + harness.deadlines.slack_s
            await other.until(lambda: bool(other.answers(hello)), "it was not admitted", within_s=limit)
            if other.answers(hello)[0].error_code is not None:
                raise RuleBroken(f"it was refused: {other.answers(hello)[0].error_message}")
        first.wire.abort()
        return f"admitted after {time.monotonic() - started:.1f} s"


@CHECKS.check("HELLO-6", "a changed store_id marks jobs without a result as lost")
async def lost_store(harness: ServerHarness) -> str:
    """What the server says of a job shows it."""
    if harness.driver is not None and not harness.driver.knows_jobs:
        raise Untested("what the server says of a job cannot be read through --trigger")
    async with harness.agent() as agent, harness.provoked(agent, "run_benchmark") as (_, request):
        job_id = str(request.params.get("job_id"))
        await agent.wire.send(
            {"jsonrpc": "2.0", "id": request.id, "result": {"job_id": job_id, "state": "queued"}}
        )
        await agent.check_responsive()
    async with harness.agent(store_id="another-store") as agent:
        sync = {"revision": 1, "page": {"index": 0, "last": True}, "store_id": "another-store", "jobs": []}
        agent.wire.handlers["benchmark_status"] = _not_found
        await agent.wire.ask("jobs.sync", sync)
        return await _becomes_lost(harness, agent, job_id)


async def _becomes_lost(harness: ServerHarness, agent: AgentConnection, job_id: str) -> str:
    assert harness.driver is not None  # noqa: S101 - the caller provoked
    until = time.monotonic() + harness.deadlines.answer_s
    state = None
    while time.monotonic() < until:
        state = await harness.driver.job_state(job_id)
        if state == "lost":
            return "the job is lost"
        await agent.wire.quiet_for(0.1)
    raise RuleBroken(f"the job is {state}")


async def _not_found(_: object) -> object:
    return Error(-32009, "job_not_found")
