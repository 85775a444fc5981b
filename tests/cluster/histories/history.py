"""One history: the faults of a seed while operators work, then calm, then the checks."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from tests.cluster.histories.checks import problems
from tests.cluster.histories.faults import apply
from tests.cluster.histories.journal import Ended, Log, Started, Stored, Target
from tests.cluster.histories.operators import Operators
from tests.cluster.histories.schedule import Fault, Pace, schedule
from tests.cluster.histories.setting import DATABASE_NAME, Setting, now
from tests.waiting import until

SETTLED_WITHIN_S = 90.0
AFTERWARDS_S = 2.0
"""For which operators go on when the last fault has ended."""
LOOK_S = 0.05


@dataclass
class History:
    """One of them, and what it came to."""

    seed: int
    faults: tuple[Fault, ...]
    log: Log = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    took_s: float = 0.0


class Lag:
    """How long this process stood still, at most: what it says of others' silences is off by that."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            before = now()
            await asyncio.sleep(LOOK_S)
            self.longest_s = max(self.longest_s, now() - before - LOOK_S)


async def run_history(setting: Setting, seed: int, pace: Pace) -> History:
    """One history; what is wrong is in it, never raised."""
    began = now()
    history = History(seed, schedule(seed, list(setting.replicas), pace, bus=setting.bus is not None))
    setting.entries = history.log
    for agent in setting.light:
        if agent.admission is not None:
            setting.note(agent.admission)
    name = f"h{seed}-{int(time.time())}"
    operators = Operators(
        url=setting.url,
        token=setting.token,
        machines=[agent.id for agent in setting.light],
        measured=[agent.id for agent in setting.real],
        name=name,
        note=setting.note,
        chance=random.Random(seed + 1),
    )
    for real in setting.real:
        real.allow(f"{name}:latest")
    lag = Lag()
    watching = asyncio.create_task(lag.watch(), name="lag")
    try:
        await _worked(setting, history, operators, pace)
        await _settled(setting)
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to this seed
        history.problems.append(repr(error))
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    unfinished = tuple(sorted(operators.unfinished))
    setting.note(Ended(now(), len(setting.light), lag.longest_s, unfinished, setting.proxy_late_s))
    _add_pulls(setting, f"{name}:latest")
    _add_results(setting, name)
    history.problems += problems(history.log)
    history.took_s = now() - began
    return history


async def _worked(setting: Setting, history: History, operators: Operators, pace: Pace) -> None:
    """Operators work until the faults are over and a moment longer; then they finish."""
    chance, stop = random.Random(history.seed + 2), asyncio.Event()
    working = asyncio.create_task(operators.run(stop), name="operators")
    began = now()
    try:
        # A group: where one cannot be done, the others are ended and healed as well.
        async with asyncio.TaskGroup() as group:
            for fault in history.faults:
                group.create_task(apply(setting, fault, chance), name=str(fault))
        await asyncio.sleep(max(AFTERWARDS_S, began + pace.load_s - now()))
    finally:
        stop.set()
        await working


async def _settled(setting: Setting) -> None:
    """Wait until all agents are back and every result is with the server, or it has taken too long.

    What is missing then, the checks tell better than an error here.
    """
    try:
        await until(
            lambda: (
                setting.admitted == len(setting.light)
                and not any(agent.unacknowledged for agent in setting.light)
            ),
            within_s=SETTLED_WITHIN_S,
        )
    except AssertionError:
        return


def _add_pulls(setting: Setting, model: str) -> None:
    """What the real machines fetched, as the Ollama of each knows it."""
    for real in setting.real:
        for number in range(real.pulls(model)):
            setting.note(Started(real.id, f"pull {number} of {model}", "pull", model, now()))


def _add_results(setting: Setting, name: str) -> None:
    """What the database holds of this history's jobs, and of those that its work made."""
    known = {one.job for one in setting.entries if isinstance(one, Started | Target)}
    rows = setting.postgres.execute("select agent_id, job_id, accepted from obt_results", DATABASE_NAME)
    for agent, job, accepted in rows:
        if str(job) in known or str(job).startswith(name):
            setting.note(Stored(str(agent), str(job), bool(accepted)))
