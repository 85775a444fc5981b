"""Further machines of the demonstration: real agents, marked, measured, and gone when it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from obt_server.demo.environment import DemoEnvironment, demo_environment
from obt_server.demo.fleet import PLANS, DemoMachine, demo_fleet
from obt_server.demo.processes import ChildFailed
from obt_server.demo.scripted_gpus import GpuScript
from tests.demo.test_demo import WITHIN_S, ours, start, until_it_runs
from tests.ports import free_port
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

CARD = GpuScript(memory_gib=8, idle_watts=10, limit_watts=100, idle_celsius=30, busy_celsius=60)
QUICK = {"decode_tps": 2000, "prefill_tps": 1e6, "models": [{"name": "tiny:1b", "vram_ratio": 1.0}]}


def machine(name: str, *gpus: GpuScript, **script: Any) -> DemoMachine:
    return DemoMachine(name=name, script=msgspec.Raw(msgspec.json.encode({**QUICK, **script})), gpus=gpus)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DemoEnvironment]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_URL", f"http://127.0.0.1:{free_port()}")
        async with demo_environment(tmp_path_factory.mktemp("demo"), free_port()) as ready:
            yield ready


async def test_machines_come_with_their_gpus_and_finished_benchmarks(
    demo: DemoEnvironment, tmp_path: Path
) -> None:
    words: list[str] = []
    async with demo_fleet(tmp_path, demo, [machine("box", CARD), machine("bare")], words.append) as fleet:
        async with asyncio.timeout(WITHIN_S):
            await fleet.ready()
        assert set(fleet.machines) == {"box", "bare"}
        gpus = {
            name: (await demo.client.get(f"/agents/{agent}/hardware"))["inventory"].get("gpus") or []
            for name, agent in fleet.machines.items()
        }
        results = (await demo.client.get("/results"))["results"]

        async def sampled() -> bool:
            agents = {one["name"]: one for one in await demo.client.get("/agents")}
            gpus = (agents["box"]["hardware"] or {}).get("gpus") or [{}]
            return gpus[0].get("utilization_ratio") is not None

        # The first heartbeat may be older than the first reading of the GPU; a load of 0 is a reading.
        await until(sampled)
    assert [gpu["name"] for gpu in gpus["box"]] == ["Scripted GPU, 8 GiB"]
    # Whatever this machine has, a machine that is scripted without a GPU has none.
    assert gpus["bare"] == []
    assert {(one["agent_name"], one["plan_name"], one["status"]) for one in results} == {
        ("box", "short answers", "completed"),
        ("bare", "short answers", "completed"),
    }
    assert all(one["ollama_version"].endswith("standin") for one in results)
    assert any("connected" in one for one in words)


async def test_leaving_while_they_come_up_leaves_no_process(demo: DemoEnvironment, tmp_path: Path) -> None:
    before = set(await children())
    async with demo_fleet(tmp_path, demo, [machine("late")]):
        async with asyncio.timeout(WITHIN_S):
            while not set(await children()) - before:  # noqa: ASYNC110 - a process gives no event
                await asyncio.sleep(0.01)
    assert set(await children()) == before


async def children() -> list[int]:
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return [int(one) for one in listed.split()]


async def test_one_that_does_not_come_up_is_told_and_the_first_machine_goes_on(
    demo: DemoEnvironment, tmp_path: Path
) -> None:
    words: list[str] = []
    async with demo_fleet(tmp_path, demo, [machine("broken", decode_tsp=1)], words.append) as fleet:
        with pytest.raises(ChildFailed, match="decode_tsp"):
            async with asyncio.timeout(WITHIN_S):
                await fleet.ready()
        assert "decode_tsp" in words[-1]
        assert (await demo.client.get(f"/agents/{demo.agent_id}"))["presence"] == "online"


async def test_plans_of_the_demonstration_are_saved_under_their_names(
    demo: DemoEnvironment, tmp_path: Path
) -> None:
    async with demo_fleet(tmp_path, demo, [machine("again")]) as fleet:
        async with asyncio.timeout(WITHIN_S):
            await fleet.ready()
        names = {one["name"] for one in await demo.client.get("/plans")}
    assert set(PLANS) <= names


async def test_ctrl_c_while_the_fleet_comes_up_ends_all_of_it(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    process = await start("--port", str(free_port()), "--machines", "3", ollama=nobody, folder=tmp_path)
    async with asyncio.timeout(WITHIN_S):
        said = await until_it_runs(process)
        assert process.stdout is not None
        said += (await process.stdout.readline()).decode()
        process.send_signal(signal.SIGINT)
        rest, _ = await process.communicate()
    assert process.returncode == 0, rest
    assert "2 more machines are coming" in said
    assert ours(tmp_path) == []
