"""``make hostile``: a hostile server against a real agent, for SECONDS (600), within 512 MiB of memory.

The kernel refuses the process more (RLIMIT_DATA); a table says what was sent, and what it cost. Exit status 1
when the agent ended, ran out of memory, or does not answer afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from obt_conformance.agent_harness import AgentHarness, AgentTarget, KitSession
from obt_conformance.checks import RuleBroken
from obt_conformance.deadlines import Deadlines
from obt_conformance.listening import AgentListener
from tests.conformance.agent_process import WITHIN_S, Agent, running_agent
from tests.hostile.frames import corpus
from tests.hostile.large_ollama import MODEL, large_ollama

MIB = 1 << 20
LIMIT_BYTES = 512 * MIB
BURST = 200
SESSION_S = 20.0
"""A session that lasts longer is left for another one: each begins with nothing held."""


@dataclass
class Outcome:
    """What was done, and what it cost."""

    frames: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    sessions: int = 0
    peak_bytes: int = 0
    fault: str = ""


def peak_bytes(agent: Agent) -> int:
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


async def attack(session: KitSession, outcome: Outcome, until_s: float, seed: int) -> None:
    """Send as fast as the agent takes it; half of the sessions never read."""
    wire = session.wire
    if random.Random(seed).random() < 0.5:
        wire.stop_sending_alive()
        wire.pause_reading()
    with contextlib.suppress(TimeoutError, OSError, RuleBroken, ConnectionError):
        async with asyncio.timeout(max(0.1, min(SESSION_S, until_s - time.monotonic()))):
            for kind, frame in corpus(seed):
                if wire.socket.state.name != "OPEN":
                    return
                copies = BURST if len(frame) < 1000 else 1
                for _ in range(copies):
                    await wire.send(frame)
                outcome.frames[kind] += copies
                outcome.bytes[kind] += copies * len(frame)
                wire.frames.clear()


async def against_agent(folder: Path, seconds: float) -> Outcome:
    """Attack an agent that allows everything; then it must answer as before."""
    outcome = Outcome()
    deadlines = Deadlines(answer_s=60.0)
    door = AgentListener(answer_within_s=deadlines.answer_s)
    everything = {"allow_changes": ["pull_model", "create_model", "copy_model", "delete_model"]}
    async with (
        large_ollama(8 * MIB) as ollama,
        door.open("127.0.0.1", 0),
        running_agent(
            folder, f"http://127.0.0.1:{door.port}", ollama, module="obt_agent", policy=everything
        ) as agent,
    ):
        resource.prlimit(agent.process.pid, resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
        await door.first_dial(WITHIN_S)
        harness = AgentHarness(AgentTarget(MODEL, MODEL), door, deadlines, agent.redial)
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end and agent.process.returncode is None:
                session = await harness.session(fresh=True, stream_credit_bytes=4 * MIB)
                await attack(session, outcome, end, outcome.sessions)
                session.wire.abort()
                await session.wire.until_closed()
                outcome.sessions += 1
            session = await harness.session(fresh=True)
            answer = await session.wire.ask("list_models", {})
            outcome.fault = "" if answer.error_code is None else f"list_models: {answer.message}"
            outcome.peak_bytes = peak_bytes(agent)
            await harness.end()
        except (RuleBroken, OSError) as error:
            outcome.fault = f"does not answer any more: {error}"
        if agent.process.returncode is not None:
            outcome.fault = f"ended with {agent.process.returncode}"
        elif "MemoryError" in agent.log:
            outcome.fault = "out of memory"
    return outcome


def table(outcome: Outcome) -> str:
    lines = ["| value | frames | MiB |", "|---|---:|---:|"]
    for kind, count in sorted(outcome.frames.items()):
        lines.append(f"| {kind} | {count} | {outcome.bytes[kind] / MIB:.1f} |")
    peak, limit = outcome.peak_bytes / MIB, LIMIT_BYTES / MIB
    end = outcome.fault or "alive"
    lines.append(f"agent: {outcome.sessions} sessions, peak {peak:.0f} of {limit:.0f} MiB, {end}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        outcome = asyncio.run(against_agent(Path(folder), seconds))
    sys.stdout.write(table(outcome) + "\n")
    return 1 if outcome.fault else 0


if __name__ == "__main__":
    sys.exit(main())
