"""Whole agents, each on a stand-in of its own behind a link that can be cut, and a server to be killed."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from obt_agent.config.schema import Config
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_server import app as application
from obt_server.client import ApiError, Client
from obt_server.storage import Enrolment
from obt_standin import StandIn
from obt_standin.script import Script
from tests.faults.agent import Agent, Site
from tests.faults.timing import SHORT
from tests.link.fault_proxy import FaultProxy
from tests.server.enrolling import enrol
from tests.server.process import server_process
from tests.waiting import until

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
class ScriptedMachine:
    """A whole agent with its stand-in, behind a link that can be cut."""

    name: str
    standin: StandIn
    proxy: FaultProxy
    agent_id: str = ""

    def asked(self, path: str) -> int:
        """How often Ollama was asked for that."""
        return sum(one.path == path for one in self.standin.requests)


@dataclass
class KillSetting:
    """All machines, and a server that can be killed."""

    folder: Path
    port: int
    token: str = ""
    machines: list[ScriptedMachine] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def server(self) -> AsyncIterator[Callable[[], Any]]:
        """A running server; gives what kills it."""
        database = self.folder / "server.sqlite3"
        async with server_process(database, "--port", str(self.port)) as process:
            yield process.kill

    async def prepare(self, stack: contextlib.AsyncExitStack, scripts: Sequence[Script]) -> None:
        """Enrol and start a machine for each script."""
        parts = application.build(application.AppSettings(database=self.folder / "server.sqlite3"))
        await parts.operators.create_first("admin")
        self.token, _ = await parts.operators.new_token("admin", "tests", None)
        agents = []
        for number, script in enumerate(scripts):
            standin = await stack.enter_async_context(StandIn(script))
            proxy = await stack.enter_async_context(FaultProxy(self.port))
            machine = ScriptedMachine(f"m{number}", standin, proxy)
            folder, secret = self.folder / machine.name, Secret.new()
            with StateDir.open(folder) as state:
                machine.agent_id = state.agent_id
            enrolment = Enrolment(
                agent_id=machine.agent_id, name=machine.name, version="1", secret_sha256=secret.sha256()
            )
            await enrol(parts.storage, enrolment, time.time())
            site = PullingSite(folder, f"http://127.0.0.1:{proxy.port}", standin.url, secret.reveal())
            agents.append(Agent(site, SHORT))
            self.machines.append(machine)
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


async def cut(machine: ScriptedMachine, chance: random.Random) -> None:
    """Cut a machine's link, refuse a few dials, and let it come back."""
    machine.proxy.refusing = True
    machine.proxy.reset()
    dials = machine.proxy.accepted + chance.randint(1, 4)
    await until(lambda: machine.proxy.accepted >= dials, within_s=WITHIN_S)
    machine.proxy.refusing = False


async def until_ended(setting: KillSetting, path: str, within_s: float = WITHIN_S) -> dict[str, Any]:
    """The rollout or campaign at this path, once it has ended."""
    view: dict[str, Any] = {}

    async def over() -> bool:
        view.clear()
        view.update(await asked(setting, "GET", path))
        return bool(view["state"] != "running")

    await until(over, lambda: str(view), within_s=within_s)
    return view
