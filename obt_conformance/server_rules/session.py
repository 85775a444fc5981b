"""[TRANSPORT], [HELLO], [LIFE]: who may connect, who is admitted, and how sessions stay and end."""

from __future__ import annotations

import asyncio
import time
import uuid

import msgspec

from obt_agent.protocol import limits
from obt_agent.protocol.admission import HelloResult
from obt_agent.protocol.errors import CODE_OF_KIND
from obt_agent.protocol.limits import SUBPROTOCOL, Close
from obt_conformance.both_sides import longest_pause
from obt_conformance.checks import RuleBroken, Untested, require
from obt_conformance.drivers import NO_QUERY
from obt_conformance.frames import JsonObject
from obt_conformance.identity import KitIdentity
from obt_conformance.server_harness import CHECKS, AgentConnection, ServerHarness

# Longer than usual libraries wait for a pong (20 s after a ping every 20 s).
PONG_TIMEOUT_S = 45.0


@CHECKS.check("TRANSPORT-1", "the upgrade answers with obt.v1 and no extension")
async def subprotocol(harness: ServerHarness) -> str:
    """Read what the handshake settled."""
    async with harness.socket() as wire:
        agreed = wire.socket.subprotocol
        require(agreed == SUBPROTOCOL, f"the subprotocol is {agreed!r}")
        extensions = wire.socket.protocol.extensions
        require(not extensions, "an extension was switched on that was not offered")
    return SUBPROTOCOL


@CHECKS.check("TRANSPORT-1", "a wrong or missing credential is refused")
async def credential_needed(harness: ServerHarness) -> str:
    """Dial with either: it is refused before the upgrade, or with 4401."""
    seen = []
    for token in (None, "obt-conformance-wrong"):
        refused = await harness.refusal(token)
        require(refused, f"an agent with {'a wrong' if token else 'no'} credential was admitted")
        seen.append(refused)
    return ", ".join(map(str, seen))


@CHECKS.check("TRANSPORT-3", "a request with an id in flight does not disturb the first")
async def duplicate(harness: ServerHarness) -> str:
    """Ask twice with one id: the second is refused, or comes after the first's answer."""
    async with harness.admitted() as agent:
        wire, refused = agent.wire, CODE_OF_KIND["invalid_request"]
        for _ in range(2):
            await wire.post("models.sync", agent.models_sync(), "twice")
        await wire.until(
            lambda: len(wire.answers("twice")) > 1, "two requests of one id were not both answered"
        )
        codes = [answer.error_code for answer in wire.answers("twice")]
        require(None in codes and set(codes) <= {None, refused}, f"answered with {codes}")
        await agent.check_responsive()
    return "refused" if refused in codes else "answered before the second was read"


@CHECKS.check("TRANSPORT-4", "parameters that are no object are refused")
async def parameters_are_objects(harness: ServerHarness) -> str:
    """Send parameters by position, as other JSON-RPC allows."""
    async with harness.admitted() as agent:
        await agent.wire.send('{"jsonrpc":"2.0","id":"listed","method":"models.sync","params":[1]}')
        answer = await agent.wire.answer("listed", "a request with parameters by position was not answered")
        refused = answer.error_code == CODE_OF_KIND["invalid_params"]
        require(refused, f"answered with {answer.message}")
        await agent.check_responsive()
    return f"{answer.error_code}"


@CHECKS.check("HELLO-1", "the server asks nothing before it has answered the hello")
async def silent_before(harness: ServerHarness) -> str:
    """Take a while for the hello."""
    async with harness.socket() as wire:
        await wire.quiet_for(harness.deadlines.quiet_s)
        answer = await wire.ask("agent.hello", harness.hello())
        early = [f.method for f in wire.frames[: wire.frames.index(answer)] if f.is_request]
        require(not early, f"{early} came before the answer")
    return "nothing came before the answer"


@CHECKS.check("HELLO-1", "a first frame that is no hello, or a wrong one, closes 4400")
async def hello_comes_first(harness: ServerHarness) -> str:
    """Ask for something else, and leave out the store: nothing is done for somebody unknown."""
    wrong = harness.hello()
    del wrong["store_id"]
    return await _not_admitted(
        harness, Close.PROTOCOL_ERROR, ("models.sync", {"revision": 1}), ("agent.hello", wrong)
    )


