"""A session as the dispatcher sees one: what it answered, what went out on its streams."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from obt_agent.errors import LinkLost
from obt_agent.policy import Policy
from obt_agent.protocol.envelope import Request, RequestId
from obt_agent.protocol.errors import StreamEnd, WireError, from_wire
from obt_agent.protocol.streams import Item, encode_items
from tests.policy.configs import config


class FakeSink:
    """A stream whose server grants room for ``window`` items at a time (None: without bound)."""

    def __init__(self, window: int | None = None) -> None:
        self.items: list[Item] = []
        self.samples: list[tuple[int, int, int, Any]] = []
        self.dropped = 0
        self.text = b""
        self.text_ended = False
        self.failed: Exception | None = None
        self.arrived = asyncio.Event()
        self._window = window
        self._paused_us = 0
        self._room = asyncio.Event()
        self._room.set()

    @property
    def end(self) -> StreamEnd:
        return StreamEnd(next_seq=len(self.items) + len(self.samples), dropped=self.dropped)

    async def send(self, arrivals: Iterable[tuple[int, Sequence[bytes]]]) -> int:
        self.check()
        before = len(self.items)
        for t_us, chunks in arrivals:
            encoded = encode_items(t_us, chunks, self._paused_us)
            self._paused_us = 0
            self.items += [msgspec.json.decode(one, type=Item) for one in encoded]
        self.arrived.set()
        if self._window is not None:
            self._window -= len(self.items) - before
            if self._window <= 0:
                self._room.clear()
        self._paused_us = await self.wait_writable()
        return self._paused_us

    async def send_text(self, text: bytes, *, last: bool) -> None:
        self.check()
        self.text += text
        self.text_ended = last
        await self.wait_writable()

    async def send_latest(self, sample: bytes, *, t_us: int, n: int, missed: int) -> None:
        self.check()
        self.samples.append((t_us, n, missed, msgspec.json.decode(sample)))
        self.arrived.set()

    async def wait_writable(self) -> int:
        if self._room.is_set():
            return 0
        await self._room.wait()
        self.check()
        return 250_000

    def grant(self, items: int) -> None:
        self._window = (self._window or 0) + items
        self._room.set()

    def fail(self, error: Exception) -> None:
        self.failed = error
        self._room.set()

    def check(self) -> None:
        if self.failed is not None:
            raise self.failed

    async def has(self, count: int) -> None:
        """Wait until so many items or samples came."""
        while len(self.items) + len(self.samples) < count:
            self.arrived.clear()
            await self.arrived.wait()


class FakeSession:
    """A session that keeps every answer; ``doubled`` names requests that were given two."""

    piece_bytes = 24 << 10

    def __init__(self, number: int = 1, *, window: int | None = None) -> None:
        self.number = number
        self.alive = True
        self.answers: dict[RequestId, Any] = {}
        self.doubled: list[RequestId] = []
        self.streams: dict[RequestId, FakeSink] = {}
        self.window = window
        self._answered = asyncio.Event()

    async def request(
        self, method: str, params: msgspec.Struct, result: type[Any], *, timeout_s: float, bulk: bool = False
    ) -> Any:
        raise NotImplementedError

    def notify(self, method: str, params: msgspec.Struct, *, droppable: bool = False) -> bool:
        raise NotImplementedError

    def respond(self, id: RequestId, result: Any) -> None:
        self._answer(id, result)

    def respond_error(self, id: RequestId, error: WireError) -> None:
        self._answer(id, error)

    def _answer(self, request_id: RequestId, answer: Any) -> None:
        if not self.alive:
            raise LinkLost("The session ended.")
        if request_id in self.answers:
            self.doubled.append(request_id)
        self.answers[request_id] = answer
        self._answered.set()

    def open_stream(self, id: RequestId, *, series: bool = False) -> FakeSink:
        return self.streams.setdefault(id, FakeSink(self.window))

    async def answer(self, request_id: RequestId) -> Any:
        """Wait for an answer."""
        async with asyncio.timeout(20):
            while request_id not in self.answers:
                self._answered.clear()
                await self._answered.wait()
        return self.answers[request_id]

    async def result(self, request_id: RequestId) -> Any:
        """A successful answer as plain JSON values."""
        answer = await self.answer(request_id)
        assert not isinstance(answer, WireError), answer
        return msgspec.json.decode(msgspec.json.encode(answer))

    async def error(self, request_id: RequestId) -> WireError:
        """A failed answer."""
        answer = await self.answer(request_id)
        assert isinstance(answer, WireError), answer
        return answer

    async def kind(self, request_id: RequestId) -> str:
        """The kind of a failed answer."""
        return from_wire(await self.error(request_id)).kind


def request(request_id: RequestId, method: str, **params: Any) -> Request:
    return Request(request_id, method, msgspec.Raw(msgspec.json.encode(params)))


def permissive(**changes: Any) -> Policy:
    """The default policy without its rate limit, with changes."""
    return Policy(config(**{"rate_limit": None, **changes}))
