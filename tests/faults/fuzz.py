"""Hostile frames at both ends of the protocol, as strategies and as what must hold of whoever takes them.

The frames are those of ``docs/golden``, with values replaced, pieces cut out or doubled, and inventions.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from obt_agent.errors import AgentError
from obt_agent.link.control import ControlMethods
from obt_agent.link.session import LinkSession
from obt_agent.protocol import limits
from obt_agent.protocol.admission import AgentIdentity, Empty, HelloParams, VersionRange
from obt_agent.protocol.byte_budget import ByteBudget
from obt_agent.protocol.envelope import Notification, Request
from obt_server.hub import AgentHub, HubSettings
from obt_server.hub.sockets import SocketClosed
from obt_server.hub.storage import StoredCredential
from obt_server.storage import Enrolment
from obt_server.store import Database, SqlStorage
from tests.link.doubles import TIMINGS, CredentialsDouble, item
from tests.server.enrolling import enrol

GOLDEN = Path(__file__).parents[2] / "docs" / "golden"
CRASHES = {"session.failed", "session.answer_failed", "command.failed"}
"""Events of the log that say: an unforeseen error."""

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["a", "x" * 5000, "\ud7ff\u0000", 2**53, -1]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def golden(sender: str) -> list[dict[str, Any]]:
    """The frames that this side sends, as they stand in the documents."""
    lines = [line for path in sorted(GOLDEN.glob("*.jsonl")) for line in path.read_text().splitlines()]
    entries = [json.loads(line) for line in lines]
    return [entry["frame"] for entry in entries if entry.get("from") == sender]


@st.composite
def _changed(draw: st.DrawFn, frames: Sequence[dict[str, Any]]) -> str:
    """A golden frame with one value, anywhere in it, replaced."""
    frame = json.loads(json.dumps(draw(st.sampled_from(frames))))
    node: Any = frame
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw(st.sampled_from(keys))
        if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
            node = node[key]
            continue
        node[key] = draw(JSON)
        return json.dumps(frame)


@st.composite
def _torn(draw: st.DrawFn, frames: Sequence[dict[str, Any]]) -> str:
    """A golden frame with a piece cut out, or doubled."""
    text = json.dumps(draw(st.sampled_from(frames)))
    start, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    return text[:start] + (text[end:] if draw(st.booleans()) else text[start:end] + text[start:])


def hostile(sender: str) -> st.SearchStrategy[list[str]]:
    """What a peer may say that is well, ill, or not itself at all."""
    frames = golden(sender)
    whole = st.sampled_from(frames).map(json.dumps)
    invented = st.fixed_dictionaries(
        {"jsonrpc": st.just("2.0")},
        optional={
            "id": st.integers(0, 3) | JSON,
            "method": st.sampled_from([frame["method"] for frame in frames if "method" in frame]) | st.text(),
            "params": JSON,
            "result": JSON,
            "error": JSON,
        },
    ).map(json.dumps)
    deep = st.integers(60, 5000).map(lambda depth: "[" * depth + "]" * depth)
    return st.lists(whole | _changed(frames) | _torn(frames) | invented | deep | st.text(), max_size=12)


class _Pipe:
    """A wire that takes everything and keeps it."""

    def __init__(self) -> None:
        self.paused = False
        self.on_flow: Callable[[], None] = lambda: None
        self.on_pong: Callable[[bytes], None] = lambda _: None
        self.waiting_bytes = self.received_bytes = 0
        self.written: list[bytes] = []
        self.closed: int | None = None

    def write(self, frames: Sequence[bytes]) -> None:
        self.written += frames

    def ping(self, payload: bytes) -> None:
        asyncio.get_running_loop().call_soon(self.on_pong, payload)

    def fail(self, code: int, reason: str) -> None:
        self.closed = self.closed or code


class _Handler:
    """Answers some requests at once, streams for some, and never answers the rest."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.taken = 0

    def on_request(self, session: LinkSession, request: Request) -> None:
        self.taken += 1
        if request.method in {"generate", "chat"}:
            self.tasks.append(asyncio.create_task(_generate(session, request), name="generate"))
        elif self.taken % 3:
            session.respond(request.id, Empty())

    def on_notification(self, session: LinkSession, notification: Notification) -> None:
        """Nothing to do."""

    def session_ended(self, session: LinkSession) -> None:
        """Nothing to do."""


async def _generate(session: LinkSession, request: Request) -> None:
    try:
        sink = session.open_stream(request.id)
        for number in range(random.Random(str(request.id)).randint(0, 100)):
            await sink.send([item(number, "x" * 1000)])
        session.respond(request.id, Empty())
    except AgentError:
        return  # the session's end, or its server's doing


