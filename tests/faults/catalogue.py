"""The faults: what each does to the gate, and what an agent must make of it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

import trustme

from tests.faults.environment import Environment
from tests.faults.gate import Gate
from tests.link.authority import AlertingServer
from tests.link.server_double import listening
from tests.server.agent_double import dial

Effect = Literal["breaks", "refuses", "passes"]
"""``breaks``: the session must end within the deadline. ``refuses``: dials fail, and the agent says why.
``passes``: a healthy link, however slow; it must not be dropped."""

Strike = Callable[[Environment], contextlib.AbstractAsyncContextManager[None]]
"""The fault is there while the context lasts."""


@dataclass(frozen=True)
class Fault:
    """One fault. ``says`` is a part of what the agent tells its owner; ``tls`` that it needs ``wss://``."""

    name: str
    effect: Effect
    strike: Strike
    says: str = ""
    tls: bool = False


def _lanes(change: Callable[[Gate], object]) -> Strike:
    @contextlib.asynccontextmanager
    async def strike(environment: Environment) -> AsyncIterator[None]:
        change(environment.gate)
        try:
            yield
        finally:
            environment.gate.heal()

    return strike


def _delay(gate: Gate) -> None:
    gate.up.delay_s = gate.down.delay_s = 0.05


def _throttle(gate: Gate) -> None:
    gate.up.bytes_per_second = gate.down.bytes_per_second = 16 << 10


def _lose_up(gate: Gate) -> None:
    gate.up.lose()


def _lose_down(gate: Gate) -> None:
    gate.down.lose()


def _stall_up(gate: Gate) -> None:
    gate.up.stall()


def _stall_down(gate: Gate) -> None:
    gate.down.stall()


def _reset(gate: Gate) -> None:
    gate.refusing = True
    gate.reset()


def _cut_up(gate: Gate) -> None:
    gate.up.cut_after = gate.up.passed + 50


def _cut_down(gate: Gate) -> None:
    gate.down.cut_after = gate.down.passed + 9


def _met_with(answer: bytes | None, *, read: bool = True) -> Strike:
    """Connections are reset, and dials are met with these bytes, or (None) with silence."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if read:
            await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
            await writer.drain()

    return _led_to(lambda _: listening(meet))


def _led_to(listener: Callable[[Environment], contextlib.AbstractAsyncContextManager[str]]) -> Strike:
    @contextlib.asynccontextmanager
    async def strike(environment: Environment) -> AsyncIterator[None]:
        async with listener(environment) as url:
            environment.gate.lead_to(int(url.rsplit(":", 1)[1]))
            environment.gate.reset()
            try:
                yield
            finally:
                environment.gate.heal()
                await environment.gate.cut()

    return strike


def _http(status: str, *headers: str) -> Strike:
    lines = [f"HTTP/1.1 {status}", "Content-Length: 2", "Connection: close", *headers, "", "no"]
    return _met_with("\r\n".join(lines).encode())


def _certificate(*names: str, expired: bool = False, unknown: bool = False) -> Strike:
    def listener(environment: Environment) -> contextlib.AbstractAsyncContextManager[str]:
        assert environment.certificates is not None
        authority = trustme.CA() if unknown else environment.certificates.authority
        now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        not_after = now - dt.timedelta(days=1) if expired else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*(names or ("localhost",)), not_after=not_after).configure_cert(context)
        return _alerting(context)

    return _led_to(listener)


@contextlib.asynccontextmanager
async def _alerting(context: ssl.SSLContext) -> AsyncIterator[str]:
    """A TLS server that ends each connection after its handshake; a failed one gets its alert."""
    with AlertingServer(context) as server:
        yield server.url


def _second_dial(*, same_process: bool) -> Strike:
    """Another socket of the same identity: of the same process (a redial), or of another one."""

    @contextlib.asynccontextmanager
    async def strike(environment: Environment) -> AsyncIterator[None]:
        instance = {"instance": environment.agent.state.instance} if same_process else {}
        url = environment.site.url.replace(str(environment.gate.port), str(environment.gate.home))
        async with dial(url, environment.site.secret, environment.agent_id, **instance) as second:
            hello = asyncio.create_task(second.hello(), name="the second dial's hello")
            try:
                yield
            finally:
                hello.cancel()
                await asyncio.gather(hello, return_exceptions=True)

    return strike


GARBAGE = b"\x16\x03\x01 SSH-2.0-not a web server\r\n\r\n"

FAULTS = (
    Fault("delay 50 ms each way", "passes", _lanes(_delay)),
    Fault("throttle 16 KiB/s each way", "passes", _lanes(_throttle)),
    Fault("second dial, other process", "passes", _second_dial(same_process=False)),
    Fault("second dial, same process", "breaks", _second_dial(same_process=True)),
    Fault("stall both ways", "breaks", _lanes(Gate.stall)),
    Fault("stall to the server", "breaks", _lanes(_stall_up)),
    Fault("stall to the agent", "breaks", _lanes(_stall_down)),
    Fault("black hole", "breaks", _lanes(Gate.black_hole)),
    Fault("lost to the server", "breaks", _lanes(_lose_up)),
    Fault("lost to the agent", "breaks", _lanes(_lose_down)),
    Fault("reset, then refused", "breaks", _lanes(_reset)),
    Fault("half close", "breaks", _lanes(Gate.half_close)),
    Fault("cut in mid-frame, sending", "breaks", _lanes(_cut_up)),
    Fault("cut in mid-frame, receiving", "breaks", _lanes(_cut_down)),
    Fault("401", "refuses", _http("401 Unauthorized"), says="HTTP 401"),
    Fault("403", "refuses", _http("403 Forbidden"), says="HTTP 403"),
    Fault("429", "refuses", _http("429 Too Many Requests", "Retry-After: 1"), says="HTTP 429"),
    Fault("503", "refuses", _http("503 Service Unavailable", "Retry-After: 1"), says="HTTP 503"),
    Fault("200, a web page", "refuses", _http("200 OK", "Content-Type: text/html"), says="200"),
    Fault("garbage for an answer", "refuses", _met_with(GARBAGE), says="no WebSocket server"),
    Fault("silence for an answer", "refuses", _met_with(None), says="said nothing"),
    Fault("closed in mid-answer", "refuses", _met_with(b"HTTP/1.1 101 Switch"), says="no WebSocket server"),
    Fault("TLS: expired", "refuses", _certificate(expired=True), says="has expired", tls=True),
    Fault("TLS: wrong host", "refuses", _certificate("other.example.org"), says="is not for", tls=True),
    Fault("TLS: unknown authority", "refuses", _certificate(unknown=True), says="authority", tls=True),
    Fault(
        "TLS: not spoken", "refuses", _met_with(b"HTTP/1.1 400 Bad\r\n\r\n", read=False), says="TLS", tls=True
    ),
    Fault("TLS: black hole", "breaks", _lanes(Gate.black_hole), tls=True),
    Fault("TLS: cut in mid-frame", "breaks", _lanes(_cut_down), tls=True),
)
BY_NAME = {fault.name: fault for fault in FAULTS}
