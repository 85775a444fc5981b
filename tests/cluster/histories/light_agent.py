"""An agent that does the least that a history needs: hundreds of them fit one process.

It answers commands, generates numbered tokens, and keeps jobs that outlive its connections: a result is sent
until it is acknowledged. It never dies, and so whatever it accepted must reach the server once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from websockets.exceptions import WebSocketException

from obt_agent.backoff import Backoff
from obt_agent.errors import AgentError, JobNotFound
from obt_agent.identity.secret import Secret
from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_agent.protocol import limits
from obt_agent.protocol.admission import HelloResult
from obt_agent.protocol.commands import ListModelsResult
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.jobs import JobStarted, JobSummary
from obt_agent.protocol.streams import StreamFinal
from obt_server.storage import Enrolment
from tests.cluster.histories.journal import Admitted, Entry, Left, Started, Watched
from tests.server.agent_double import AgentDouble, Answer, dial, uuid7
from tests.server.job_steps import digest, finish, part, sync_jobs

CAPABILITIES: Final = (
    *("list_models", "generate", "hardware_watch", "run_benchmark", "benchmark_status", "pull_model"),
    "cancel",
)
MODEL: Final = "tiny:latest"
TOKEN_S: Final = 0.2
INLINE_BYTES: Final = 20_000
PART_CHARS: Final = 20_000
BEAT_S: Final = 5.0
LOOK_S: Final = 1.0
LINK_ERRORS: Final = (OSError, WebSocketException, TimeoutError, EOFError, AgentError)
LEFT_BEHIND_S: Final = 60.0
"""For which an abandoned connection stays open, unless the server ends it."""


@dataclass
class LightJob:
    """One that was accepted: it lasts for ever, as in an agent's store."""

    id: str
    kind: Any
    model: str
    text: str = ""
    acknowledged: bool = False
    finished: bool = False

    @property
    def summary(self) -> JobSummary:
        """As ``jobs.sync`` shows it."""
        state: Any = "completed" if self.finished else "running"
        return JobSummary(job_id=self.id, kind=self.kind, state=state)


@dataclass
class Connection:
    """A socket, and the session that it was admitted to."""

    double: AgentDouble
    number: int = 0
    revisions: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    heard_at: float = field(default_factory=time.monotonic)


