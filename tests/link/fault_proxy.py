"""A TCP proxy that does what networks do: delay, throttle, stall, lose, reset, half close, cut.

Faults are set per direction (``up``: from the client to the server) and take effect at once, on all
connections. Socket buffers are small, so that a stall is felt instead of vanishing in the kernel's memory.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

BUFFER_BYTES: Final = 8 << 10
CHUNK_BYTES: Final = 4 << 10


@dataclass
class Lane:
    """One direction.

    Attributes:
        delay_s: before each chunk is passed on.
        bytes_per_second: most that passes; None: as much as comes.
        buffers: takes whatever comes at once, without bound, as proxies of the web do.
        cut_after: connections are reset when this many bytes have passed; None: never.
        passed: bytes passed so far.
    """

    delay_s: float = 0.0
    bytes_per_second: float | None = None
    buffers: bool = False
    cut_after: int | None = None
    passed: int = 0
    lost: bool = False
    _running: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._running.set()

    def stall(self) -> None:
        """Take nothing more: the sender's buffers fill."""
        self._running.clear()

    def resume(self) -> None:
        """Go on."""
        self.lost = False
        self._running.set()

    def lose(self) -> None:
        """Take everything, and pass nothing on."""
        self.lost = True

    async def running(self) -> None:
        """Wait while stalled."""
        await self._running.wait()


class FaultProxy:
    """Listens on a port of its own and passes everything on to ``host:port``.

    ``refusing`` resets new connections at once.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.up = Lane()
        self.down = Lane()
        self.refusing = False
        self.accepted = 0
        self._target = (host, port)
        self._listener: socket.socket | None = None
        self._clients: set[socket.socket] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        listener.setblocking(False)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        self.reset()
        await asyncio.gather(*self._serving, return_exceptions=True)

    @property
    def port(self) -> int:
        assert self._listener is not None
        port: int = self._listener.getsockname()[1]
        return port

    def stall(self) -> None:
        """Both ways."""
        self.up.stall()
        self.down.stall()

    def black_hole(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self.up.lose()
        self.down.lose()

    def resume(self) -> None:
        """Both ways."""
        self.up.resume()
        self.down.resume()

    def reset(self) -> None:
        """Reset every connection (RST on both sides)."""
        for task in self._serving:
            task.cancel()

    def half_close(self) -> None:
        """The server's side ends its sending direction; the other one stays."""
        for client in self._clients:
            client.shutdown(socket.SHUT_WR)

    def _accept(self, listener: socket.socket) -> None:
        """A connection waits. No task: one that is cancelled drops its socket unclosed."""
        try:
            client, _ = listener.accept()
        except OSError:
            return  # it was reset before it was taken
        self.accepted += 1
        if self.refusing:
            _reset(client)
            return
        task = asyncio.get_running_loop().create_task(self._serve(client), name="fault-proxy connection")
        self._serving.add(task)
        task.add_done_callback(lambda ended: self._ended(ended, client))

    def _ended(self, task: asyncio.Task[None], client: socket.socket) -> None:
        """Also when it was cancelled before its first step."""
        self._serving.discard(task)
        _reset(client)

    async def _serve(self, client: socket.socket) -> None:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        for sock in (client, server):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            sock.setblocking(False)
        self._clients.add(client)
        try:
            await asyncio.get_running_loop().sock_connect(server, self._target)
            async with asyncio.TaskGroup() as lanes:
                for source, sink, lane in ((client, server, self.up), (server, client, self.down)):
                    passing = self._buffer if lane.buffers else self._pass
                    lanes.create_task(passing(source, sink, lane), name="fault-proxy lane")
        except* OSError:
            pass  # one side is gone: so is the other, below
        finally:
            self._clients.discard(client)
            _reset(client)
            _reset(server)

    async def _pass(self, source: socket.socket, sink: socket.socket, lane: Lane) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await lane.running()
            data = await loop.sock_recv(source, _share(lane))
            await lane.running()
            if not data:
                if not lane.lost:
                    sink.shutdown(socket.SHUT_WR)
                return
            if not lane.lost:
                await _wait(lane, len(data))
                await self._forward(sink, data, lane)

    async def _buffer(self, source: socket.socket, sink: socket.socket, lane: Lane) -> None:
        taken: asyncio.Queue[bytes] = asyncio.Queue()

        async def give() -> None:
            while data := await taken.get():
                for start in range(0, len(data), _share(lane)):
                    piece = data[start : start + _share(lane)]
                    await _wait(lane, len(piece))
                    await self._forward(sink, piece, lane)
            sink.shutdown(socket.SHUT_WR)

        async with asyncio.TaskGroup() as both:
            both.create_task(give(), name="fault-proxy buffer")
            while data := await asyncio.get_running_loop().sock_recv(source, CHUNK_BYTES):
                taken.put_nowait(data)
            taken.put_nowait(b"")

    async def _forward(self, sink: socket.socket, data: bytes, lane: Lane) -> None:
        cut = lane.cut_after is not None and lane.passed + len(data) >= lane.cut_after
        if cut and lane.cut_after is not None:
            data = data[: max(lane.cut_after - lane.passed, 0)]
            lane.cut_after = None
        await asyncio.get_running_loop().sock_sendall(sink, data)
        lane.passed += len(data)
        if cut:
            raise ConnectionResetError


def _share(lane: Lane) -> int:
    if lane.bytes_per_second is None:
        return CHUNK_BYTES
    return max(1, min(CHUNK_BYTES, int(lane.bytes_per_second * 0.02)))


async def _wait(lane: Lane, size: int) -> None:
    wait_s = lane.delay_s + (size / lane.bytes_per_second if lane.bytes_per_second else 0.0)
    if wait_s:
        await asyncio.sleep(wait_s)


def _reset(sock: socket.socket) -> None:
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
