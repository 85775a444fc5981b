"""A scripted agent: the protocol's own types on a real socket, and nothing of the real agent's code."""

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import websockets

from obt_agent.errors import AgentError, Cancelled
from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_agent.protocol import codec
from obt_agent.protocol.admission import (
    AgentIdentity,
    AgentLimits,
    Empty,
    HelloParams,
    HelloResult,
    VersionRange,
)
from obt_agent.protocol.envelope import ErrorResponse, Notification, Request, RequestId, Response
from obt_agent.protocol.errors import StreamEnd, from_wire, to_wire
from obt_agent.protocol.limits import ALIVE_INTERVAL_S, SUBPROTOCOL
from obt_agent.protocol.state import ModelsSync
from obt_agent.protocol.streams import Item, StreamData, StreamFinal

T = TypeVar("T")
Answer = msgspec.Struct | msgspec.Raw | dict[str, Any] | AgentError | None
Handler = Callable[["AgentDouble", Request], Awaitable[Answer]]
WAIT_S = 20.0


def uuid7() -> str:
    """Random but for the version."""
    value = uuid.uuid4().int & ~(0xF << 76) | (7 << 76)
    return str(uuid.UUID(int=value))


async def refuse_all(_: "AgentDouble", request: Request) -> Answer:
    return AgentError(f"{request.method} is not scripted")