@CHECKS.check("HELLO-1", "a hello over 32 KiB closes 1009")
async def hello_too_large(harness: ServerHarness) -> str:
    """Send one: nobody is admitted with it."""
    large = harness.hello(x_conformance="x" * limits.MAX_HELLO_BYTES)
    return await _not_admitted(harness, Close.TOO_BIG, ("agent.hello", large))


async def _not_admitted(harness: ServerHarness, code: int, *firsts: tuple[str, JsonObject]) -> str:
    """Open a socket with each of these first requests; all are closed with that code."""
    for method, params in firsts:
        async with harness.socket() as wire:
            await wire.post(method, params)
            await wire.closed_with(code)
            # An error may say why; a result would be an admission.
            answered = any("result" in frame.message for frame in wire.frames)
            require(not answered, f"{method} was answered with a result")
    return f"closed with {code}"


@CHECKS.check(
    "HELLO-1", "a socket without a hello is closed with 4408 after 10 s", takes_s=limits.HELLO_WITHIN_S
)
async def hello_in_time(harness: ServerHarness) -> str:
    """Send none; it is closed not before, not much later."""
    # The server's clock begins somewhere between this and the end of the upgrade.
    dialled = time.monotonic()
    async with harness.socket() as wire:
        hello_s, late_s = harness.deadlines.hello_s, wire.opened_at - dialled
        how = await wire.dropped_between(hello_s, lambda: hello_s + late_s + harness.slack_s, since=dialled)
        await wire.closed_with(Close.SILENT)
        return how


@CHECKS.check("HELLO-2", "the answer is of the documented shape, and session grows")
async def answer(harness: ServerHarness) -> str:
    """Be admitted twice."""
    sessions = []
    for _ in range(2):
        async with harness.admitted() as agent:
            sessions.append(_admission(agent).session)
    require(sessions[1] > sessions[0], f"session was {sessions[0]}, then {sessions[1]}")
    return f"session {sessions[0]}, then {sessions[1]}"


@CHECKS.check("HELLO-2", "session grows over a restart of the server too", restarts=True)
async def session_after_restart(harness: ServerHarness) -> str:
    """Be admitted before and after."""
    async with harness.admitted() as agent:
        before = _admission(agent).session
    await harness.restart()
    async with harness.admitted() as agent:
        after = _admission(agent).session
    require(after > before, f"session was {before}, and {after} after the restart")
    return f"session {before}, then {after}"


def _admission(agent: AgentConnection) -> HelloResult:
    try:
        result = msgspec.convert(agent.introduction, HelloResult)
    except msgspec.ValidationError as error:
        raise RuleBroken(f"the result of agent.hello: {error}") from error
    require(result.protocol == limits.PROTOCOL_VERSION, f"protocol is {result.protocol}")
    return result


@CHECKS.check("HELLO-2", "the highest version within the agent's range is chosen")
async def highest(harness: ServerHarness) -> str:
    """Play an agent of the future, which speaks this version too."""
    lowest, newest = 1, 7
    async with harness.admitted(protocol={"min": lowest, "max": newest}) as agent:
        chosen = agent.introduction.get("protocol")
        within = isinstance(chosen, int) and lowest <= chosen <= newest
        require(within, f"protocol is {chosen!r} for {lowest} to {newest}")
        return f"{chosen} of {lowest} to {newest}"


@CHECKS.check("HELLO-3", "no common version closes 4426")
async def no_common_version(harness: ServerHarness) -> str:
    """Offer a version that nobody speaks."""
    async with harness.socket() as wire:
        await wire.post("agent.hello", harness.hello(protocol={"min": 90_000, "max": 90_001}))
        return await wire.closed_with(Close.NO_COMMON_VERSION)


@CHECKS.check("HELLO-4", "another agent's id closes 4401")
async def other_id(harness: ServerHarness) -> str:
    """Give another id: the id is bound to the credential."""
    async with harness.socket() as wire:
        await wire.post("agent.hello", harness.hello(agent={"id": KitIdentity().agent_id}))
        return await wire.closed_with(Close.CREDENTIAL_REFUSED)


