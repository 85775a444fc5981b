"""One pull to all while the server is killed twice and three machines are cut off: each pulls exactly once.

Whole agents, each on a stand-in of its own with a scripted speed; some of them fail; the server is a process.
``OBT_ROLLOUT_AGENTS`` (20) and ``OBT_ROLLOUT_RUNS`` (100) make it larger, ``OBT_ROLLOUT_SEED`` another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from obt_agent.config.schema import Config
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_server import app as application
from obt_server.client import ApiError, Client
from obt_server.demo.environment import free_port
from obt_server.storage import Enrolment
from obt_standin import StandIn
from obt_standin.script import Model, Script
from tests.effort import ROLLOUT_AGENTS, ROLLOUT_RUNS, ROLLOUT_SEED
from tests.faults.agent import Agent, Site
from tests.faults.timing import SHORT
from tests.link.fault_proxy import FaultProxy
from tests.server.enrolling import enrol
from tests.server.process import server_process
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CUTS = 3
MODEL = "wanted:latest"
WITHIN_S = 120.0


@dataclass(frozen=True)
class PullingSite(Site):
    """A machine whose owner lets the server pull."""

    def config(self) -> Config:
        sections = msgspec.to_builtins(super().config())
        sections["agent"]["name"] = self.folder.name
        sections["policy"] |= {"allow_changes": ["pull_model"]}
        sections["hardware"] |= {"idle_interval_s": 60.0}
        return msgspec.convert(sections, Config)


@dataclass
class PullingMachine:
    """A whole agent with its stand-in, behind a link that can be cut."""

    name: str
    standin: StandIn
    proxy: FaultProxy
    fails: bool
    agent_id: str = ""

    @property
    def pulls(self) -> int:
        """How often Ollama was asked to pull."""
        return sum(one.path == "/api/pull" for one in self.standin.requests)


@dataclass
class KillSetting:
    """All machines, and a server that can be killed."""

    folder: Path
    port: int
    token: str = ""
    machines: list[PullingMachine] = field(default_factory=list)

    def begun(self) -> int:
        """How many machines' Ollamas were asked to pull."""
        return sum(machine.pulls > 0 for machine in self.machines)

    async def begun_on(self, count: int) -> None:
        """Wait until so many have begun; an event of each stand-in would be one of many."""
        await until(lambda: self.begun() >= count, within_s=WITHIN_S)

    @contextlib.asynccontextmanager
    async def server(self) -> AsyncIterator[Callable[[], Any]]:
        """A running server; gives what kills it."""
        database = self.folder / "server.sqlite3"
        async with server_process(database, "--port", str(self.port)) as process:
            yield process.kill


async def prepared(
    setting: KillSetting, stack: contextlib.AsyncExitStack, chance: random.Random, count: int
) -> None:
    """Enrol and start so many machines; two of them have registries that lack the model."""
    parts = application.build(application.AppSettings(database=setting.folder / "server.sqlite3"))
    await parts.operators.create_first("admin")
    setting.token, _ = await parts.operators.new_token("admin", "tests", None)
    failing = set(chance.sample(range(count), 2))
    agents = []
    for number in range(count):
        offered = [Model(name="another:latest" if number in failing else MODEL, digest="d" * 64)]
        script = Script(registry=offered, pull_s=chance.uniform(0.05, 1.5))
        standin = await stack.enter_async_context(StandIn(script))
        proxy = await stack.enter_async_context(FaultProxy(setting.port))
        machine = PullingMachine(f"m{number}", standin, proxy, number in failing)
        folder, secret = setting.folder / machine.name, Secret.new()
        with StateDir.open(folder) as state:
            machine.agent_id = state.agent_id
        enrolment = Enrolment(
            agent_id=machine.agent_id, name=machine.name, version="1", secret_sha256=secret.sha256()
        )
        await enrol(parts.storage, enrolment, time.time())
        site = PullingSite(folder, f"http://127.0.0.1:{proxy.port}", standin.url, secret.reveal())
        agents.append(Agent(site, SHORT))
        setting.machines.append(machine)
    parts.database.close()
    for agent in agents:
        await agent.start()
        stack.push_async_callback(agent.close)


async def asked(setting: KillSetting, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """The answer of a server that may be down, or die before it answers; asked again, as a client does."""
    found: list[Any] = []

    async def answered() -> bool:
        try:
            async with Client(f"http://127.0.0.1:{setting.port}", setting.token) as client:
                found.append(await (client.get(path) if method == "GET" else client.post(path, body or {})))
        except (ApiError, aiohttp.ClientError, OSError):
            return False
        return True

    await until(answered, within_s=WITHIN_S)
    return found[0]


async def cut(machine: PullingMachine, chance: random.Random) -> None:
    """Cut a machine's link, refuse a few dials, and let it come back."""
    machine.proxy.refusing = True
    machine.proxy.reset()
    dials = machine.proxy.accepted + chance.randint(1, 4)
    await until(lambda: machine.proxy.accepted >= dials, within_s=WITHIN_S)
    machine.proxy.refusing = False


async def one_history(folder: Path, chance: random.Random, count: int) -> None:
    folder.mkdir()
    setting = KillSetting(folder, free_port(0))
    async with contextlib.AsyncExitStack() as stack:
        await prepared(setting, stack, chance, count)
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
                await setting.begun_on(deadline)
                await kill()
        async with setting.server():
            ids.add((await asked(setting, "POST", "/rollouts", body))["id"])
            (rollout_id,) = ids
            view = await _over(setting, rollout_id)
            await asyncio.gather(*cuts)
    assert {machine.name: machine.pulls for machine in setting.machines} == {
        machine.name: 1 for machine in setting.machines
    }
    assert {target["agent_name"]: target["state"] for target in view["targets"]} == {
        machine.name: "failed" if machine.fails else "done" for machine in setting.machines
    }
    done = [target for target in view["targets"] if target["state"] == "done"]
    assert {target["digest_after"] for target in done} == {"d" * 64}


async def _cut_at(setting: KillSetting, chance: random.Random, at: int, machine: PullingMachine) -> None:
    await setting.begun_on(at)
    await cut(machine, chance)


async def _over(setting: KillSetting, rollout_id: str) -> dict[str, Any]:
    view: dict[str, Any] = {}

    async def over() -> bool:
        view.clear()
        view.update(await asked(setting, "GET", f"/rollouts/{rollout_id}"))
        return bool(view["state"] != "running")

    await until(over, lambda: str(view), within_s=WITHIN_S)
    return view


@pytest.mark.parametrize("seed", range(ROLLOUT_SEED, ROLLOUT_SEED + ROLLOUT_RUNS))
async def test_a_pull_to_all_is_one_pull_each_whatever_is_killed_or_cut(tmp_path: Path, seed: int) -> None:
    await one_history(tmp_path / "history", random.Random(seed), ROLLOUT_AGENTS)
