"""One pull to all while the server is killed twice and three machines are cut off: each pulls exactly once.

Whole agents, each on a stand-in of its own with a scripted speed; some of them fail; the server is a process.
``OBT_ROLLOUT_AGENTS`` (20) and ``OBT_ROLLOUT_RUNS`` (100) make it larger, ``OBT_ROLLOUT_SEED`` another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from obt_standin.script import Model, Script
from tests.effort import ROLLOUT_AGENTS, ROLLOUT_RUNS, ROLLOUT_SEED
from tests.ports import free_port
from tests.rollouts.kill_setting import WITHIN_S, KillSetting, ScriptedMachine, asked, cut, until_ended
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CUTS = 3
MODEL = "wanted:latest"


async def begun_on(setting: KillSetting, count: int) -> None:
    """Wait until so many have begun; an event of each stand-in would be one of many."""
    await until(
        lambda: sum(machine.asked("/api/pull") > 0 for machine in setting.machines) >= count,
        within_s=WITHIN_S,
    )


async def one_history(folder: Path, chance: random.Random, count: int) -> None:
    folder.mkdir()
    setting = KillSetting(folder, free_port())
    async with contextlib.AsyncExitStack() as stack:
        # Two of them have registries that lack the model.
        failing = set(chance.sample(range(count), 2))
        scripts = [
            Script(
                registry=[Model(name="another:latest" if number in failing else MODEL, digest="d" * 64)],
                pull_s=chance.uniform(0.05, 1.5),
            )
            for number in range(count)
        ]
        await setting.prepare(stack, scripts)
        body = {
            "action": "pull",
            "model": MODEL,
            "targets": {"all": True},
            "parallelism": max(2, count // 3),
            "offline": "wait",
            "key": "once",
        }
        first, second = sorted(chance.sample(range(1, count - 1), 2))
        cuts = [
            asyncio.create_task(_cut_at(setting, chance, at, machine), name=f"cut of {machine.name}")
            for at, machine in zip(
                sorted(chance.choices(range(1, count - 1), k=CUTS)),
                chance.sample(setting.machines, CUTS),
                strict=True,
            )
        ]
        ids = set()
        for deadline in (first, second):
            async with setting.server() as kill:
                ids.add((await asked(setting, "POST", "/rollouts", body))["id"])
                await begun_on(setting, deadline)
                await kill()
        async with setting.server():
            ids.add((await asked(setting, "POST", "/rollouts", body))["id"])
            (rollout_id,) = ids
            view = await until_ended(setting, f"/rollouts/{rollout_id}")
            await asyncio.gather(*cuts)
    assert {machine.name: machine.asked("/api/pull") for machine in setting.machines} == {
        machine.name: 1 for machine in setting.machines
    }
    assert {target["agent_name"]: target["state"] for target in view["targets"]} == {
        machine.name: "failed" if number in failing else "done"
        for number, machine in enumerate(setting.machines)
    }
    done = [target for target in view["targets"] if target["state"] == "done"]
    assert {target["digest_after"] for target in done} == {"d" * 64}


async def _cut_at(setting: KillSetting, chance: random.Random, at: int, machine: ScriptedMachine) -> None:
    await begun_on(setting, at)
    await cut(machine, chance)


@pytest.mark.parametrize("seed", range(ROLLOUT_SEED, ROLLOUT_SEED + ROLLOUT_RUNS))
async def test_a_pull_to_all_is_one_pull_each_whatever_is_killed_or_cut(tmp_path: Path, seed: int) -> None:
    await one_history(tmp_path / "history", random.Random(seed), ROLLOUT_AGENTS)
