"""The hub over a socket of the test's own: peers that do not read, sockets that break, storage that fails."""

import asyncio
import contextlib
import gc
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from obt_agent.errors import AgentError, Busy, DeadlineExceeded, LinkLost
from obt_agent.protocol import codec
from obt_agent.protocol.admission import AgentIdentity, HelloParams, VersionRange
from obt_agent.protocol.limits import Close
from obt_agent.protocol.streams import StreamData
from obt_server.hub import AgentHub, HubSettings, SocketClosed, StoredCredential
from obt_server.hub.budget import WaitingBudget
from obt_server.hub.outgoing_request import OutgoingRequest
from obt_server.hub.sockets import BinaryFrame
from obt_server.hub.turns import Turns
from obt_server.hub.window import ReceiveWindow
from obt_server.hub.writer import Backlog, FrameWriter
from obt_server.storage import Enrolment
from tests.server.enrolling import enrol
from tests.server.memory_storage import MemoryStorage

EMPTY = msgspec.Raw(b"{}")
MODEL = {"model": "m"}
HELLO = codec.encode_request(
    1,
    "agent.hello",
    HelloParams(
        protocol=VersionRange(min=1, max=1),
        agent=AgentIdentity(id="a", name="a", version="1", instance="i"),
        store_id="s",
        capabilities=(),
    ),
)


