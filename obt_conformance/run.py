"""Running checks: beside each other where identities suffice, each with a limit and a verdict."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from obt_conformance.agent_harness import AgentHarness
from obt_conformance.checks import Check, CheckRegistry, CheckResult, RuleBroken, Untested, Verdict
from obt_conformance.deadlines import Deadlines
from obt_conformance.drivers import Driver
from obt_conformance.identity import Pool
from obt_conformance.lateness import Lateness
from obt_conformance.rules import RULES
from obt_conformance.server_harness import ServerHarness

S = TypeVar("S")

# ``--quick`` leaves out what the rule itself makes wait longer than this.
QUICK_S = 1.0


async def run_check(check: Check[S], harness: S, *, limit_s: float) -> CheckResult:
    """Run one check; whatever happens is a result."""
    verdict: Verdict = "fail"
    started = time.monotonic()
    try:
        async with asyncio.timeout(limit_s + check.takes_s):
            verdict, detail = "pass", await check.run(harness)
    except Untested as error:
        verdict, detail = "not tested", str(error)
    except RuleBroken as error:
        detail = str(error)
    except TimeoutError:
        detail = f"the check did not end within {limit_s + check.takes_s:g} s"
    # One check's surprise must not take the results of the others with it.
    except Exception as error:  # noqa: BLE001 - what the other side sent is of no shape that was foreseen
        detail = f"what came could not be understood: {type(error).__name__}: {error}"
    return CheckResult(check.rule, check.title, verdict, detail, round(time.monotonic() - started, 3))


def select_checks(registry: CheckRegistry[S], only: Sequence[str]) -> list[Check[S]]:
    """The checks of those rules; all when none is named.

    Raises:
        ValueError: there is no such rule.
    """
    known = [rule for rule in RULES if any(check.rule == rule for check in registry.checks)]
    unknown = sorted(set(only) - set(known))
    if unknown:
        raise ValueError(f"No rule {', '.join(unknown)}; rules are {', '.join(known)}.")
    # Sorting is stable: the checks of one rule stay in the order in which they were entered.
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
    lateness = Lateness()

    async def one(check: Check[ServerHarness]) -> CheckResult:
        if quick and check.takes_s > QUICK_S:
            return left_out(check)
        # An identity has one session at a time: two checks with one would replace each other's.
        async with pool.lent() as identity:
            harness = ServerHarness(url, identity, deadlines, driver or Driver(), join_tokens, lateness)
            return await run_check(check, harness, limit_s=deadlines.check_s)

    # Slow ones wait, and cost nothing: begun last they would make the whole last longer.
    slow_first = sorted(checks, key=lambda check: -check.takes_s)
    async with _measuring(lateness):
        async with asyncio.TaskGroup() as group:
            tasks = {
                check: group.create_task(one(check), name=f"check {check.rule}")
                for check in slow_first
                if not check.restarts
            }
        results = {check: task.result() for check, task in tasks.items()}
        # Each by itself: it ends all sessions.
        for check in checks:
            if check.restarts:
                results[check] = await one(check)
    return [results[check] for check in checks]


@contextlib.asynccontextmanager
async def _measuring(lateness: Lateness) -> AsyncIterator[None]:
    task = asyncio.create_task(lateness.run(), name="conformance lateness")
    try:
        yield
    finally:
        task.cancel()


async def check_agent(
    checks: Sequence[Check[AgentHarness]], harness: AgentHarness, *, quick: bool = False
) -> list[CheckResult]:
    """Run checks one after the other, for there is one agent; return results in the order of the checks."""
    results = []
    async with _measuring(harness.lateness):
        for check in checks:
            if quick and check.takes_s > QUICK_S:
                results.append(left_out(check))
            else:
                results.append(await run_check(check, harness, limit_s=harness.deadlines.check_s))
        await harness.end()
    return results