@CHECKS.check("HELLO-5", "a redial of the same instance replaces the older socket")
async def redial(harness: ServerHarness) -> str:
    """Dial twice; the new socket is not disturbed."""
    async with harness.admitted() as first, harness.admitted() as second:
        await second.check_responsive()
        closed = await first.wire.until_closed()
        require(second.wire.closed is None, "the newer socket was closed")
        return f"the older socket was closed with {closed.code}"


def _another_process() -> dict[str, str]:
    return {"instance": uuid.uuid4().hex}


@CHECKS.check("HELLO-5", "another instance is closed with 4409 while the first one lives")
async def second_process(harness: ServerHarness) -> str:
    """Dial as a second process; the first goes on as if nothing had been."""
    async with harness.admitted() as first, harness.socket() as other:
        await other.post("agent.hello", harness.hello(agent=_another_process()), 1)
        # The server first probes whether the older one lives.
        most_s = harness.deadlines.probe_s + harness.slack_s
        how = await other.closed_with(Close.IDENTITY_IN_USE, within_s=most_s)
        await first.check_responsive()
        return f"{how} after {time.monotonic() - other.opened_at:.1f} s"


@CHECKS.check("HELLO-5", "another instance replaces one that is silent for 5 s", takes_s=5.0)
async def silent_process(harness: ServerHarness) -> str:
    """Play a process that hangs: it reads nothing and sends nothing, no pongs either."""
    async with harness.admitted() as first:
        first.wire.stop_sending_alive()
        first.wire.pause_reading()
        async with harness.socket() as other:
            hello = await other.post("agent.hello", harness.hello(agent=_another_process()))
            most_s = harness.deadlines.probe_s + harness.slack_s
            await other.until(lambda: bool(other.answers(hello)), "it was not admitted", within_s=most_s)
            refusal = other.answers(hello)[0]
            require(refusal.error_code is None, f"it was refused: {refusal.error_message}")
            waited = time.monotonic() - other.opened_at
        # A closing handshake would wait for this side to read.
        first.wire.abort()
        return f"admitted after {waited:.1f} s"


@CHECKS.check("HELLO-6", "a changed store_id marks jobs without a result as lost")
async def lost_store(harness: ServerHarness) -> str:
    """Start a job, and come again with another store: the server's view of the job shows it."""
    if not harness.driver.queries:
        raise Untested(NO_QUERY)
    async with harness.admitted() as agent, harness.provoked(agent, "run_benchmark") as (_, request):
        job_id = str(request.params.get("job_id"))
        await agent.wire.reply(request, {"job_id": job_id, "state": "queued"})
        await agent.check_responsive()
    async with harness.admitted(store_id="another-store") as agent:
        agent.wire.handlers["benchmark_status"] = lambda _: "job_not_found"
        await agent.wire.ask("jobs.sync", harness.jobs_sync("another-store"))
        return await _becomes_lost(harness, agent, job_id)


async def _becomes_lost(harness: ServerHarness, agent: AgentConnection, job_id: str) -> str:
    until = time.monotonic() + harness.deadlines.answer_s
    while True:
        job = await harness.driver.job(harness.identity.agent_id, job_id)
        if job is not None and job.state == "lost":
            return "the job is lost"
        require(time.monotonic() < until, f"the job is {'not known' if job is None else job.state}")
        await agent.wire.quiet_for(0.1)


@CHECKS.check("SYNC-1", "pages of one revision are one list, which is replaced with the last of them")
async def pages(harness: ServerHarness) -> str:
    """Send two lists in two pages each, and look at what the server shows in between."""
    async with harness.admitted() as agent:
        for first, second, before in (("a", "b", None), ("c", "d", ["a", "b"])):
            head = agent.models_sync(page={"index": 0, "last": False}, models=[_model(first)])
            await agent.wire.ask_ok("models.sync", head)
            if before is not None:
                await _shows(harness, before)
            rest = {**head, "page": {"index": 1, "last": True}, "models": [_model(second)]}
            await agent.wire.ask_ok("models.sync", rest)
            await _shows(harness, [first, second])
    return "two pages, two models; the old list until the last page"


