"""[LIFE]: signs of life, silence, and the server's farewell."""

from __future__ import annotations

import time

import msgspec

from obt_agent.protocol import limits
from obt_agent.protocol.admission import HeartbeatParams
from obt_agent.protocol.limits import Close
from obt_conformance.agent_harness import AgentHarness
from obt_conformance.agent_rules.registry import CHECKS
from obt_conformance.both_ways import longest_pause
from obt_conformance.checks import RuleBroken

DRAIN_S = 3.0


@CHECKS.check("LIFE-1", "something comes at least every 5 s", takes_s=3 * limits.ALIVE_INTERVAL_S)
async def agent_lives(harness: AgentHarness) -> str:
    """Between heartbeats that are a minute apart."""
    session = await harness.session(fresh=True, heartbeat_interval_s=60)
    await harness.synced(session)
    deadlines = harness.deadlines
    return await longest_pause(
        session.wire,
        3 * deadlines.alive_s,
        deadlines.alive_s + deadlines.slack_s,
        "it left a server that says link.alive",
    )


@CHECKS.check("LIFE-2", "a server that is silent for 18 s is dropped", takes_s=limits.SILENCE_S)
async def silent_server(harness: AgentHarness) -> str:
    """Without a closing handshake; then it dials again."""
    session = await harness.session()
    session.wire.handlers.clear()
    session.grant_link = False
    session.wire.stop_sending_alive()
    started = time.monotonic()
    closed = await session.wire.until_closed(harness.deadlines.silence_s + harness.deadlines.slack_s)
    waited = closed.at - started
    if waited < harness.deadlines.silence_s - harness.deadlines.alive_s:
        raise RuleBroken(f"dropped after {waited:.1f} s already")
    if closed.code not in (1006, Close.SILENT):
        raise RuleBroken(f"closed with {closed.code}")
    await harness.session()
    return f"dropped after {waited:.1f} s, and dialled again"


@CHECKS.check("LIFE-3", "heartbeats come as often as the server asks for, and are of the documented shape")
async def heartbeats(harness: AgentHarness) -> str:
    """Every half second."""
    session = await harness.session(fresh=True, heartbeat_interval_s=0.5)
    last = await session.wire.expect("heartbeat", count=3)
    try:
        beat = msgspec.convert(last.params, HeartbeatParams)
    except msgspec.ValidationError as error:
        raise RuleBroken(f"heartbeat: {error}") from error
    return f"Ollama {'reachable' if beat.ollama.reachable else 'not reachable'}"


@CHECKS.check("LIFE-4", "after server.drain it comes back, and no earlier than asked", takes_s=DRAIN_S)
async def drain(harness: AgentHarness) -> str:
    """A floor, whatever else would make it hurry."""
    session = await harness.session()
    await session.wire.notify("server.drain", {"retry_after_s": DRAIN_S})
    started = time.monotonic()
    await session.wire.close(Close.DRAINING)
    redial, harness.redial = harness.redial, None
    try:
        await harness.session()
    finally:
        harness.redial = redial
    waited = time.monotonic() - started
    if waited < DRAIN_S:
        raise RuleBroken(f"it came back after {waited:.1f} s of {DRAIN_S:g}")
    return f"back after {waited:.1f} s"
