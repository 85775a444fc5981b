"""All that a history has: a database, a bus, replicas behind a proxy, and agents, light and real ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from benchmarks.enrolment import enrol
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_server.client import ApiError, Client
from obt_server.storage import Enrolment
from obt_standin import StandIn
from obt_standin.script import Model, Script
from tests.cluster import nats
from tests.cluster.histories.journal import Entry
from tests.cluster.histories.light_agent import LightAgent
from tests.cluster.histories.network import HERE, Network
from tests.cluster.histories.programs import Program, listens
from tests.cluster.histories.schedule import BUS, DATABASE
from tests.cluster.postgresql import PostgreSQL
from tests.waiting import until

SERVER_PORT, PROXY_PORT, BUS_PORT = 8881, 8880, 4222
DATABASE_NAME: Final = "histories"
MEASURED: Final = "measured:latest"
"""The model that campaigns measure."""
CALM_WITHIN_S: Final = 300.0
CHECK_S, CHECK_BUSY_S = 1.5, 4.0
"""For which the proxy waits for a replica's sign of life, twice; the second on a busy machine."""


@dataclass(frozen=True)
class Size:
    """How many of each; without a bus there is one replica."""

    replicas: int = 3
    light: int = 300
    real: int = 5


@dataclass
class RealAgent:
    """An ``obt-agent run`` with an Ollama of its own that is none."""

    id: str
    standin: StandIn
    program: Program

    def allow(self, model: str) -> None:
        """Put a model into the registry that it pulls from."""
        self.standin.script.registry = [*self.standin.script.registry, Model(name=model)]

    def pulls(self, model: str) -> int:
        """How often Ollama fetched that model; a pull that waits for a benchmark is asked for again."""
        pulls = [one for one in self.standin.requests if one.path == "/api/pull" and one.ended == "complete"]
        return sum(model.encode() in one.body for one in pulls)


@dataclass
class Setting:
    """Everything, running."""

    folder: Path
    network: Network
    postgres: PostgreSQL
    bus: Program | None
    replicas: dict[str, Program]
    token: str = ""
    light: list[LightAgent] = field(default_factory=list)
    real: list[RealAgent] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    proxy_late_s: float = 0.0
    """See ``Ended``."""
    busy: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    """By target, while a fault is done to it."""
    url: str = f"http://127.0.0.1:{PROXY_PORT}"

    def note(self, entry: Entry) -> None:
        """Write down what happened."""
        self.entries.append(entry)

    @property
    def admitted(self) -> int:
        """Light agents that are there."""
        return sum(agent.admission is not None for agent in self.light)

    async def balance(self) -> None:
        """Have the agents that a replica has above its share dial again: each has some to lose."""
        share = len(self.light) // len(self.replicas) + 1
        of_replica: dict[str, list[LightAgent]] = defaultdict(list)
        for agent in self.light:
            if agent.admission is not None:
                of_replica[agent.admission.replica].append(agent)
        await asyncio.gather(*(agent.redial() for some in of_replica.values() for agent in some[share:]))
        await self.calm()

    async def calm(self) -> None:
        """Wait until every agent is there and shown."""

        async def there() -> bool:
            if self.admitted < len(self.light):
                return False
            try:
                async with Client(self.url, self.token) as client:
                    shown = await client.get("/agents")
            except (ApiError, aiohttp.ClientError, OSError):
                return False
            return all(one["presence"] == "online" for one in shown)

        await until(there, lambda: f"{self.admitted} of {len(self.light)}", within_s=CALM_WITHIN_S)


@contextlib.asynccontextmanager
async def running(folder: Path, size: Size, chance: random.Random) -> AsyncIterator[Setting]:
    """Start everything, end everything. Programs write into files of the folder."""
    names = [f"r{number}" for number in range(size.replicas)]
    with_bus = size.replicas > 1
    async with contextlib.AsyncExitStack() as stack:
        network = await stack.enter_async_context(Network([*names, DATABASE, *([BUS] if with_bus else [])]))
        postgres = PostgreSQL(before=network.inside(DATABASE), host=network.address(DATABASE))
        await asyncio.to_thread(stack.enter_context, postgres)
        bus = _bus(folder, network) if with_bus else None
        setting = Setting(folder, network, postgres, bus, {})
        await _enrol(setting, size, chance, stack)
        # Ended in the reverse order: agents before servers, servers before what they need.
        for programs in (
            [bus] if bus is not None else [],
            _replicas(setting, names),
            [_proxy(setting, names)],
            [real.program for real in setting.real],
        ):
            for program in programs:
                stack.push_async_callback(program.end)
            await asyncio.gather(*(program.start() for program in programs))
        tasks = [asyncio.create_task(agent.run(), name=agent.name) for agent in setting.light]
        stack.push_async_callback(_cancelled, tasks)
        await setting.calm()
        yield setting


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _bus(folder: Path, network: Network) -> Program:
    host = network.address(BUS)
    words = [*network.inside(BUS), nats.program(), "-a", host, "-p", str(BUS_PORT)]
    return Program(words, folder / "bus.log", _listening(host, BUS_PORT))