async def at_agent(frames: Sequence[str]) -> None:
    """An agent's session takes these frames: nothing raises, hangs, grows, or is answered twice."""
    pipe, handler = _Pipe(), _Handler()
    control = ControlMethods(handler, CredentialsDouble(), lambda _: None)
    session = LinkSession(pipe, control, timings=TIMINGS, budget=ByteBudget())
    identity = AgentIdentity(id="a", name="n", version="1", instance="i")
    params = HelloParams(protocol=VersionRange(min=1, max=1), agent=identity, store_id="s", capabilities=())
    hello = asyncio.create_task(session.hello(params), name="hello")
    await asyncio.sleep(0)
    first = msgspec.json.decode(pipe.written[0])["id"]
    session.receive(
        json.dumps({"jsonrpc": "2.0", "id": first, "result": {"protocol": 1, "session": 1}}).encode()
    )
    await hello
    asked: Counter[str] = Counter()
    for frame in frames:
        asked.update(_asked(frame))
        session.receive(frame.encode("utf-8", "surrogatepass"))
        await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    _check_answers(pipe.written[1:], asked)
    waiting = sum(stream.waiting_bytes for stream in session.flow.streams.values())
    assert waiting <= limits.MAX_IN_FLIGHT * (limits.STREAM_CREDIT_BYTES + limits.MAX_DATA_FRAME_BYTES)
    session.end("over")
    async with asyncio.timeout(20):
        await asyncio.gather(*handler.tasks)
    assert not session.flow.streams


def _asked(frame: str) -> list[str]:
    """The id of a request, as JSON, if it is one that could be read."""
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError):
        return []
    if isinstance(message, dict) and "id" in message:
        return [json.dumps(message["id"])]
    return []


def _check_answers(written: Sequence[bytes], asked: Counter[str]) -> None:
    answered: Counter[str] = Counter()
    for frame in written:
        message = json.loads(frame)
        if "method" not in message and message["id"] is not None:
            answered[json.dumps(message["id"])] += 1
    too_often = {key: count for key, count in answered.items() if count > asked[key]}
    assert not too_often, f"answered more often than asked: {too_often}"


class _Socket:
    """An accepted socket that brings these frames, and then has ended."""

    def __init__(self, frames: Sequence[str]) -> None:
        self._frames = list(frames)
        self.closed: list[int] = []
        self.sent: list[bytes] = []

    async def receive(self) -> str | bytes:
        await asyncio.sleep(0)
        if not self._frames:
            for _ in range(50):
                await asyncio.sleep(0)
            raise SocketClosed(1006)
        return self._frames.pop(0)

    async def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    async def close(self, code: int, reason: str) -> None:
        self.closed.append(code)

    def abort(self) -> None:
        self.closed.append(1006)


async def at_server(frames: Sequence[str], storage: SqlStorage) -> None:
    """A server takes these frames after a good hello: it ends the session in order, or waits for its end."""
    agent_id = str(uuid.uuid4())
    enrolment = Enrolment(agent_id=agent_id, name="a", version="1", secret_sha256=agent_id)
    await enrol(storage, enrolment, 1.0)
    hub = AgentHub(storage, HubSettings(close_timeout_s=0.05))
    identity = {"id": agent_id, "name": "a", "version": "1", "instance": "i"}
    hello = {"protocol": {"min": 1, "max": 1}, "agent": identity, "store_id": "s", "capabilities": []}
    first = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "agent.hello", "params": hello})
    socket = _Socket([first, *frames])
    credential = await storage.credential(agent_id)
    assert isinstance(credential, StoredCredential)
    with structlog.testing.capture_logs() as events:
        async with asyncio.timeout(20):
            await hub.serve(socket, credential)
    crashes = [event for event in events if event["event"] in CRASHES]
    assert not crashes, crashes
    assert 1011 not in socket.closed
    assert not hub.online()


def fuzz_agent(examples: int) -> None:
    """So many sets of frames at an agent; raises for the smallest that it does not survive."""

    @settings(deadline=None, max_examples=examples)
    @given(frames=hostile("server"))
    def survives(frames: list[str]) -> None:
        asyncio.run(at_agent(frames))

    survives()


def fuzz_server(examples: int, folder: Path) -> None:
    """So many sets of frames at a server with a database in this folder."""
    database = Database.sqlite(folder / "fuzz.sqlite3")
    storage = SqlStorage(database)

    @settings(deadline=None, max_examples=examples)
    @given(frames=hostile("agent"))
    def survives(frames: list[str]) -> None:
        asyncio.run(at_server(frames, storage))

    try:
        survives()
    finally:
        database.close()
