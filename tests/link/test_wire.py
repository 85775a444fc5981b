"""The wire stands on the library's public, sans-I/O part, and holds no more than it may."""

from __future__ import annotations

import ast
import inspect
from typing import Final

from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.uri import parse_uri

from obt_agent.link import wire
from tests.hostile.raw import CONTINUATION, frame
from tests.link.doubles import SLOW, at_once, meeting
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


async def test_a_frame_of_a_hundred_thousand_empty_fragments_ends_the_link() -> None:
    async with meeting(backoff=SLOW) as met:
        piece = frame(b"", CONTINUATION, fin=False, mask=False)
        met.peer.socket.transport.write(frame(b"{", fin=False, mask=False) + piece * 100_000)
        await until(lambda: met.rig.link.status.state != "admitted")
        assert "fragments" in (met.rig.link.status.problem or "")


async def test_a_frame_in_a_thousand_fragments_is_one_frame() -> None:
    text = b'{"jsonrpc":"2.0","id":"f","method":"ping"}'.ljust(1000)
    letters = [bytes([letter]) for letter in text]
    async with meeting() as met:
        met.handler.methods["ping"] = at_once
        pieces = [frame(letter, CONTINUATION, fin=False, mask=False) for letter in letters[1:-1]]
        ends = frame(letters[0], fin=False, mask=False), frame(letters[-1], CONTINUATION, mask=False)
        met.peer.socket.transport.write(b"".join([ends[0], *pieces, ends[1]]))
        await met.peer.expect(id="f")