class AgentDouble:
    """One socket of a scripted agent. ``handlers`` answer by method; None leaves a request unanswered."""

    def __init__(self, socket: websockets.ClientConnection, agent_id: str, **identity: Any) -> None:
        self.socket = socket
        self.agent_id = agent_id
        self.capabilities = identity.pop("capabilities", ("list_models", "generate", "run_benchmark"))
        self.identity = {"name": "box", "version": "1.2.3", "instance": uuid.uuid4().hex, **identity}
        self.store_id = "store-1"
        self.handlers: dict[str, Handler] = {"state.request": _empty, "cancel": _cancelling}
        self.requests: list[Request] = []
        # What the server asks to learn whether the link lives, or has carried what was sent: on a busy
        # machine at any time, between what a test is about.
        self.probes: list[Request] = []
        self.notes: list[Notification] = []
        self.hello_result: HelloResult | None = None
        self.closed: tuple[int, str] | None = None
        self.credit: dict[RequestId, int] = {}
        self.link_credit = 0
        self.changed = asyncio.Event()
        self.look: Callable[[Any], None] = lambda _: None
        self._ids = itertools.count(1)
        self._waiting: dict[RequestId, asyncio.Future[msgspec.Raw]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # handlers at work, by request: ``cancel`` ends them
        self._answering: dict[RequestId, asyncio.Task[None]] = {}
        self._seqs: dict[RequestId, itertools.count[int]] = {}

    # -- sending ----------------------------------------------------------------------------------

    async def send(self, frame: bytes) -> None:
        await self.socket.send(frame, text=True)

    async def request(self, method: str, params: Any, result: type[T]) -> T:
        return codec.convert(await self.ask(method, params), result, where="result")

    async def ask(self, method: str, params: Any, request_id: RequestId | None = None) -> msgspec.Raw:
        request_id = next(self._ids) if request_id is None else request_id
        future = self._waiting[request_id] = asyncio.get_running_loop().create_future()
        await self.send(codec.encode_request(request_id, method, params))
        async with asyncio.timeout(WAIT_S):
            result: msgspec.Raw = await future
            return result

    async def notify(self, method: str, params: Any) -> None:
        await self.send(codec.encode_notification(method, params))

    async def hello(self, **changes: Any) -> HelloResult:
        params = HelloParams(
            protocol=changes.pop("protocol", VersionRange(min=1, max=1)),
            agent=AgentIdentity(id=changes.pop("id", self.agent_id), **self.identity),
            store_id=self.store_id,
            capabilities=self.capabilities,
            limits=changes.pop("limits", AgentLimits()),
            **changes,
        )
        listener = asyncio.create_task(self._listen(), name="agent double")
        self._tasks.add(listener)
        self.hello_result = await self.request("agent.hello", params, HelloResult)
        self.link_credit += self.hello_result.link_credit_bytes
        self._tasks.add(asyncio.create_task(self._say_alive(), name="agent double alive"))
        return self.hello_result

    async def _say_alive(self) -> None:
        """As every agent does: on a busy machine a test goes on for longer than a server bears silence."""
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await asyncio.sleep(ALIVE_INTERVAL_S)
                await self.notify("link.alive", Empty())

    async def sync_models(self, *models: InstalledModel, revision: int = 1) -> None:
        sync = ModelsSync(
            revision=revision,
            ollama=OllamaState(reachable=True, version="0.5.0"),
            list_digest="digest",
            models=models,
        )
        await self.ask("models.sync", sync)

    async def stream(self, request: Request, *chunks: bytes, seq: int | None = None) -> None:
        """One ``stream.data`` with these of Ollama's chunks."""
        items = tuple(msgspec.Raw(msgspec.json.encode(Item(t_us=1, chunk=msgspec.Raw(c)))) for c in chunks)
        await self.stream_items(request, *items, seq=seq)

    async def stream_items(self, request: Request, *items: msgspec.Raw, seq: int | None = None) -> None:
        number = next(self._seq(request.id)) if seq is None else seq
        await self.notify("stream.data", StreamData(id=request.id, seq=number, items=items))

    async def piece(self, request: Request, text: str, *, more: bool) -> None:
        number = next(self._seq(request.id))
        await self.notify("stream.data", StreamData(id=request.id, seq=number, part=text, more=more))

    def final(self, request: Request, final: bytes = b'{"done":true,"eval_count":2}') -> StreamFinal:
        end = StreamEnd(next_seq=next(self._seq(request.id)))
        return StreamFinal(final=msgspec.Raw(final), t_us=9, stream=end)

    def _seq(self, request_id: RequestId) -> "itertools.count[int]":
        return self._seqs.setdefault(request_id, itertools.count())

    # -- receiving --------------------------------------------------------------------------------

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait until something received made ``ready`` true."""
        async with asyncio.timeout(WAIT_S):
            while not ready():
                self.changed.clear()
                await self.changed.wait()

    async def until_closed(self) -> tuple[int, str]:
        await self.until(lambda: self.closed is not None)
        assert self.closed is not None
        return self.closed

    async def _listen(self) -> None:
        try:
            while True:
                message = codec.decode(await self.socket.recv(decode=False))
                self.look(message)
                self._take(message)
        except websockets.ConnectionClosed:
            frame = self.socket.close_code, self.socket.close_reason
            self.closed = frame[0] or 1006, frame[1] or ""
        for future in self._waiting.values():
            if not future.done():
                future.cancel()
        self.changed.set()

    def _take(self, message: Any) -> None:
        match message:
            case Request():
                (self.probes if message.method == "state.request" else self.requests).append(message)
                task = asyncio.create_task(self._answer(message), name=f"double {message.method}")
                self._tasks.add(task)
                self._answering[message.id] = task
                task.add_done_callback(lambda _: self._answering.pop(message.id, None))
            case Notification():
                self.notes.append(message)
                self._count_credit(message)
            case Response():
                future = self._waiting.pop(message.id, None)
                if future is not None and not future.done():
                    future.set_result(message.result)
            case ErrorResponse():
                self.notes.append(
                    Notification(method="error", params=msgspec.Raw(codec.encode_error(None, message.error)))
                )
                future = self._waiting.pop(message.id, None) if message.id is not None else None
                if future is not None and not future.done():
                    future.set_exception(from_wire(message.error))
        self.changed.set()

    def _count_credit(self, message: Notification) -> None:
        if message.method == "link.credit":
            self.link_credit += msgspec.json.decode(message.params)["bytes"]
        if message.method == "stream.credit":
            body = msgspec.json.decode(message.params)
            self.credit[body["id"]] = self.credit.get(body["id"], 0) + body["bytes"]

    async def _answer(self, request: Request) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            try:
                answer = await self.handlers.get(request.method, refuse_all)(self, request)
            except AgentError as error:
                answer = error
            except asyncio.CancelledError:
                await self.send(codec.encode_error(request.id, to_wire(Cancelled("cancelled"))))
                raise
            if isinstance(answer, AgentError):
                await self.send(codec.encode_error(request.id, to_wire(answer)))
            elif answer is not None:
                await self.send(codec.encode_result(request.id, answer))

    def cancel_handler(self, request_id: RequestId | None) -> None:
        """End a handler that is still at work; one that left its request unanswered stays so."""
        task = self._answering.get(request_id) if request_id is not None else None
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        await self.socket.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _empty(_: AgentDouble, __: Request) -> Answer:
    return {}


async def _cancelling(agent: AgentDouble, request: Request) -> Answer:
    agent.cancel_handler(msgspec.json.decode(request.params).get("id"))
    return {"state": "cancelling"}


@contextlib.asynccontextmanager
async def dial(url: str, token: str | None, agent_id: str, **options: Any) -> AsyncIterator[AgentDouble]:
    """A socket of an agent, not yet admitted. ``headers`` adds to the request; the rest is its identity."""
    headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
    subprotocols = options.pop("subprotocols", [websockets.Subprotocol(SUBPROTOCOL)])
    tls = options.pop("tls", None)
    async with websockets.connect(
        url.replace("http", "ws", 1) + "/api/v1/agents/connect",
        additional_headers=headers,
        subprotocols=subprotocols or None,
        compression=None,
        ping_interval=None,
        max_size=1 << 20,
        close_timeout=1,
        proxy=None,
        ssl=tls,
    ) as socket:
        agent = AgentDouble(socket, agent_id, **options)
        try:
            yield agent
        finally:
            await agent.close()


async def never(*_: object) -> Answer:
    """Leave the request unanswered."""
    return None
