"""Connections without a word, at a server process with few descriptors; and the bounds themselves."""

import asyncio
import itertools
import logging
import os
import resource
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from obt_agent.protocol import limits
from obt_agent.protocol.limits import Close
from obt_server.connections import Connection, ConnectionLimits, Connections, Phase, address_key
from obt_server.log_limit import BURST, WINDOW_S, LineLimit
from obt_server.serve import ACCEPTED_AT_ONCE
from obt_server.store import SqlStorage
from obt_server.uvicorn_protocols import BoundedHttp, BoundedWebSocket
from tests.hostile.raw import CONTINUATION, frame
from tests.server.conftest import Running, running
from tests.server.process import server_process
from tests.server.test_admission import refused
from tests.waiting import until

FEW = 512


class DoubleTransport:
    """A transport that knows its peer and whether it was dropped."""

    def __init__(self, address: str) -> None:
        self.address, self.aborted = address, False

    def abort(self) -> None:
        self.aborted = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self.address, 1) if name == "peername" else default


def opened(connections: Connections, address: str) -> tuple[DoubleTransport, Connection]:
    transport = DoubleTransport(address)
    return transport, connections.opened(transport)


async def until_dropped(reader: asyncio.StreamReader) -> bytes:
    """Return what came before the server dropped the connection, with or without a reset."""
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are limited by rlimit")
async def test_idle_connections_beyond_all_descriptors_leave_the_server_answering(tmp_path: Path) -> None:
    limited = ("bash", "-c", f'ulimit -n {FEW}; exec "$@"', "bash")
    async with server_process(tmp_path / "obt.sqlite3", before=limited) as server:
        idle: list[asyncio.StreamWriter] = []
        try:
            while len(idle) < FEW + 100:
                idle += [(await asyncio.open_connection("127.0.0.1", server.port))[1] for _ in range(50)]
            async with httpx.AsyncClient(base_url=server.url, timeout=20, trust_env=False) as client:
                for _ in range(3):
                    assert (await client.get("/api/v1/agents")).status_code == 401
        finally:
            for writer in idle:
                writer.close()


