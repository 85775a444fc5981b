"""Faults as they are done to a setting; each is written down once all is healed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

from tests.cluster.histories.journal import FaultSeen
from tests.cluster.histories.network import HERE
from tests.cluster.histories.programs import Program
from tests.cluster.histories.schedule import BUS, DATABASE, Fault
from tests.cluster.histories.setting import Setting, now

ABANDONING = 0.15
"""The share of agents that redial at once."""


async def apply(setting: Setting, fault: Fault, chance: random.Random) -> None:
    """Wait until it is due and no other is done to its target, do it, and end it."""
    await asyncio.sleep(fault.at_s)
    async with setting.busy[fault.target]:
        began = now()
        try:
            await _apply(setting, fault, chance)
        finally:
            setting.note(FaultSeen(fault.kind, fault.target, began, now()))


async def _apply(setting: Setting, fault: Fault, chance: random.Random) -> None:
    program = setting.replicas.get(fault.target)
    if fault.kind == "abandon":
        for agent in chance.sample(setting.light, int(len(setting.light) * ABANDONING)):
            agent.abandon()
    elif fault.kind in ("kill", "restart", "stop") and program is not None:
        await _to_a_replica(program, fault)
    elif fault.kind == "bus_kill" and setting.bus is not None:
        await setting.bus.kill()
        await asyncio.sleep(fault.for_s)
        await setting.bus.start()
    elif fault.kind == "database_crash":
        await asyncio.to_thread(setting.postgres.stop)
        await asyncio.sleep(fault.for_s)
        await asyncio.to_thread(setting.postgres.start)
    else:
        await _cut(setting, fault)
        if program is not None:
            await program.until_it_answers()


async def _to_a_replica(program: Program, fault: Fault) -> None:
    if fault.kind == "stop":
        program.pause()
        await asyncio.sleep(fault.for_s)
        program.go_on()
        await program.until_it_answers()
        return
    if fault.kind == "restart":
        await program.end()
    else:
        await program.kill()
        await asyncio.sleep(fault.for_s)
    await program.start()


async def _cut(setting: Setting, fault: Fault) -> None:
    links = [(fault.target, peer) for peer in _peers(setting, fault)]
    for link in links:
        await setting.network.cut(*link)
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        for link in links:
            await setting.network.mend(*link)


def _peers(setting: Setting, fault: Fault) -> Iterable[str]:
    """Whom the target is cut off."""
    match fault.kind:
        case "cut":
            return [HERE, DATABASE, *([BUS] if setting.bus is not None else [])]
        case "cut_bus":
            return [BUS]
        case "cut_database":
            return [DATABASE]
        case _:
            return list(setting.replicas)