class LightAgent:
    """One, which redials for ever with the delays of real agents.

    Args:
        url: where to dial.
        name: its name.
        note: takes what happens.
        chance: for its delays, and for how long its work takes.
    """

    def __init__(self, url: str, name: str, note: Callable[[Entry], None], chance: random.Random) -> None:
        self.id = uuid7()
        self.name = name
        self.secret = Secret.new()
        self._url = url
        self._note = note
        self._chance = chance
        self._instance = uuid7()
        self._backoff = Backoff(clock=time.monotonic, random=chance.random)
        self._floor_s = 0.0
        # by id; and what fills when one has ended, or when there is somebody to tell
        self._jobs: dict[str, LightJob] = {}
        self._changed = asyncio.Event()
        self._models = {MODEL: _model(MODEL)}
        self._tasks: set[asyncio.Task[None]] = set()
        self._abandon = asyncio.Event()
        # of the session that it has now
        self.admission: Admitted | None = None
        self._double: AgentDouble | None = None

    @property
    def enrolment(self) -> Enrolment:
        """Who it is, as a server's database is to know it."""
        sha256 = self.secret.sha256()
        return Enrolment(agent_id=self.id, name=self.name, version="0", secret_sha256=sha256)

    @property
    def unacknowledged(self) -> int:
        """Jobs whose results nobody has acknowledged."""
        return sum(not job.acknowledged for job in self._jobs.values())

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                with contextlib.suppress(*LINK_ERRORS):
                    await self._one_connection()
                self._backoff.ended()
                floor_s, self._floor_s = self._floor_s, 0.0
                await asyncio.sleep(self._backoff.delay(floor_s))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def abandon(self) -> None:
        """Dial anew, as where a network has forgotten the connection: the server still has the old one."""
        self._abandon.set()

    async def redial(self) -> None:
        """End the connection in order, and dial again."""
        if self._double is not None:
            await self._double.socket.close()

    # -- connections ---------------------------------------------------------------------------------------

    async def _one_connection(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            dialled = dial(
                self._url,
                self.secret.reveal(),
                self.id,
                name=self.name,
                instance=self._instance,
                capabilities=CAPABILITIES,
            )
            double = await stack.enter_async_context(dialled)
            double.store_id = f"store of {self.name}"
            connection = Connection(double)
            double.handlers |= self._handlers(connection)
            double.look = lambda _: self._heard(connection)
            hello = await _hello(double)
            connection.number = hello.session
            response = double.socket.response
            replica = "" if response is None else response.headers.get("X-Replica", "")
            self._double = double
            self.admission = Admitted(self.id, hello.session, replica, time.monotonic())
            self._note(self.admission)
            self._backoff.admitted()
            self._abandon.clear()
            try:
                await self._serve(connection)
            finally:
                self.admission = self._double = None
                self._note(Left(self.id, hello.session, time.monotonic()))
                if self._abandon.is_set() and double.socket.close_code is None:
                    self._own(_left_behind(stack.pop_all(), double), f"{self.name} left behind")

    async def _serve(self, connection: Connection) -> None:
        """Tell the server what it must know, and stay until the connection ends."""
        double = connection.double
        work = [
            asyncio.create_task(part_of_it, name=f"{self.name} {name}")
            for name, part_of_it in (
                ("states", self._tell(connection)),
                ("beats", self._beat(connection)),
                ("end", double.socket.wait_closed()),
                ("leave", self._leave()),
            )
        ]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        if double.socket.close_code == limits.Close.DRAINING:
            self._floor_s = 1.0

    async def _leave(self) -> None:
        await self._abandon.wait()

    def _heard(self, connection: Connection) -> None:
        connection.heard_at = time.monotonic()

    async def _beat(self, connection: Connection) -> None:
        """Heartbeats, until the server has been silent for too long."""
        beat = {"ollama": {"reachable": True, "version": "0"}, "t_mono_us": 0}
        await asyncio.sleep(self._chance.random() * BEAT_S)
        while time.monotonic() - connection.heard_at < limits.SILENCE_S:
            await connection.double.notify("heartbeat", beat)
            await asyncio.sleep(BEAT_S)

    def _own(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- commands ------------------------------------------------------------------------------------------

    def _handlers(self, connection: Connection) -> dict[str, Any]:
        async def list_models(_: AgentDouble, __: Request) -> Answer:
            # Which session it came by, for who asked.
            said = str(connection.number)
            models = tuple(self._models.values())
            return ListModelsResult(models=models, list_digest=said, ollama=OllamaState(reachable=True))

        async def generate(double: AgentDouble, request: Request) -> Answer:
            return await self._generate(double, request, connection.number)

        async def watch(double: AgentDouble, request: Request) -> Answer:
            return await self._watch(double, request, connection.number)

        return {
            "list_models": list_models,
            "generate": generate,
            "hardware_watch": watch,
            "run_benchmark": self._start,
            "pull_model": self._start,
            "benchmark_status": self._status,
            "cancel": self._cancel,
        }

    async def _generate(self, double: AgentDouble, request: Request, session: int) -> StreamFinal:
        """Tokens that say their session and number, as many as the prompt says."""
        tokens = int(msgspec.json.decode(request.params)["prompt"])
        for number in range(tokens):
            await double.stream(request, json.dumps({"response": f" {session}:{number}"}).encode())
            await asyncio.sleep(TOKEN_S)
        return double.final(request, json.dumps({"done": True, "eval_count": tokens}).encode())

    async def _watch(self, double: AgentDouble, request: Request, session: int) -> Answer:
        """Samples until it is cancelled, or the connection ends."""
        interval_s = msgspec.json.decode(request.params)["interval_ms"] / 1000
        began = time.monotonic()
        try:
            for number in itertools.count():
                sample = {"t_us": number, "n": number, "sample": {"session": session}}
                await double.stream_items(request, msgspec.Raw(msgspec.json.encode(sample)))
                await asyncio.sleep(interval_s)
        finally:
            self._note(Watched(self.id, session, began, time.monotonic()))
        return None

    async def _start(self, double: AgentDouble, request: Request) -> Answer:
        del double
        params = msgspec.json.decode(request.params)
        job_id = params["job_id"]
        known = self._jobs.get(job_id)
        if known is None:
            kind: Any = "pull" if request.method == "pull_model" else "benchmark"
            model = params["model"] if kind == "pull" else params["plan"]["model_name"]
            known = self._jobs[job_id] = LightJob(job_id, kind, model)
            self._note(Started(self.id, job_id, kind, model, time.monotonic()))
            self._own(self._work(known), f"{self.name} {job_id}")
        return JobStarted(job_id=job_id, state="completed" if known.finished else "running")

    async def _work(self, job: LightJob) -> None:
        await asyncio.sleep(self._chance.uniform(0.1, 2.0))
        if job.kind == "pull":
            self._models[job.model] = made = _model(job.model)
            job.text = json.dumps({"completed_bytes": 1, "total_bytes": 1, "digest": made.digest})
        else:
            # Some of them too long for one frame.
            size = self._chance.choice((100, 5_000, 60_000))
            job.text = json.dumps({"id": job.id, "metrics": [], "note": "x" * size})
        job.finished = True
        self._changed.set()

    async def _tell(self, connection: Connection) -> None:
        """The states, sent again for as long as the server cannot store them; then results as they come."""
        while True:
            open_jobs = [job.summary for job in self._jobs.values() if not job.acknowledged]
            try:
                await sync_jobs(connection.double, *open_jobs, revision=next(connection.revisions))
                await self._list_models(connection)
                break
            except (AgentError, TimeoutError):
                await asyncio.sleep(LOOK_S)
        await self._upload(connection)

    async def _upload(self, connection: Connection) -> None:
        """Send each result until it is acknowledged; again after the next admission where the link ends."""
        while True:
            self._changed.clear()
            for job in [one for one in self._jobs.values() if one.finished and not one.acknowledged]:
                # What is refused for now is kept, as agents keep it.
                try:
                    job.acknowledged = await _sent(connection.double, job)
                    if job.kind == "pull" and job.acknowledged:
                        await self._list_models(connection)
                except (AgentError, TimeoutError):
                    await asyncio.sleep(LOOK_S)
                    self._changed.set()
            await self._changed.wait()

    async def _list_models(self, connection: Connection) -> None:
        await connection.double.sync_models(*self._models.values(), revision=next(connection.revisions))

    async def _status(self, double: AgentDouble, request: Request) -> Answer:
        del double
        job = self._jobs.get(msgspec.json.decode(request.params)["job_id"])
        if job is None:
            return JobNotFound("no such job")
        return {"job": msgspec.to_builtins(job.summary)}

    async def _cancel(self, double: AgentDouble, request: Request) -> Answer:
        params = msgspec.json.decode(request.params)
        double.cancel_handler(params.get("id"))
        return {"state": "cancelling" if "id" in params else "unknown"}


async def _hello(double: AgentDouble) -> HelloResult:
    """The server's answer. Raises ConnectionError where it refuses: the double cancels what waits then."""
    try:
        return await double.hello()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("refused") from None


async def _sent(double: AgentDouble, job: LightJob) -> bool:
    """Send a result, in parts where it is long; return whether the server has it now."""
    if len(job.text) <= INLINE_BYTES:
        answer = await finish(double, job.id, job.text, kind=job.kind)
    else:
        offset = 0
        while offset < len(job.text):
            offset = await part(double, job.id, offset, job.text[offset : offset + PART_CHARS])
        answer = await finish(double, job.id, job.text, kind=job.kind, result=None)
    return answer.conflict or answer.sha256 == digest(job.text)


async def _left_behind(stack: contextlib.AsyncExitStack, double: AgentDouble) -> None:
    """A connection that its agent has given up and the server has not: what comes is still answered."""
    async with stack:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEFT_BEHIND_S):
                await double.socket.wait_closed()


def _model(name: str) -> InstalledModel:
    return InstalledModel(name=name, digest=digest(name), size_bytes=1)