async def test_half_a_body_is_not_kept_for_good(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obt_server.connections.WITHIN_S", {("stranger", "body"): 0.2})
    reader, writer = await asyncio.open_connection("127.0.0.1", server.uvicorn.port)
    writer.write(b"POST /api/v1/session HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n")
    writer.write(b"Content-Type: application/json\r\n\r\n{")
    assert await until_dropped(reader) == b""
    writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HT"], ids=["nothing", "half a head"])
async def test_a_connection_without_a_request_is_dropped(
    server: Running, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("obt_server.connections.WITHIN_S", {("stranger", "head"): 0.2})
    reader, writer = await asyncio.open_connection("127.0.0.1", server.uvicorn.port)
    writer.write(sent)
    assert await until_dropped(reader) == b""
    writer.close()


async def test_a_burst_of_connections_is_accepted_a_few_at_a_time(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections, loop = server.uvicorn.connections, asyncio.get_running_loop()
    passes, opened_in, begin = itertools.count(), Counter[int](), connections.opened
    now = 0

    def count() -> None:
        nonlocal now
        now, counting = next(passes), loop.call_soon(count)
        handles[:] = [counting]

    def opened(transport: Any) -> Connection:
        opened_in[now] += 1
        return begin(transport)

    handles = [loop.call_soon(count)]
    monkeypatch.setattr(connections, "opened", opened)
    # All at once from this thread: the server's loop has no turn until the last one waits in the queue.
    burst = [socket.create_connection(("127.0.0.1", server.uvicorn.port), 20) for _ in range(100)]
    try:
        await until(lambda: opened_in.total() == 100)
    finally:
        for handle in handles:
            handle.cancel()
        for one in burst:
            one.close()
    # asyncio accepts as many as its queue is long, and one more since Python 3.14.
    assert max(opened_in.values()) <= ACCEPTED_AT_ONCE + 1


async def test_one_who_pings_and_does_not_read_costs_no_memory(server: Running) -> None:
    _, secret = await server.enrol()
    url = server.url.replace("http", "ws") + "/api/v1/agents/connect"
    headers = {"Authorization": f"Bearer {secret}"}
    async with connect(
        url,
        additional_headers=headers,
        subprotocols=[Subprotocol("obt.v1")],
        ping_interval=None,
        proxy=None,
    ) as socket:
        connections = server.uvicorn.connections
        (one,) = [each for each in connections.all() if each.kind == "agent"]
        frame = b"\x89\xfd\0\0\0\0" + b"x" * 125  # a ping, masked with zeros
        async with asyncio.timeout(20):
            while one in connections.all():
                socket.transport.write(frame * 1000)
                await asyncio.sleep(0)


def test_a_stranger_too_many_costs_the_oldest_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    connections = Connections(ConnectionLimits(total=16, strangers=4, strangers_of_address=2))
    monkeypatch.setattr("obt_server.connections.SILENT_S", 0.0)
    of_one = [opened(connections, "192.0.2.1")[0] for _ in range(3)]
    assert [one.aborted for one in of_one] == [True, False, False]
    others = [opened(connections, f"192.0.2.{n}")[0] for n in range(2, 5)]
    assert [one.aborted for one in of_one] == [True, True, False]
    assert not any(one.aborted for one in others)


def test_a_fleet_behind_one_address_that_dials_at_once_is_taken() -> None:
    connections = Connections(ConnectionLimits(total=4096, strangers=1024, strangers_of_address=256))
    assert not any(opened(connections, "192.0.2.1")[0].aborted for _ in range(1000))


def test_a_sweep_looks_at_an_agents_open_socket_once_and_at_an_upgrade_until_it_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("obt_server.connections.WITHIN_S", {("agent", "upgrade"): 0.0})
    connections, looks = Connections(), Counter[str]()
    phases: dict[str, Phase] = {"settled": "open", "late": "upgrade"}
    transports = {}
    for name, phase in phases.items():
        transports[name], one = opened(connections, "192.0.2.1")
        assert one.recognise("agent")

        def state(name: str = name, phase: Phase = phase) -> tuple[Phase, str]:
            looks[name] += 1
            return phase, name

        one.state = state
    connections.sweep()
    seen = looks["settled"]
    connections.sweep()
    assert [transports[name].aborted for name in phases] == [False, True]
    assert looks["settled"] == seen
    assert connections.counts()["agent"] == 1, "it keeps its place"
    connections.closed(transports["settled"])
    assert connections.counts()["agent"] == 0


def test_ipv6_addresses_of_one_network_are_one_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("obt_server.connections.SILENT_S", 0.0)
    connections = Connections(ConnectionLimits(total=16, strangers=8, strangers_of_address=2))
    of_one = [opened(connections, f"2001:db8::{n:x}")[0] for n in range(3)]
    assert of_one[0].aborted
    assert not opened(connections, "2001:db8:0:1::1")[0].aborted
    assert address_key("::ffff:192.0.2.1") == address_key("192.0.2.1")


def test_strangers_cannot_take_what_belongs_to_agents_and_operators() -> None:
    connections = Connections(ConnectionLimits(total=16, strangers=4, strangers_of_address=4))
    known = [opened(connections, "192.0.2.1") for _ in range(4)]
    assert all(one.recognise("operator") for _, one in known)
    for n in range(50):
        opened(connections, f"198.51.100.{n}")
    assert not any(transport.aborted for transport, _ in known)
    _, agent = opened(connections, "192.0.2.2")
    assert agent.recognise("agent")
    _, fifth = opened(connections, "192.0.2.3")
    assert not fifth.recognise("operator"), "a quarter of 16"
    clients = [opened(connections, f"203.0.113.{n}")[1] for n in range(3)]
    assert [one.recognise("client") for one in clients] == [True, True, False], "an eighth of 16"
    assert ConnectionLimits().most("agent") >= 10_000, "as many as a hub takes"


@pytest.mark.parametrize(
    ("proxies", "address", "stands_for_many"),
    [
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "11.1.2.3", False),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["fd00::/64", "192.0.2.1"], "fd00::7", True),
        (["fd00::1"], "fd00::1", True),
        (["fd00::1"], "fd00::2", False),
        (["*"], "192.0.2.1", True),
        (["unix:"], "192.0.2.1", False),
        (["192.0.2.1"], "", False),
    ],
)
def test_proxies_are_named_by_address_or_network(
    proxies: list[str], address: str, stands_for_many: bool
) -> None:
    _, connection = opened(Connections(proxies=proxies), address)
    assert (connection.address is None) is stands_for_many


def test_a_proxy_stands_for_many_senders() -> None:
    limits = ConnectionLimits(total=64, strangers=16, strangers_of_address=2)
    connections = Connections(limits, proxies=["127.0.0.1"])
    assert not any(opened(connections, "127.0.0.1")[0].aborted for _ in range(10))


def test_the_soft_limit_on_descriptors_is_raised() -> None:
    from obt_server.serve import raise_descriptors  # noqa: PLC0415 - beside the limit that it changes

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        assert raise_descriptors() == min(hard, 20_608)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 20_608)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_flood_of_a_line_is_folded_and_counted() -> None:
    limit = LineLimit()
    passed = [limit.admit("agent.left", 0.0) for _ in range(1000)]
    assert passed.count(0) == BURST
    assert passed.count(None) == 1000 - BURST
    assert limit.admit("agent.left", WINDOW_S) == 1000 - BURST, "the next line says how many there were"
    assert limit.admit("agent.admitted", 0.0) == 0, "other lines pass"
    assert {limit.admit("audit.command", 0.0) for _ in range(1000)} == {0}, "each of these counts"


