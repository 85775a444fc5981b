"""Numbers that a machine makes up: they are not believed, and break nothing of other machines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from obt_agent.errors import OllamaError
from obt_agent.hardware.inventory import GpuInfo, GpuMemory, Inventory, MemoryInfo, StorageInfo
from obt_server.machine_jobs.failures import kept_error
from obt_server.rollout_storage import RolloutTarget
from obt_server.rollouts import fleet_models
from tests.rollouts.machines import DIGEST, QUICK, SIZE, begin, connected, machines, states, until_over
from tests.server.conftest import Running, running
from tests.server.job_steps import finish
from tests.waiting import until

WORDS = [-1, 2**63 - 1, 2**63, 10**30]


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, rollouts=QUICK) as one:
        yield one


@pytest.mark.parametrize("number", WORDS)
async def test_bytes_of_one_machine_neither_hold_up_a_rollout_nor_break_the_list(
    quick: Running, number: int
) -> None:
    honest, other = some = await machines(quick, 2)
    other.at_once = False
    async with connected(quick, some):
        rollout = await begin(quick)
        await until(lambda: other.jobs)
        (job_id,) = other.jobs
        said = {"completed_bytes": number, "total_bytes": number, "free_bytes": number, "digest": DIGEST}
        other.jobs[job_id] = "acknowledged"
        await finish(other.link, job_id, json.dumps(said), kind="pull")
        view = await until_over(quick, rollout["id"])
        answer = await quick.http.get("/api/v1/rollouts")
        matrix = await quick.http.get("/api/v1/models/matrix")
    assert set(states(view).values()) == {"done"}
    assert (answer.status_code, matrix.status_code) == (200, 200)
    (listed,) = answer.json()
    assert (listed["completed_bytes"], listed["total_bytes"]) == (SIZE, SIZE)
    assert {one["free_bytes"] for one in matrix.json()["agents"]} == {None}
    assert honest.started.total() == 1


async def test_bytes_that_an_earlier_release_stored_do_not_break_the_list(quick: Running) -> None:
    _, other = some = await machines(quick, 2)
    storage = quick.parts.storage
    async with connected(quick, some):
        view = await until_over(quick, (await begin(quick))["id"])
        rollout = await storage.rollout(view["id"])
        targets = {one.agent_id: one for one in await storage.rollout_targets(view["id"])}
        lied: RolloutTarget = msgspec.structs.replace(targets[other.id], completed_bytes=2**63 - 1)
        await storage.save_rollout(rollout, [lied])
        answer = await quick.http.get("/api/v1/rollouts")
    assert answer.status_code == 200
    assert [one["completed_bytes"] for one in answer.json()] == [SIZE]


@pytest.mark.parametrize("number", WORDS)
def test_an_error_is_kept_whatever_numbers_it_names(number: int) -> None:
    error = kept_error(OllamaError("no", size=number, attempt=3, words="yes", passing=True))
    kept = msgspec.json.decode(msgspec.json.encode(error))["data"]["detail"]
    assert (kept["attempt"], kept["words"], kept["passing"]) == (3, "yes", True)
    assert kept["size"] in (None, -1)


@pytest.mark.parametrize("number", [-1, 2**63, 2**64 - 1])
def test_a_machine_that_boasts_of_memory_counts_as_one_that_says_nothing(number: int) -> None:
    inventory = Inventory(
        fingerprint="f",
        collected_at=1.0,
        memory=MemoryInfo(total_bytes=number),
        storage=(StorageInfo(purpose="models", free_bytes=number),),
        gpus=tuple(
            GpuInfo(id=name, vendor="v", provider="p", memory=GpuMemory(total_bytes=number)) for name in "ab"
        ),
    )
    said = fleet_models._capacity(msgspec.json.encode(inventory))  # noqa: SLF001 - as it is stored
    assert said == fleet_models.Capacity()
