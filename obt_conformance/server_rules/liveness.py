"""[LIFE]: signs of life both ways, heartbeats, and orderly ends."""

from __future__ import annotations

import time

from obt_agent.protocol import limits
from obt_conformance.both_ways import longest_pause
from obt_conformance.checks import RuleBroken
from obt_conformance.server_harness import ServerHarness
from obt_conformance.server_rules.registry import CHECKS

PONG_TIMEOUT_S = 45.0
"""Longer than usual libraries wait for a pong (20 s after a ping every 20 s)."""


@CHECKS.check("LIFE-1", "something comes at least every 5 s", takes_s=3 * limits.ALIVE_INTERVAL_S)
async def server_lives(harness: ServerHarness) -> str:
    """With nothing else to say."""
    async with harness.agent() as agent:
        deadlines = harness.deadlines
        return await longest_pause(
            agent.wire,
            3 * deadlines.alive_s,
            deadlines.alive_s + min(deadlines.slack_s, deadlines.alive_s),
            "an agent that says link.alive was dropped",
        )


@CHECKS.check("LIFE-2", "an agent that is silent for 18 s is dropped", takes_s=limits.SILENCE_S)
async def silent_agent(harness: ServerHarness) -> str:
    """It reads nothing either, so that no pong goes out."""
    async with harness.agent() as agent:
        agent.wire.stop_sending_alive()
        started = time.monotonic()
        closed = await agent.wire.until_closed(harness.deadlines.silence_s + harness.deadlines.slack_s)
        waited = closed.at - started
        if waited < harness.deadlines.silence_s - harness.deadlines.alive_s:
            raise RuleBroken(f"dropped after {waited:.1f} s already")
        return f"dropped after {waited:.1f} s with {closed.code}"


@CHECKS.check("LIFE-2", "an agent that speaks but sends no pong is kept", takes_s=PONG_TIMEOUT_S)
async def no_pongs(harness: ServerHarness) -> str:
    """Only bytes prove life; pong timeouts kill slow, healthy links."""
    async with harness.agent(pongs=False) as agent:
        watched = min(PONG_TIMEOUT_S, 2.5 * harness.deadlines.silence_s)
        await agent.wire.quiet_for(watched)
        if agent.wire.closed is not None:
            raise RuleBroken(agent.wire.how_closed())
        return f"kept for {watched:g} s"


@CHECKS.check("LIFE-3", "heartbeats are taken")
async def heartbeats(harness: ServerHarness) -> str:
    """A full one, and one that says the least."""
    async with harness.agent() as agent:
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
        if agent.wire.closed is not None or any(f.error_code is not None for f in agent.wire.frames):
            raise RuleBroken("a heartbeat was refused")
    return "taken"


@CHECKS.check("LIFE-4", "agent.goodbye is taken, and the next dial is admitted at once")
async def goodbye(harness: ServerHarness) -> str:
    """Another process may follow: this one has left."""
    async with harness.agent() as agent:
        await agent.wire.notify("agent.goodbye", {"reason": "restart"})
        await agent.check_responsive()
        await agent.wire.close(1001)
    started = time.monotonic()
    async with harness.agent(agent={"instance": harness.fresh_instance()}) as agent:
        await agent.check_responsive()
        return f"admitted again after {time.monotonic() - started:.1f} s"