def _model(letter: str) -> JsonObject:
    return {"name": f"conformance-{letter}:1b", "digest": letter * 64, "size_bytes": 1}


async def _shows(harness: ServerHarness, letters: list[str]) -> None:
    """Raise ``RuleBroken`` unless the server shows these models of the agent, in a while at the latest."""
    expected = [f"conformance-{letter}:1b" for letter in letters]
    until = time.monotonic() + harness.deadlines.answer_s
    while (shown := sorted(await harness.driver.models(harness.identity.agent_id))) != expected:
        require(time.monotonic() < until, f"the server shows {shown}, not {expected}")
        # It may write what it acknowledged a little later: nothing tells when but looking.
        await asyncio.sleep(0.1)


@CHECKS.check("LIFE-1", "something comes at least every 5 s", takes_s=3 * limits.ALIVE_INTERVAL_S)
async def server_lives(harness: ServerHarness) -> str:
    """Listen with nothing else to say."""
    async with harness.admitted() as agent:
        alive_s, slack_s = harness.deadlines.alive_s, harness.deadlines.slack_s
        # No more slack than a whole interval, or one that was left out would pass.
        slack_s = min(slack_s, alive_s)
        return await longest_pause(
            agent.wire, 3 * alive_s, lambda: alive_s + slack_s + harness.lateness.allowance_s
        )


@CHECKS.check("LIFE-2", "an agent that sends nothing but pongs for 18 s is dropped", takes_s=limits.SILENCE_S)
async def silent_agent(harness: ServerHarness) -> str:
    """Fall silent, but for what a library sends by itself while its program hangs."""
    async with harness.admitted() as agent:
        agent.wire.handlers.clear()
        agent.wire.stop_sending_alive()
        times = harness.deadlines
        agent.wire.send_pongs_every(times.alive_s / 2)
        return await agent.wire.dropped_between(
            times.silence_s - times.alive_s, lambda: times.silence_s + harness.slack_s
        )


@CHECKS.check("LIFE-2", "an agent that speaks but sends no pong is kept", takes_s=PONG_TIMEOUT_S)
async def no_pongs(harness: ServerHarness) -> str:
    """Lose every pong: only bytes prove life, and pong timeouts end slow, healthy links."""
    async with harness.admitted(pongs=False) as agent:
        watched = min(PONG_TIMEOUT_S, 2.5 * harness.deadlines.silence_s)
        await agent.wire.quiet_for(watched)
        require(agent.wire.closed is None, agent.wire.how_closed())
        return f"kept for {watched:g} s"


@CHECKS.check("LIFE-3", "heartbeats are taken")
async def heartbeats(harness: ServerHarness) -> str:
    """Send the smallest, and one with every field."""
    async with harness.admitted() as agent:
        least = {"ollama": {"reachable": False}, "t_mono_us": 1}
        full = {
            "ollama": {"reachable": True, "version": "0.5.0", "since": 1.0},
            "loaded": ["conformance:1b"],
            "jobs": {"open": 1, "finished_unacknowledged": 0},
            "outbox": {"entries": 1, "bytes": 10},
            "streams": 1,
            "t_mono_us": 2,
            "loop_lag_ms": 0.5,
            "hardware": {"cpu_utilization_ratio": 0.5, "gpus": [{"id": "GPU-1", "state": "ok"}]},
        }
        for beat in (least, full):
            await agent.wire.notify("heartbeat", beat)
        await agent.check_responsive()
        # A notification has no answer, but a server may send an error without an id.
        refused = any(frame.error_code is not None for frame in agent.wire.frames)
        require(agent.wire.closed is None and not refused, "a heartbeat was refused")
    return "taken"


@CHECKS.check("LIFE-4", "agent.goodbye is taken, and the next dial is admitted at once")
async def goodbye(harness: ServerHarness) -> str:
    """Leave, and dial as another process."""
    async with harness.admitted() as agent:
        await agent.wire.notify("agent.goodbye", {"reason": "restart"})
        await agent.check_responsive()
        await agent.wire.close(1001)
    started = time.monotonic()
    async with harness.admitted(agent=_another_process()) as agent:
        await agent.check_responsive()
        return f"admitted again after {time.monotonic() - started:.1f} s"
