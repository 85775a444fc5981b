"""The wire stands on the library's public, sans-I/O part, and holds no more than it may."""

from __future__ import annotations

import ast
import inspect
from typing import Final

from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.uri import parse_uri

from obt_agent.link import wire
from tests.link.doubles import SLOW, meeting
from tests.waiting import until

IMPORTED: Final = {
    "websockets.client.ClientProtocol",
    "websockets.exceptions.InvalidStatus",
    "websockets.exceptions.NegotiationError",
    "websockets.frames.Frame",
    "websockets.frames.Opcode",
    "websockets.http11.Response",
    "websockets.protocol.State",
    "websockets.typing.Subprotocol",
    "websockets.uri.parse_uri",
}
USED_OF_THE_PROTOCOL: Final = {
    "close_exc",
    "connect",
    "data_to_send",
    "events_received",
    "handshake_exc",
    "receive_data",
    "receive_eof",
    "send_close",
    "send_ping",
    "send_request",
    "send_text",
    "state",
    "subprotocol",
    "uri",
}
"""All of them stand in the library's reference of its sans-I/O part."""

PING: Final = b"\x89\x7d" + b"x" * 125


def test_only_these_public_names_of_the_library_are_used() -> None:
    tree = ast.parse(inspect.getsource(wire))
    imports = {
        f"{node.module}.{name.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("websockets")
        for name in node.names
    }
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "_protocol"
    }
    assert imports == IMPORTED
    assert used == USED_OF_THE_PROTOCOL
    protocol = ClientProtocol(parse_uri("ws://localhost"))
    assert {name for name in used - {"close_exc"} if not hasattr(protocol, name)} == set()
    assert {"rcvd", "sent", "rcvd_then_sent"} <= set(inspect.signature(ConnectionClosed).parameters)


async def test_a_server_that_pings_and_never_reads_fills_no_memory() -> None:
    most = 0
    async with meeting(backoff=SLOW) as met:
        transport = met.peer.socket.transport
        transport.pause_reading()
        attempt = met.rig.link._attempt  # noqa: SLF001 - what waits in memory is shown nowhere else
        assert attempt is not None
        for _ in range(400):
            transport.write(PING * 1024)

        def over() -> bool:
            nonlocal most
            most = max(most, attempt.wire.waiting_bytes)
            return met.rig.link.status.state != "admitted"

        await until(over)
        assert "Too much output" in (met.rig.link.status.problem or "")
    assert most < 2 << 20
