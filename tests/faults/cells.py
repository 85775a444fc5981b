"""One cell of the matrix: a fault in a state, how soon it is noticed, how soon all is well again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from obt_agent.errors import AgentError
from obt_agent.protocol.commands import ListModelsResult
from tests.faults.agent import Agent
from tests.faults.catalogue import FAULTS, Fault
from tests.faults.environment import Environment, Ledger, cell_environment
from tests.faults.states import STATES, Busy
from tests.faults.timing import Timing
from tests.waiting import until

HOLD = 1.5
"""A slow link is held for so many times the silence that would end it."""
MOVES_WITHIN_S = 16.0
"""Twice what the slowest link takes for all that credit lets be on its way: 128 KiB at 16 KiB/s."""

NOT_IN = {"idle": frozenset({"half close", "second dial, other process", "second dial, same process"})}
"""Faults of a connection, where there is none."""

CELLS = tuple(
    (state, fault) for fault in FAULTS for state in STATES if fault.name not in NOT_IN.get(state, ())
)


@dataclass
class Outcome:
    """What one cell came to. Times are seconds; None where there is nothing to notice."""

    state: str
    fault: Fault
    noticed_s: float | None = None
    admitted_s: float | None = None
    ledger: Ledger = field(default_factory=lambda: Ledger(0, 0, 0))
    problems: list[str] = field(default_factory=list)

    def expect(self, *, that: bool, else_: str) -> None:
        """Note what is not as it must be."""
        if not that:
            self.problems.append(else_)


async def run_cell(state: str, fault: Fault, timing: Timing, folder: Path) -> Outcome:
    """Run one cell in a folder of its own; never raises for what the agent does."""
    outcome = Outcome(state, fault)
    try:
        async with (
            asyncio.timeout(timing.patience_s),
            cell_environment(folder, timing, tls=fault.tls) as here,
            STATES[state](here) as busy,
        ):
            await _strike(here, busy, outcome, timing)
            await _after(here, busy, outcome)
    except TimeoutError:
        outcome.problems.append(f"it hung: nothing for {timing.patience_s:g} s")
    except AgentError as error:
        outcome.problems.append(f"{type(error).__name__}: {error.message}")
    return outcome


async def _strike(here: Environment, busy: Busy, outcome: Outcome, timing: Timing) -> None:
    async with outcome.fault.strike(here):
        started = time.monotonic()
        if outcome.state == "draining":
            await here.agent.end()
            outcome.noticed_s = time.monotonic() - started
            most_s = (
                timing.timings.flush_s
                + timing.timings.close_s
                + timing.margin_s
                + 2 * timing.timings.silence_s
            )
            _within(outcome, "ended", outcome.noticed_s, most_s)
        elif outcome.fault.effect == "passes":
            await _passes(here, busy, outcome, timing)
            return
        else:
            await _noticed(here, busy, outcome)
            outcome.noticed_s = time.monotonic() - started
            dialled = outcome.state == "idle" or outcome.fault.effect == "refuses"
            _within(outcome, "noticed", outcome.noticed_s, timing.dial_s if dialled else timing.notice_s)
    healed = time.monotonic()
    if outcome.state == "draining":
        here.agent = Agent(here.site, timing)
        await here.agent.start()
    await _admitted_again(here, busy)
    outcome.admitted_s = time.monotonic() - healed
    _within(outcome, "admitted again", outcome.admitted_s, timing.return_s)


def _within(outcome: Outcome, what: str, took_s: float, most_s: float) -> None:
    outcome.expect(
        that=took_s <= most_s, else_=f"{what} after {took_s:.1f} s, and {most_s:.1f} s are allowed"
    )


async def _admitted_again(here: Environment, busy: Busy) -> None:
    """Wait for a session that both sides hold."""
    link, hub = here.agent.components.link, here.server.hub
    old = busy.session

    def both() -> bool:
        session, presence = link.session, hub.presence(here.agent_id)
        if session is None or session is old or presence is None:
            return False
        return presence.session == session.number

    await until(both)


async def _passes(here: Environment, busy: Busy, outcome: Outcome, timing: Timing) -> None:
    """A fault that must not be noticed: the session lives on, and what it carries moves."""
    if outcome.state == "idle":
        here.gate.refusing = False
        started = time.monotonic()
        await _admitted_again(here, busy)
        outcome.admitted_s = time.monotonic() - started
        return
    items = [reader.items for reader in busy.readers]
    held = asyncio.create_task(until(lambda: not busy.session.alive), name="hold")
    await asyncio.wait([held], timeout=HOLD * timing.timings.silence_s)
    outcome.expect(that=not held.done(), else_=f"a healthy link was dropped: {here.agent.problem}")
    held.cancel()

    def all_moved() -> bool:
        return all(reader.items > before for reader, before in zip(busy.readers, items, strict=True))

    # What credit allowed before the fault is on its way still, and may hold nothing of some streams.
    with contextlib.suppress(AssertionError):
        await until(all_moved, within_s=MOVES_WITHIN_S)
    outcome.expect(that=all_moved(), else_="a stream stood still")


async def _noticed(here: Environment, busy: Busy, outcome: Outcome) -> None:
    """Wait until both sides know that the session is gone, or that the dial has failed and why."""
    link, hub, fault = here.agent.components.link, here.server.hub, outcome.fault
    if outcome.state == "idle":
        dials = link.statistics.dials
        here.gate.refusing = fault.name.startswith("reset")
        await until(lambda: link.statistics.dials > dials and link.status.state == "waiting")
    else:
        number = busy.session.number
        await until(lambda: not busy.session.alive)
        await until(lambda: (known := hub.presence(here.agent_id)) is None or known.session != number)
    if fault.effect == "refuses":
        await until(lambda: fault.says in here.agent.problem)


async def _after(here: Environment, busy: Busy, outcome: Outcome) -> None:
    """All is well: streams have ended on both sides, every job has its one final, and commands work."""
    if outcome.fault.effect == "passes" and outcome.state != "draining":
        await busy.stop()
    await busy.ended()
    await until(lambda: here.standin.open_streams == 0)
    await here.settled()
    outcome.ledger = here.ledger()
    outcome.expect(that=outcome.ledger.lost == 0, else_=f"{outcome.ledger.lost} results were lost")
    outcome.expect(that=outcome.ledger.duplicates == 0, else_=f"{outcome.ledger.duplicates} results twice")
    answer: ListModelsResult = await here.server.hub.call(here.agent_id, "list_models")
    names = [model.name for model in answer.models]
    outcome.expect(that="standin-small:latest" in names, else_="list_models does not answer")