@pytest.mark.parametrize("size", [0, 1])
async def test_a_frame_of_a_hundred_thousand_fragments_drops_the_connection(
    tmp_path: Path, size: int
) -> None:
    # Not for its silence: that would end it, too.
    async with running(tmp_path, silence_s=600.0) as server, server.agent() as agent:
        transport = agent.socket.transport
        transport.write(frame(b"{", fin=False))
        transport.write(frame(b" " * size, CONTINUATION, fin=False) * 100_000)
        assert (await agent.until_closed())[0] == 1006


async def test_a_frame_in_a_thousand_fragments_is_one_frame(server: Running) -> None:
    async with server.agent() as agent:
        text = (
            '{"jsonrpc":"2.0","id":7,"method":"jobs.sync","params":{"revision":1,"store_id":"s","jobs":[]}}'
        )
        letters = [bytes([letter]) for letter in text.encode().ljust(1000)]
        middle = [frame(letter, CONTINUATION, fin=False) for letter in letters[1:-1]]
        pieces = [frame(letters[0], fin=False), *middle, frame(letters[-1], CONTINUATION)]
        agent.socket.transport.write(b"".join(pieces))
        await agent.sync_models()
        assert agent.closed is None


async def test_text_that_is_no_utf_8_closes_with_1007_and_writes_no_traceback(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with server.agent() as agent:
        agent.socket.transport.write(frame(b"\xff" * 100))
        assert (await agent.until_closed())[0] == 1007
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_refused_upgrade_is_no_error_in_the_log(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await refused(server, "wrong")).response.status_code == 401
    await until(lambda: not server.uvicorn.server_state.connections)
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_an_agent_that_dials_as_the_server_stops_is_answered_once(
    server: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = await server.enrol()
    asked, may_answer = asyncio.Event(), asyncio.Event()
    credential = SqlStorage.credential

    async def later(storage: SqlStorage, digest: str) -> Any:
        asked.set()
        await may_answer.wait()
        return await credential(storage, digest)

    monkeypatch.setattr(SqlStorage, "credential", later)
    dialling = asyncio.create_task(refused(server, secret), name="agent")
    await asked.wait()
    (protocol,) = (
        one for one in server.uvicorn.server_state.connections if isinstance(one, BoundedWebSocket)
    )
    protocol.shutdown()
    assert (await dialling).response.status_code == 503
    may_answer.set()
    await until(lambda: not server.uvicorn.server_state.tasks)
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_messages_of_one_read_wait_unparsed_until_those_before_were_taken(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    handed_on = BoundedWebSocket.send_receive_event_to_app

    def counted(socket: BoundedWebSocket) -> None:
        nonlocal most
        handed_on(socket)
        most = max(most, socket.queue.qsize())

    monkeypatch.setattr(BoundedWebSocket, "send_receive_event_to_app", counted)
    async with server.agent() as agent:
        alive = b'{"jsonrpc":"2.0","method":"link.alive","params":{}}'
        agent.socket.transport.write(frame(alive) * 900)
        # Answered after all of them: they come in order.
        await agent.sync_models()
        assert agent.closed is None
    assert 1 < most < 100


async def test_requests_of_strangers_are_read_one_in_each_pass_and_operators_go_before_them(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[BoundedHttp] = []
    strangers, read = 40, BoundedHttp.handle_events

    def noted(protocol: BoundedHttp) -> None:
        # After an answer it is called again.
        if protocol not in taken:
            taken.append(protocol)
        read(protocol)

    head = b"GET /api/v1/agents HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    signed_in = head + f"Authorization: {server.http.headers['Authorization']}\r\n\r\n".encode()
    port = server.uvicorn.port
    known, known_writer = await asyncio.open_connection("127.0.0.1", port)
    others = [await asyncio.open_connection("127.0.0.1", port) for _ in range(strangers)]
    # From here on this connection is an operator's.
    known_writer.write(signed_in)
    assert b"200" in await known.readline()
    await until(lambda: len(server.uvicorn.server_state.connections) > strangers)
    protocols = [one for one in server.uvicorn.server_state.connections if isinstance(one, BoundedHttp)]
    monkeypatch.setattr(BoundedHttp, "handle_events", noted)
    (operator,) = [one for one in protocols if one.client == known_writer.get_extra_info("sockname")]
    for one in protocols:
        if one.connection.kind == "stranger":
            one.data_received(head + b"\r\n")
    assert taken == []
    operator.data_received(signed_in)
    assert taken == [operator]
    while len(taken) <= strangers:
        before = len(taken)
        await asyncio.sleep(0)
        assert len(taken) <= before + 1
    # Each is answered, in its turn.
    for reader, _ in others:
        assert b"401" in await reader.readline()
    for _, writer in [*others, (known, known_writer)]:
        writer.close()


async def test_who_sends_on_after_a_frame_was_refused_learns_why(server: Running) -> None:
    async with server.agent() as agent:
        # More than the system's buffers hold.
        size = 16 * limits.MAX_FRAME_BYTES
        descriptor = os.dup(agent.socket.transport.get_extra_info("socket").fileno())
        # As a proxy does, which hands on what comes, and ends both sides when it cannot.
        with socket.socket(fileno=descriptor) as sending:
            # A masked text frame: its head is enough to refuse it, and all of it comes.
            await asyncio.get_running_loop().sock_sendall(
                sending, b"\x81\xff" + size.to_bytes(8, "big") + bytes(4 + size)
            )
        assert (await agent.until_closed())[0] == Close.TOO_BIG


async def test_a_stranger_that_goes_before_its_turn_is_forgotten(server: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.uvicorn.port)
    await until(lambda: len(server.uvicorn.server_state.connections) == 1)
    (protocol,) = server.uvicorn.server_state.connections
    assert isinstance(protocol, BoundedHttp)
    protocol.data_received(b"GET /api/v1/agents HTTP/1.1\r\n")
    # A request may come in pieces, also while it waits.
    protocol.data_received(b"Host: 127.0.0.1\r\n\r\n")
    protocol.transport.abort()
    assert await until_dropped(reader) == b""
    writer.close()
    async with httpx.AsyncClient(base_url=server.url, timeout=20, trust_env=False) as client:
        assert (await client.get("/api/v1/agents")).status_code == 401


async def test_what_came_before_the_end_of_a_connection_is_taken_before_it(server: Running) -> None:
    async with server.agent() as agent:
        beat = '{"jsonrpc":"2.0","method":"heartbeat","params":{"ollama":{"reachable":true},"t_mono_us":N}}'
        beats = [frame(beat.replace("N", str(n)).encode()) for n in range(900)]
        agent.socket.transport.write(b"".join(beats))
        agent.socket.transport.write_eof()
        presence = server.parts.hub.presence(agent.agent_id)
        assert presence is not None
        await agent.until_closed()
    await until(lambda: server.parts.hub.presence(agent.agent_id) is None)
    assert presence.heartbeat is not None
    assert presence.heartbeat.t_mono_us == 899
