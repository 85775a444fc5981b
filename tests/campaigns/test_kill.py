"""A campaign while the server is killed twice and three links are cut: one result or one reason a cell.

Whole agents, each on a stand-in of its own with a scripted speed: three models, two plans. A third of the
machines lack one model and pull it; two of these have registries that lack it as well. The server is a
process. ``OBT_CAMPAIGN_AGENTS`` (10: 60 cells) and ``OBT_CAMPAIGN_RUNS`` make it larger,
``OBT_CAMPAIGN_SEED`` another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from obt_standin.script import Model, Script
from tests.effort import CAMPAIGN_AGENTS, CAMPAIGN_RUNS, CAMPAIGN_SEED
from tests.ports import free_port
from tests.rollouts.kill_setting import KillSetting, ScriptedMachine, asked, cut, until_ended
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CUTS = 3
KILLS = 2
WITHIN_S = 900.0
MODELS = [Model(name=f"{name}:latest") for name in ("one", "two", "three")]
PROMPTS = {
    "short": {"prompt": "Why?", "completion_tokens": 4},
    "long": {"prompt": "Why is the sky blue?", "completion_tokens": 8},
}
QUICKLY = {"num_iterations": 2, "warmup_iterations": 0, "cooldown_s": 0, "min_duration_s": 0}


def script(chance: random.Random, number: int, failing: frozenset[int]) -> Script:
    """A machine's speed, its models, and what its registry has."""
    lacks = number % 3 == 0
    return Script(
        models=MODELS[:2] if lacks else MODELS,
        registry=[] if number in failing else MODELS[2:],
        decode_tps=chance.uniform(20, 400),
        load_s=chance.uniform(0, 0.1),
        pull_s=chance.uniform(0.05, 0.5),
    )


def requests(setting: KillSetting) -> int:
    """How often anything was generated, or a model loaded."""
    return sum(machine.asked("/api/generate") for machine in setting.machines)


async def begun(setting: KillSetting, count: int) -> None:
    """Wait until so much was generated; an event of each stand-in would be one of many."""
    await until(lambda: requests(setting) >= count, lambda: str(requests(setting)), within_s=WITHIN_S)


async def cut_at(setting: KillSetting, chance: random.Random, at: int, machine: ScriptedMachine) -> None:
    await begun(setting, at)
    await cut(machine, chance)


async def one_history(folder: Path, chance: random.Random, count: int) -> None:
    folder.mkdir()
    setting = KillSetting(folder, free_port())
    failing = frozenset(number for number in range(count) if number % 3 == 0 and number < 6)
    body: dict[str, Any] = {
        "plans": [
            {"label": label, "plan": {"prompts": [prompt], **QUICKLY}} for label, prompt in PROMPTS.items()
        ],
        "models": [model.name for model in MODELS],
        "targets": {"all": True},
        # Of a few tokens on a busy machine a speed may be withheld; how long it took never is.
        "metric": "total_duration_ms",
        "order": chance.choice(["model", "plan", "random"]),
        "pull_missing": True,
        "key": "once",
    }
    # Each cell that is measured generates twice at least.
    least = 2 * 2 * len(PROMPTS) * count
    async with contextlib.AsyncExitStack() as stack:
        await setting.prepare(stack, [script(chance, number, failing) for number in range(count)])
        cuts = [
            asyncio.create_task(cut_at(setting, chance, at, machine), name=f"cut of {machine.name}")
            for at, machine in zip(
                chance.choices(range(1, least), k=CUTS), chance.sample(setting.machines, CUTS), strict=True
            )
        ]
        ids = set()
        for deadline in sorted(chance.sample(range(1, least), KILLS)):
            async with setting.server() as kill:
                ids.add((await asked(setting, "POST", "/campaigns", body))["id"])
                await begun(setting, deadline)
                await kill()
        async with setting.server():
            ids.add((await asked(setting, "POST", "/campaigns", body))["id"])
            (campaign_id,) = ids
            view = await until_ended(setting, f"/campaigns/{campaign_id}", WITHIN_S)
            await asyncio.gather(*cuts)
            jobs = await asked(setting, "GET", "/jobs?limit=1000")
    check(view, jobs, failing, count)


def check(view: dict[str, Any], jobs: list[dict[str, Any]], failing: frozenset[int], count: int) -> None:
    """Each cell has exactly one result or one reason, and was measured once at most."""
    cells = {cell["id"]: cell for cell in view["cells"]}
    assert len(cells) == count * len(MODELS) * len(PROMPTS)
    own = [job for job in jobs if job["job_id"].startswith(view["id"]) and job["kind"] == "benchmark"]
    started = Counter(job["job_id"].split(".")[1] for job in own)
    results = {job["job_id"].split(".")[1]: job for job in own if job["result_available"]}
    for cell_id, cell in cells.items():
        lost = int(cell["agent_name"][1:]) in failing and cell["model"] == MODELS[2].name
        assert cell["state"] == ("failed" if lost else "done"), cell
        assert started[cell_id] == (not lost), cell
        assert (cell["reason"] is not None, cell_id in results) == (lost, not lost), cell
        if not lost:
            assert (results[cell_id]["job_id"], results[cell_id]["state"]) == (cell["job_id"], "completed")
            assert cell["value"] is not None


@pytest.mark.parametrize("seed", range(CAMPAIGN_SEED, CAMPAIGN_SEED + CAMPAIGN_RUNS))
async def test_each_cell_has_one_result_or_one_reason_whatever_is_killed_or_cut(
    tmp_path: Path, seed: int
) -> None:
    await one_history(tmp_path / "history", random.Random(seed), CAMPAIGN_AGENTS)
