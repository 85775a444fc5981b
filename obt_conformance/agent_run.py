"""Running the checks of an agent: one after the other, for there is one agent."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Sequence

from obt_conformance.agent_harness import AgentHarness
from obt_conformance.checks import Check, CheckResult
from obt_conformance.run import QUICK_S, conclude, left_out


async def check_agent(
    checks: Sequence[Check[AgentHarness]], stage: AgentHarness, *, quick: bool = False
) -> list[CheckResult]:
    """Run the checks against the agent that dials the stage's open door; gives findings in their order."""
    findings = []
    for check in checks:
        if quick and check.takes_s > QUICK_S:
            findings.append(left_out(check))
        else:
            findings.append(await conclude(check, stage, limit_s=stage.deadlines.check_s))
    await stage.end()
    return findings


def command(line: str) -> Callable[[], Awaitable[None]]:
    """A command as a stage's ``redial``: run, and its end awaited."""

    async def run() -> None:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(line), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
        )
        await process.wait()

    return run