class QueueSocket:
    """A socket whose reading stops when the test says so."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.sent: list[bytes] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.sending = asyncio.Event()
        self.closed: tuple[int, str] | None = None
        self.aborted = False

    async def receive(self) -> bytes:
        got = await self.inbox.get()
        if isinstance(got, Exception):
            raise got
        return got

    async def send(self, frame: bytes) -> None:
        self.sending.set()
        await self.reading.wait()
        self.sent.append(frame)

    async def close(self, code: int, reason: str) -> None:
        await self.reading.wait()
        self.closed = (code, reason)

    def abort(self) -> None:
        self.aborted = True


@contextlib.asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[tuple[AgentHub, QueueSocket, asyncio.Task[None]]]:
    """A hub with one agent that said hello over such a socket."""
    storage = MemoryStorage()
    enrolment = Enrolment(agent_id="a", name="a", version="1", secret_sha256="s")
    await enrol(storage, enrolment, 1.0)
    hub = AgentHub(storage, HubSettings(**{"close_timeout_s": 0.05, **settings}))
    socket = QueueSocket()
    socket.inbox.put_nowait(HELLO)
    serving = asyncio.create_task(hub.serve(socket, StoredCredential(id=0, agent_id="a", state="current")))
    try:
        async with asyncio.timeout(20):
            await socket.sending.wait()
            yield hub, socket, serving
            socket.inbox.put_nowait(SocketClosed(1000))
            (ended,) = await asyncio.gather(serving, return_exceptions=True)
            assert ended is None or isinstance(ended, asyncio.CancelledError)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def online(hub: AgentHub) -> None:
    while "a" not in hub.online():  # noqa: ASYNC110 -- the storage of the test answers within the same turn
        await asyncio.sleep(0)


async def test_an_agent_that_reads_nothing_bounds_what_waits_for_it_and_is_dropped() -> None:
    async with served(call_timeout_s=0.05) as (hub, socket, serving):
        await online(hub)
        socket.reading.clear()
        large = MODEL | {"options": "m" * 200_000}
        for _ in range(2):
            with pytest.raises(DeadlineExceeded):
                await hub.call("a", "load_model", large, timeout_s=0.05)
        with pytest.raises(DeadlineExceeded, match="could not be sent"):
            await hub.call("a", "load_model", large, timeout_s=0.05)
        for _ in range(3000):
            socket.inbox.put_nowait(b"{" + b"x" * 10)
        await serving
        assert socket.aborted, "its close frame could not be sent either"
        assert hub.online() == frozenset()


async def test_control_frames_that_pile_up_end_the_session_with_4429() -> None:
    async with served() as (hub, socket, serving):
        await online(hub)
        session = hub._sessions.require("a")  # noqa: SLF001 -- what piles up is posted from many places
        socket.reading.clear()
        for _ in range(3):
            session.post(b"x" * 500_000)
        assert hub.online() == frozenset()
        socket.reading.set()
        await serving
        assert socket.closed == (Close.TOO_MUCH, "the agent does not read")


async def test_a_hello_answer_that_cannot_be_sent_in_time_ends_the_socket() -> None:
    storage = MemoryStorage()
    await enrol(storage, Enrolment(agent_id="a", name="a", version="1", secret_sha256="s"), 1.0)
    hub = AgentHub(storage, HubSettings(hello_within_s=0.05, close_timeout_s=0.05))
    socket = QueueSocket()
    socket.reading.clear()
    socket.inbox.put_nowait(HELLO)
    async with asyncio.timeout(20):
        await hub.serve(socket, StoredCredential(id=0, agent_id="a", state="current"))
    assert socket.aborted
    assert hub.online() == frozenset()


async def test_a_hub_that_drains_meanwhile_admits_nobody_more() -> None:
    storage = MemoryStorage()
    hub = AgentHub(storage)
    await hub.drain()
    socket = QueueSocket()
    socket.inbox.put_nowait(HELLO)
    await hub.serve(socket, StoredCredential(id=0, agent_id="a", state="current"))
    assert socket.closed == (Close.DRAINING, "the server is stopping")


async def test_a_drain_does_not_wait_for_ever_for_a_peer_that_does_not_read() -> None:
    async with served(close_timeout_s=600.0, drain_within_s=0.05) as (hub, socket, serving):
        await online(hub)
        socket.reading.clear()
        await hub.drain()
        await serving
        assert socket.aborted


async def test_a_fault_of_ours_while_reading_closes_with_1011_and_is_logged() -> None:
    async with served() as (hub, socket, serving):
        await online(hub)
        socket.inbox.put_nowait(ValueError("a bug"))
        await serving
        assert socket.closed is not None
        assert socket.closed[0] == 1011


async def test_a_binary_frame_in_a_session_closes_with_1003() -> None:
    async with served() as (hub, socket, serving):
        await online(hub)
        socket.inbox.put_nowait(BinaryFrame())
        await serving
        assert socket.closed is not None
        assert socket.closed[0] == Close.UNSUPPORTED_DATA


async def test_a_socket_that_cannot_send_ends_the_session() -> None:
    async with served() as (hub, socket, serving):
        await online(hub)

        async def broken(_: bytes) -> None:
            raise SocketClosed(1006)

        socket.send = broken  # type: ignore[assignment, method-assign]  # a socket that breaks
        with pytest.raises(LinkLost):
            await hub.call("a", "running_models")
        await serving


async def test_a_server_that_stood_still_reads_what_came_meanwhile_before_it_judges() -> None:
    async with served(silence_s=1.0) as (hub, socket, _):
        await online(hub)
        time.sleep(2.5)  # the event loop stands still, as with the whole machine
        for _ in range(5):  # from the kernel to the session it takes a few turns of the loop
            await asyncio.sleep(0)
        socket.inbox.put_nowait(codec.encode_notification("link.alive", EMPTY))
        # What the session is asked now it answers only if it was not given up at the loop's first turn.
        asked = asyncio.create_task(hub.call_text("a", "running_models"))
        while len(socket.sent) < 2 and not asked.done():  # noqa: ASYNC110 -- the test's socket tells nobody
            await asyncio.sleep(0)
        if not asked.done():
            request_id = msgspec.json.decode(socket.sent[1])["id"]
            socket.inbox.put_nowait(codec.encode_result(request_id, EMPTY))
        assert await asked == b"{}"


async def test_a_cancelled_socket_ends_its_session_and_what_is_in_flight() -> None:
    async with served() as (hub, socket, serving):
        await online(hub)
        asked = asyncio.create_task(hub.call("a", "running_models"))
        while len(socket.sent) < 2:  # noqa: ASYNC110 -- the test's socket tells nobody
            await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(LinkLost):
            await asked


async def test_a_probe_with_all_requests_in_flight_listens_for_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served(max_in_flight=1, probe_s=0.05) as (hub, socket, _):
        await online(hub)
        session = hub._sessions.require("a")  # noqa: SLF001 -- the probe has no public entrance
        async with hub.stream("a", "generate", MODEL):
            with pytest.raises(Busy):
                await hub.call("a", "running_models")
            assert not await session.probe(0.05)
            probing = asyncio.create_task(session.probe(0.2))
            await asyncio.sleep(0)
            socket.inbox.put_nowait(codec.encode_notification("link.alive", EMPTY))
            assert await probing


async def test_a_probe_does_not_count_time_in_which_this_process_stood() -> None:
    async with served(probe_s=0.2) as (hub, socket, _):
        await online(hub)
        session = hub._sessions.require("a")  # noqa: SLF001 -- the probe has no public entrance
        probing = asyncio.create_task(session.probe(0.2))
        await asyncio.sleep(0)
        time.sleep(1.5)
        # The deadline is past, and the answer is read only now.
        await asyncio.sleep(0.1)
        assert not probing.done()
        socket.inbox.put_nowait(codec.encode_notification("link.alive", EMPTY))
        assert await probing


async def test_a_closed_writer_takes_nothing_and_lets_nobody_wait() -> None:
    socket = QueueSocket()
    budget = WaitingBudget(1 << 20)
    writer = FrameWriter(socket, budget, lambda: b"mark", request_backlog_bytes=10)
    socket.reading.clear()
    running = asyncio.create_task(writer.run())
    await writer.put(1, b"x" * 100)
    waiting = asyncio.create_task(writer.put(2, b"y"))
    await asyncio.sleep(0)
    assert budget.held == 100
    with pytest.raises(Backlog):
        writer.post(b"z" * (1 << 20))
    writer.close()
    with pytest.raises(LinkLost):
        await waiting
    writer.post(b"dropped")
    await writer.flush()
    assert budget.held == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_those_who_wait_for_room_go_on_when_the_peer_reads_again() -> None:
    socket = QueueSocket()
    writer = FrameWriter(socket, WaitingBudget(1 << 20), lambda: b"mark", request_backlog_bytes=10)
    socket.reading.clear()
    running = asyncio.create_task(writer.run())
    await writer.put(1, b"x" * 100)
    waiting = asyncio.create_task(writer.put(2, b"y"))
    await asyncio.sleep(0)
    socket.reading.set()
    async with asyncio.timeout(20):
        await waiting
        await writer.flush()
    assert socket.sent == [b"x" * 100, b"y"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_control_passes_requests_that_wait_for_those_before_them_to_arrive() -> None:
    socket, budget = QueueSocket(), WaitingBudget(1 << 20)
    writer = FrameWriter(socket, budget, lambda: b"mark")
    running = asyncio.create_task(writer.run())
    large = b"x" * 20_000
    for number in (1, 2, 3):
        await writer.put(number, large)
    async with asyncio.timeout(20):
        while len(socket.sent) < 2:  # noqa: ASYNC110 -- the test's socket tells nobody
            await asyncio.sleep(0)
        writer.post(b"control")
        assert writer.take_back(2)
        assert not writer.take_back(1)
        while len(socket.sent) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert socket.sent == [large, b"mark", b"control"]
        writer.mark_answered()
        await writer.flush()
    assert socket.sent[3:4] == [large]
    assert budget.held == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_request_that_was_cancelled_before_it_went_out_never_does() -> None:
    async with served() as (hub, socket, _):
        await online(hub)
        large = MODEL | {"more": "m" * 20_000}
        first = asyncio.create_task(hub.call("a", "show_model", large))
        second = asyncio.create_task(hub.call("a", "show_model", large))
        while len(socket.sent) < 3:  # noqa: ASYNC110 -- the hello's answer, the first, and the mark
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        mark = msgspec.json.decode(socket.sent[2])
        assert mark["method"] == "state.request"
        socket.inbox.put_nowait(codec.encode_result(mark["id"], EMPTY))
        socket.inbox.put_nowait(codec.encode_result(msgspec.json.decode(socket.sent[1])["id"], EMPTY))
        await first
        assert [msgspec.json.decode(one).get("method") for one in socket.sent[3:]] == []


async def test_an_agent_that_answers_no_mark_still_gets_its_requests() -> None:
    socket = QueueSocket()
    writer = FrameWriter(socket, WaitingBudget(1 << 20), lambda: b"mark")
    running = asyncio.create_task(writer.run())
    large = b"x" * 20_000
    await writer.put(1, large)
    await writer.put(2, large)
    async with asyncio.timeout(20):
        while len(socket.sent) < 2:  # noqa: ASYNC110 -- the test's socket tells nobody
            await asyncio.sleep(0)
        writer.window.give_up()
        writer.check_marks()
        writer.post(b"control")
        await writer.flush()
    assert socket.sent == [large, b"mark", b"control", large]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_requests_are_refused_while_as_much_waits_as_may_in_the_whole_process() -> None:
    async with served(max_waiting_bytes=200_000) as (hub, socket, _):
        await online(hub)
        socket.reading.clear()
        big = MODEL | {"more": "m" * 100_000}
        calls = [asyncio.create_task(hub.call("a", "show_model", big)) for _ in range(2)]
        while hub._sessions._budget.held < 200_000:  # noqa: ASYNC110, SLF001 -- nothing tells of it
            await asyncio.sleep(0)
        with pytest.raises(Busy) as refused:
            await hub.call("a", "running_models")
        assert refused.value.retry_after_ms
        socket.reading.set()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_what_an_agent_asks_and_its_unfinished_lists_count_as_what_waits() -> None:
    def page(index: int, name: str) -> bytes:
        model = {"name": name, "digest": "d", "size_bytes": 1}
        body = {"revision": 1, "page": {"index": index, "last": False}, "models": [model]}
        body |= {"ollama": {"reachable": True}, "list_digest": "d"}
        return codec.encode_request(index, "models.sync", msgspec.Raw(msgspec.json.encode(body)))

    async with served(max_waiting_bytes=10_000) as (hub, socket, serving):
        await online(hub)
        budget = hub._sessions._budget  # noqa: SLF001 -- the budget has no public entrance
        socket.inbox.put_nowait(page(0, "m" * 200))
        while len(socket.sent) < 2:  # noqa: ASYNC110 -- the test's socket tells nobody
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 200 < budget.held < 1000, "the page stays until the last one comes"
        budget.change(10_000)
        socket.inbox.put_nowait(page(1, "n"))
        while len(socket.sent) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
        refused = msgspec.json.decode(socket.sent[2])["error"]["data"]
        assert (refused["kind"], refused["retry_after_ms"]) == ("busy", 1000)
        budget.change(-10_000)
        socket.inbox.put_nowait(SocketClosed(1000))
        await serving
        assert budget.held == 0


async def test_an_answer_in_pieces_counts_until_who_asked_has_it() -> None:
    async with served() as (hub, _, _):
        await online(hub)
        session = hub._sessions.require("a")  # noqa: SLF001 -- the budget has no public entrance
        budget = hub._sessions._budget  # noqa: SLF001
        call = asyncio.create_task(session.calls.call("embed", EMPTY, timeout_s=20))
        await asyncio.sleep(0)
        data = StreamData(id=1, seq=0, part="x" * 10_000, more=True)
        assert session.calls.on_data(data, 10_100)
        assert budget.held >= 10_000
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await session.flush()
        assert budget.held == 0


def test_an_exchange_ends_once() -> None:
    exchange = OutgoingRequest(1, "m", ReceiveWindow(100, 100), lambda _: None, 100)
    with pytest.raises(RuntimeError):
        exchange.outcome()
    exchange.fail(AgentError("first"))
    exchange.fail(AgentError("second"))
    exchange.finish(EMPTY)
    with pytest.raises(AgentError, match="first"):
        exchange.outcome()


async def test_a_request_that_was_cancelled_keeps_no_session_in_memory_after_its_end() -> None:
    async with served() as (hub, socket, serving):
        await online(hub)
        async with hub.stream("a", "generate", MODEL):
            pass
        session = weakref.ref(hub._sessions.require("a"))  # noqa: SLF001 -- the one that must go
        socket.inbox.put_nowait(SocketClosed(1000))
        await serving
    del hub, socket, serving
    await asyncio.sleep(0)
    gc.collect()
    assert session() is None


async def test_an_agents_frames_leave_turns_to_others_also_where_the_loops_clock_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served(control_frames_per_s=1e6) as (hub, socket, _):
        await online(hub)
        # uvloop reads the clock once a pass: while frames are here it does not move.
        loop = asyncio.get_running_loop()
        now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now)
        for _ in range(3000):
            socket.inbox.put_nowait(b'{"jsonrpc":"2.0","method":"link.alive","params":{}}')
        passes = 0
        while not socket.inbox.empty():
            await asyncio.sleep(0)
            passes += 1
        assert passes > 3
        monkeypatch.undo()


async def test_those_who_send_without_end_have_one_turn_in_each_pass_of_the_loop() -> None:
    turns, order = Turns(), list[tuple[int, int]]()
    passes = 0

    async def busy(who: int) -> None:
        for _ in range(3):
            await turns.wait()
            order.append((passes, who))

    tasks = [asyncio.create_task(busy(who)) for who in range(3)]
    gone = asyncio.create_task(busy(3))
    await asyncio.sleep(0)
    gone.cancel()
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        passes += 1
    assert [who for _, who in order] == [0, 1, 2] * 3
    assert len({at for at, _ in order}) == len(order), order