def _replicas(setting: Setting, names: list[str]) -> list[Program]:
    network = setting.network
    for name in names:
        host = network.address(name)
        words = [
            *network.inside(name),
            *Program.python(
                "obt_server", "run", "--database", setting.postgres.remote_address(DATABASE_NAME)
            ),
            *("--host", host, "--port", str(SERVER_PORT), "--log-format", "console"),
            *("--behind-proxy", network.address(HERE), "--allowed-host", "localhost"),
        ]
        if setting.bus is not None:
            words += ["--bus", f"nats://{network.address(BUS)}:{BUS_PORT}"]
        log = setting.folder / f"{name}.log"
        setting.replicas[name] = Program(words, log, _healthy(host))
    return list(setting.replicas.values())


def _proxy(setting: Setting, names: list[str]) -> Program:
    servers = [f"    server {name} {setting.network.address(name)}:{SERVER_PORT}" for name in names]
    template = (Path(__file__).parent / "haproxy.cfg").read_text()
    config = setting.folder / "haproxy.cfg"
    check_s = CHECK_S if os.getloadavg()[0] < 2 * (os.cpu_count() or 1) else CHECK_BUSY_S
    setting.proxy_late_s = 2 * (check_s - CHECK_S)
    check_ms = int(check_s * 1000)
    config.write_text(template.format(port=PROXY_PORT, servers="\n".join(servers), check_ms=check_ms))
    words = ["haproxy", "-db", "-f", str(config)]
    return Program(words, setting.folder / "proxy.log", _listening("127.0.0.1", PROXY_PORT))


async def _enrol(
    setting: Setting, size: Size, chance: random.Random, stack: contextlib.AsyncExitStack
) -> None:
    """Make all agents, and a database that knows them."""
    address = setting.postgres.create(DATABASE_NAME)
    for number in range(size.light):
        setting.light.append(
            LightAgent(setting.url, f"light-{number}", setting.note, random.Random(chance.random()))
        )
    enrolments = [agent.enrolment for agent in setting.light]
    enrolments += [await _real(setting, f"real-{number}", chance, stack) for number in range(size.real)]
    setting.token = await enrol(address, enrolments)


async def _real(
    setting: Setting, name: str, chance: random.Random, stack: contextlib.AsyncExitStack
) -> Enrolment:
    script = Script(
        models=[Model(name=MEASURED)], decode_tps=chance.uniform(50, 400), pull_s=chance.uniform(0.1, 1.5)
    )
    standin = await stack.enter_async_context(StandIn(script))
    folder, secret = setting.folder / name, Secret.new()
    folder.mkdir()
    with StateDir.open(folder / "state") as state:
        agent_id = state.agent_id
    token_file = folder / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(secret.reveal())
    sections: dict[str, Any] = {
        "server": {"url": setting.url, "token_file": str(token_file)},
        "ollama": {"url": standin.url, "poll_interval_s": 1.0},
        "agent": {"name": name, "state_dir": str(folder / "state")},
        "benchmark": {"cooldown_s": 0},
        "policy": {"allow_changes": ["pull_model"]},
        "hardware": {"idle_interval_s": 60.0},
    }
    (folder / "agent.yaml").write_text(yaml.safe_dump(sections))
    words = Program.python(
        "obt_agent", "run", "--config", str(folder / "agent.yaml"), "--log-format", "console"
    )
    program = Program(words, setting.folder / f"{name}.log", _at_once)
    setting.real.append(RealAgent(agent_id, standin, program))
    return Enrolment(agent_id=agent_id, name=name, version="1", secret_sha256=secret.sha256())


def _listening(host: str, port: int) -> Callable[[], Any]:
    return lambda: listens(host, port)


async def _at_once() -> bool:
    return True


def _healthy(host: str) -> Callable[[], Any]:
    async def asked() -> bool:
        timeout = aiohttp.ClientTimeout(total=2)
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.get(f"http://{host}:{SERVER_PORT}/healthz") as answer,
            ):
                return answer.status == 200
        return False

    return asked


def now() -> float:
    """The clock of all logs."""
    return time.monotonic()
