"""Operators at work through the proxy: they call, read, start jobs, watch, and change many machines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from tests.cluster.histories.journal import Accepted, Called, Entry, Odd, Streamed, Target, Viewed
from tests.cluster.histories.light_agent import MODEL

API: Final = "/api/v1"
ANSWER_S: Final = 40.0
"""No answer takes so long; what does is written down as what it is."""
AGAIN_S: Final = 0.3
WORK_WITHIN_S: Final = 120.0
PASSING: Final = frozenset((409, 429))
"""Refusals that say "not now": an agent that is offline, a server that is busy."""
CALLERS, READERS, WATCHERS, STARTERS, VIEWERS, LISTENERS = 4, 6, 3, 2, 3, 2
SERIES_MS: Final = 500
WATCHED_MACHINES: Final = 2
"""So few that several operators watch one machine at a time, by different replicas."""
LOST: Final = (aiohttp.ClientError, WebSocketException, OSError, TimeoutError)


class _Shown(msgspec.Struct):
    id: str
    presence: str = ""


@dataclass
class _Reading:
    """A stream while it is read."""

    expected: int
    began: float
    opened: float = 0.0
    replica: str = ""
    outcome: str = "closed"
    tokens: int = 0
    session: int = 0
    wrong: str = ""
    silence_s: float = 0.0
    silent_from: float = 0.0
    heard: float = 0.0

    def open(self, replica: str) -> None:
        """The answer has begun."""
        self.opened = self.heard = time.monotonic()
        self.replica = replica

    def hear(self) -> None:
        """Something came, or the end."""
        now = time.monotonic()
        if now - self.heard > self.silence_s:
            self.silence_s, self.silent_from = now - self.heard, self.heard
        self.heard = now

    def seen(self, agent: str) -> Streamed:
        """What is written down of it, when it is over."""
        if self.opened:
            self.hear()
        return Streamed(
            agent=agent,
            began=self.began,
            opened=self.opened,
            ended=time.monotonic(),
            replica=self.replica,
            outcome=self.outcome,
            tokens=self.tokens,
            expected=self.expected,
            silence_s=self.silence_s,
            silent_from=self.silent_from,
            session=self.session,
            wrong=self.wrong,
        )

    def take(self, text: str) -> None:
        """A token: its session and number."""
        self.hear()
        session, _, number = text.strip().partition(":")
        if int(number) != self.tokens and not self.wrong:
            self.wrong = f"token {number} came where {self.tokens} was due"
        self.session = int(session)
        self.tokens += 1


@dataclass
class Operators:
    """All of them.

    Args:
        url: the proxy's.
        token: an API token.
        machines: ids of the agents that they turn to.
        measured: ids of those that a campaign measures on.
        name: of the history: what they make bears it.
        note: takes what they see.
        chance: for what they do.
    """

    url: str
    token: str
    machines: Sequence[str]
    measured: Sequence[str]
    name: str
    note: Callable[[Entry], None]
    chance: random.Random
    unfinished: set[str] = field(default_factory=set)
    """Work that has not ended yet."""

    def __post_init__(self) -> None:
        self._stopping = asyncio.Event()
        self._number = 0
        self._http: aiohttp.ClientSession

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop``, and finish what was begun."""
        self._stopping = stop
        async with (
            aiohttp.ClientSession(
                self.url,
                headers={"Authorization": f"Bearer {self.token}"},
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=ANSWER_S),
            ) as self._http,
            asyncio.TaskGroup() as group,
        ):
            for work, count, pause_s in (
                (self._call, CALLERS, 0.3),
                (self._stream, READERS, 0.3),
                (self._watch, WATCHERS, 0.2),
                (self._start_job, STARTERS, 0.5),
            ):
                for _ in range(count):
                    group.create_task(self._over_and_over(work, pause_s), name=work.__name__)
            for number in range(VIEWERS):
                group.create_task(self._view(f"viewer {number}"), name="view")
            for number in range(LISTENERS):
                group.create_task(self._listen(f"listener {number}"), name="listen")
            group.create_task(self._roll_out(), name="rollout")
            if self.measured:
                group.create_task(self._measure(), name="campaign")

    async def _over_and_over(self, work: Callable[[], Coroutine[Any, Any, None]], pause_s: float) -> None:
        while not self._stopping.is_set():
            await work()
            await asyncio.sleep(self.chance.uniform(0, 2 * pause_s))

    # -- calls and streams ---------------------------------------------------------------------------------

    async def _call(self) -> None:
        agent, began = self.chance.choice(self.machines), time.monotonic()
        replica, outcome, session = "", "closed", 0
        with contextlib.suppress(*LOST):
            path = f"{API}/agents/{agent}/commands/list_models"
            async with self._http.post(path, json={}) as response:
                replica = response.headers.get("X-Replica", "")
                body = await response.read()
                if response.status == 200:
                    outcome, session = "complete", int(json.loads(body)["list_digest"])
                else:
                    outcome = _kind(response.status, body)
        self.note(Called(agent, began, time.monotonic(), replica, outcome, session))

    async def _stream(self) -> None:
        agent = self.chance.choice(self.machines)
        reading = _Reading(self.chance.randint(10, 40), time.monotonic())
        read = self._read_socket if self.chance.random() < 0.3 else self._read_events
        with contextlib.suppress(*LOST):
            await read(agent, reading)
        self.note(reading.seen(agent))

    async def _watch(self) -> None:
        """Watch a machine that others watch as well, and leave after a while."""
        agent = self.chance.choice(self.machines[:WATCHED_MACHINES])
        reading = _Reading(self.chance.randint(4, 12), time.monotonic())
        path = f"{API}/agents/{agent}/hardware/watch?interval_ms={SERIES_MS}"
        with contextlib.suppress(*LOST):
            async with self._http.get(path) as response:
                reading.replica = response.headers.get("X-Replica", "")
                if response.status != 200:
                    reading.outcome = _kind(response.status, await response.read())
                else:
                    reading.open(reading.replica)
                    await _read_samples(response, reading)
        self.note(reading.seen(agent))

    async def _read_events(self, agent: str, reading: _Reading) -> None:
        body = {"model": MODEL, "prompt": str(reading.expected)}
        async with self._http.post(f"{API}/agents/{agent}/commands/generate", json=body) as response:
            replica = response.headers.get("X-Replica", "")
            if response.status != 200:
                reading.replica = replica
                reading.outcome = _kind(response.status, await response.read())
                return
            reading.open(replica)
            async for name, data in _events(response):
                if name == "item":
                    reading.take(data["chunk"]["response"])
                elif name in ("final", "error"):
                    reading.hear()
                    reading.outcome = "complete" if name == "final" else data["error"]["kind"]
                    return

    async def _read_socket(self, agent: str, reading: _Reading) -> None:
        path = f"{API}/models/generate/{MODEL}?client_id={agent}"
        try:
            async with connect(
                self.url.replace("http", "ws", 1) + path,
                additional_headers={"Authorization": f"Bearer {self.token}"},
                open_timeout=ANSWER_S,
                close_timeout=1,
                ping_interval=None,
                proxy=None,
            ) as socket:
                response = socket.response
                reading.open("" if response is None else response.headers.get("X-Replica", ""))
                await socket.send(json.dumps({"prompt": str(reading.expected)}))
                async for message in socket:
                    said = json.loads(message)
                    if said["done"]:
                        reading.hear()
                        reading.outcome = said["error"]["kind"] if "error" in said else "complete"
                        return
                    reading.take(said["response"])
        except InvalidStatus as refused:
            reading.outcome = f"HTTP {refused.response.status_code}"

    # -- jobs ----------------------------------------------------------------------------------------------

    async def _start_job(self) -> None:
        self._number += 1
        agent, job = self.chance.choice(self.machines), f"{self.name}-{self._number}"
        body = {"agent": agent, "plan": {"model_name": MODEL}, "job_id": job}
        with contextlib.suppress(*LOST):
            async with self._http.post(f"{API}/benchmarks", json=body) as response:
                answer = await response.read()
                if response.status == 202:
                    self.note(Accepted(agent, job, time.monotonic()))
                else:
                    _kind(response.status, answer)

    # -- many machines -------------------------------------------------------------------------------------

    async def _roll_out(self) -> None:
        model = f"{self.name}:latest"
        chosen = [*self.chance.sample(self.machines, min(40, len(self.machines))), *self.measured]
        body = {
            "action": "pull",
            "model": model,
            "targets": {"agents": chosen},
            "parallelism": 16,
            "offline": "wait",
            "key": self.name,
        }
        async with self._until_ended("rollout", "/rollouts", body) as view:
            for one in view.get("targets", ()):
                self.note(Target(f"rollout {self.name}", one["agent_id"], one["state"], one["reason"], model))

    async def _measure(self) -> None:
        plan = {
            "prompts": [{"prompt": "Why?", "completion_tokens": 4}],
            "num_iterations": 1,
            "warmup_iterations": 0,
            "cooldown_s": 0,
            "min_duration_s": 0,
        }
        body = {
            "plans": [{"label": "short", "plan": plan}],
            "models": ["measured:latest"],
            "targets": {"agents": list(self.measured)},
            "metric": "total_duration_ms",
            "key": self.name,
        }
        async with self._until_ended("campaign", "/campaigns", body) as view:
            for cell in view.get("cells", ()):
                self.note(
                    Target(
                        f"campaign {self.name}",
                        cell["agent_id"],
                        cell["state"],
                        cell["reason"],
                        cell["model"],
                        cell["job_id"],
                    )
                )

    @contextlib.asynccontextmanager
    async def _until_ended(self, what: str, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Begin work and wait for its end; gives it as it is then, and an empty one where it is unknown."""
        self.unfinished.add(what)
        await asyncio.sleep(self.chance.uniform(0, 3))
        view: dict[str, Any] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WORK_WITHIN_S):
                made = await self._asked("POST", path, body)
                while True:
                    view = await self._asked("GET", f"{path}/{made['id']}")
                    if view["state"] != "running":
                        self.unfinished.discard(what)
                        break
                    await asyncio.sleep(AGAIN_S)
        yield view

    async def _asked(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer of a server that may be away, asked again as a client does."""
        while True:
            with contextlib.suppress(*LOST):
                async with self._http.request(method, API + path, json=body) as response:
                    answer = await response.read()
                    if response.status < 400:
                        return json.loads(answer)
                    if response.status < 500 and response.status not in PASSING:
                        replica = response.headers.get("X-Replica", "")
                        said = f"{method} {path} by {replica}: {response.status} {answer[:300].decode()}"
                        self.note(Odd(time.monotonic(), said))
            await asyncio.sleep(AGAIN_S)

    # -- watching ------------------------------------------------------------------------------------------

    async def _view(self, viewer: str) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            with contextlib.suppress(*LOST):
                async with self._http.get(f"{API}/agents") as response:
                    body = await response.read()
                    if response.status == 200:
                        shown = msgspec.json.decode(body, type=list[_Shown])
                        away = tuple(one.id for one in shown if one.presence != "online")
                        replica = response.headers.get("X-Replica", "")
                        self.note(Viewed(viewer, replica, began, time.monotonic(), away))
            await asyncio.sleep(self.chance.uniform(0.5, 1.5))

    async def _listen(self, viewer: str) -> None:
        """All news, from one replica after the other."""
        listening = asyncio.create_task(self._listen_on(viewer), name=viewer)
        await self._stopping.wait()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    async def _listen_on(self, viewer: str) -> None:
        while True:
            with contextlib.suppress(*LOST):
                async with self._http.get(f"{API}/events") as response:
                    replica = response.headers.get("X-Replica", "")
                    if response.status == 200:
                        await self._hear_news(viewer, replica, response)
            await asyncio.sleep(AGAIN_S)

    async def _hear_news(self, viewer: str, replica: str, response: aiohttp.ClientResponse) -> None:
        name = b""
        async for line in response.content:
            if line.startswith(b"event: "):
                name = line[7:].strip()
            elif line.startswith(b"data: ") and name == b"agent":
                shown = msgspec.json.decode(line[6:], type=_Shown)
                if shown.presence != "online":
                    now = time.monotonic()
                    self.note(Viewed(viewer, replica, now, now, (shown.id,)))


def _kind(status: int, body: bytes) -> str:
    """The kind of an error; the status of one that is not the server's, as a proxy's own."""
    try:
        return str(json.loads(body)["error"]["kind"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status}"


async def _read_samples(response: aiohttp.ClientResponse, reading: _Reading) -> None:
    """As many as are wanted; a viewer that comes later begins in the middle."""
    async for name, data in _events(response):
        if name == "sample":
            reading.hear()
            reading.tokens += 1
            reading.session = data["sample"]["session"]
            if reading.tokens == reading.expected:
                reading.outcome = "complete"
                return
        elif name in ("end", "error"):
            reading.outcome = "ended" if name == "end" else data["error"]["kind"]
            return


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """Name and data of each."""
    name = ""
    async for line in response.content:
        field_name, _, value = line.decode().rstrip("\n").partition(": ")
        if field_name == "event":
            name = value
        elif field_name == "data":
            yield name, json.loads(value)
