"""Running checks: beside each other where identities suffice, each with a limit and a verdict."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from obt_conformance.agent_harness import AgentHarness
from obt_conformance.checks import Check, CheckRegistry, CheckResult, RuleBroken, Untested, Verdict
from obt_conformance.deadlines import Deadlines
from obt_conformance.drivers import Driver
from obt_conformance.identity import Pool
from obt_conformance.rules import RULES
from obt_conformance.server_harness import ServerHarness

S = TypeVar("S")

QUICK_S = 1.0
"""``--quick`` leaves out what the rule itself makes wait longer than this."""


async def run_check(check: Check[S], harness: S, *, limit_s: float) -> CheckResult:
    """Run one check; whatever happens is a result."""
    started = time.monotonic()
    verdict: Verdict
    try:
        async with asyncio.timeout(limit_s + check.takes_s):
            detail = await check.run(harness)
        verdict = "pass"
    except Untested as error:
        verdict, detail = "not tested", str(error)
    except RuleBroken as error:
        verdict, detail = "fail", str(error)
    except TimeoutError:
        verdict, detail = "fail", f"the check did not end within {limit_s + check.takes_s:g} s"
    except Exception as error:  # noqa: BLE001 - what the other side sent is of no shape that was foreseen
        verdict, detail = "fail", f"what came could not be understood: {type(error).__name__}: {error}"
    return CheckResult(check.rule, check.title, verdict, detail, time.monotonic() - started)


def select_checks(registry: CheckRegistry[S], only: Sequence[str]) -> list[Check[S]]:
    """The checks of those rules; all when none is named.

    Raises:
        ValueError: there is no such rule.
    """
    known = [rule for rule in RULES if any(check.rule == rule for check in registry.checks)]
    unknown = sorted(set(only) - set(known))
    if unknown:
        raise ValueError(f"No rule {', '.join(unknown)}; rules are {', '.join(known)}.")
    checks = [check for check in registry.checks if not only or check.rule in only]
    return sorted(checks, key=lambda check: RULES.index(check.rule))


def left_out(check: Check[S]) -> CheckResult:
    """What ``--quick`` says of a slow check."""
    return CheckResult(
        check.rule, check.title, "not tested", f"left out by --quick: takes {check.takes_s:g} s", 0.0
    )


async def check_server(
    checks: Sequence[Check[ServerHarness]],
    pool: Pool,
    url: str,
    *,
    deadlines: Deadlines,
    driver: Driver | None,
    join_tokens: list[str],
    quick: bool = False,
) -> list[CheckResult]:
    """Run checks against a server; gives results in the order of the checks."""

    async def one(check: Check[ServerHarness]) -> CheckResult:
        if quick and check.takes_s > QUICK_S:
            return left_out(check)
        async with pool.lent() as identity:
            harness = ServerHarness(url, identity, deadlines, driver, join_tokens)
            return await run_check(check, harness, limit_s=deadlines.check_s)

    slow_first = sorted(checks, key=lambda check: -check.takes_s)
    async with asyncio.TaskGroup() as group:
        tasks = {check: group.create_task(one(check), name=f"check {check.rule}") for check in slow_first}
    return [tasks[check].result() for check in checks]


async def check_agent(
    checks: Sequence[Check[AgentHarness]], harness: AgentHarness, *, quick: bool = False
) -> list[CheckResult]:
    """Run checks one after the other, for there is one agent; return results in the order of the checks."""
    results = []
    for check in checks:
        if quick and check.takes_s > QUICK_S:
            results.append(left_out(check))
        else:
            results.append(await run_check(check, harness, limit_s=harness.deadlines.check_s))
    await harness.end()
    return results


def command(line: str) -> Callable[[], Awaitable[None]]:
    """Return a coroutine function that runs the command and waits for its end, for ``redial``."""

    async def run() -> None:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(line), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
        )
        await process.wait()

    return run
