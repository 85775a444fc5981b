"""The server's key, pinned with the join token: what it replaces, never widens, and how it changes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from obt_agent.errors import AdmissionRefused
from obt_agent.identity.credentials import AgentCredential, Credentials
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_agent.link.enroll import Enrolled
from obt_agent.protocol.server_key import with_pins
from tests.link.authority import Authority
from tests.link.doubles import SLOW, CredentialsDouble, linked
from tests.link.server_double import Peer, ServerDouble, listening
from tests.link.test_enroll import ANSWER, Desk, Joins, answer, join

OTHER = "sha256-" + "A" * 43


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class Impostor:
    """Shakes hands with a certificate of its own, and keeps every byte that follows."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.met = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.met += 1
        # What came before a connection breaks counts too.
        while data := await reader.read(4096):
            self.heard += data


async def enrol(url: str, *pins: str, joins: Joins | None = None, **settings: Any) -> Enrolled:
    token = Secret(with_pins("join-canary", pins))
    return await join(url.replace("http:", "https:"), joins, token=token, **settings)


async def test_a_pinned_key_needs_no_authority_and_no_name(authority: Authority) -> None:
    context, pin = authority.pinned_server("another.name")
    desk, joins = Desk(answer(200, ANSWER)), Joins()
    async with listening(desk.serve, tls=context) as url:
        enrolled = await enrol(url, OTHER, pin, joins=joins)
    assert enrolled.pins == joins.pins == (OTHER, pin)
    assert "Authorization: Bearer join-canary\r\n" in desk.requests[0][0], "without the pins"


async def test_whoever_shows_another_key_is_sent_nothing(authority: Authority) -> None:
    """Not even with a certificate that this machine's authorities vouch for."""
    impostor = Impostor()
    async with listening(impostor.serve, tls=authority.server()) as url:
        with pytest.raises(AdmissionRefused) as caught:
            await enrol(url, OTHER)
        assert "does not show the key" in caught.value.message
        assert "\n" not in caught.value.message
        pinned = CredentialsDouble()
        pinned.stored = AgentCredential(Secret("canary-secret"), "stored", (OTHER,))
        async with linked(url.replace("http:", "https:"), credentials=pinned, backoff=SLOW) as rig:
            assert "does not show the key" in await rig.until_down()
    assert (impostor.met, bytes(impostor.heard)) == (2, b"")


async def test_a_token_that_names_a_key_is_not_sent_in_clear_text() -> None:
    impostor = Impostor()
    async with listening(impostor.serve) as url:
        with pytest.raises(AdmissionRefused, match="write https://"):
            await join(url, token=Secret(with_pins("join-canary", [OTHER])))
    assert impostor.met == 0


async def test_a_configured_authority_decides_alone(authority: Authority, tmp_path: Path) -> None:
    """A pin neither lets in what it refuses, nor keeps out what it vouches for; and none is kept."""
    trusted: dict[str, Any] = {"ca_file": str(authority.ca_file(tmp_path))}
    context, pin = Authority().pinned_server()
    impostor = Impostor()
    async with listening(impostor.serve, tls=context) as url:
        with pytest.raises(AdmissionRefused, match="not trusted here"):
            await enrol(url, pin, **trusted)
    assert not impostor.heard
    joins = Joins()
    async with listening(Desk(answer(200, ANSWER)).serve, tls=authority.server()) as url:
        assert (await enrol(url, OTHER, joins=joins, **trusted)).pins == ()
    assert joins.pins == ()


# The link.


@asynccontextmanager
async def admitted(
    credentials: Credentials, tls: ssl.SSLContext, *announced: str, **settings: Any
) -> AsyncIterator[Peer]:
    """A session at a server with that certificate; the server's side of it."""
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    over = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.admit(pins=list(announced))
        peers.put_nowait(peer)
        await over.wait()

    async with (
        ServerDouble(serve, tls=tls) as server,
        linked(server.url, credentials=credentials, **settings) as rig,
    ):
        # Behind the note of the admission, with which the pins are stored.
        await rig.session()
        assert rig.link.statistics.pins == rig.link.pins
        try:
            yield await peers.get()
        finally:
            over.set()


async def test_the_pins_follow_what_the_server_announces_and_go_with_the_credential(
    authority: Authority, tmp_path: Path
) -> None:
    (first, old), (second, new) = authority.pinned_server(), authority.pinned_server()
    with StateDir.open(tmp_path / "state") as state:
        credentials = Credentials(state.folder, None)
        credentials.store_enrolled(Secret("canary-secret"), (old,))
        async with admitted(credentials, first, old, new) as peer:
            # The candidate of a rotation is for the same keys.
            rotation = await peer.request("credentials.rotate", {"rotation_id": "r-1"})
            await peer.expect(id=rotation)
        shown = credentials.for_next_dial()
        assert shown is not None
        assert (shown.source, shown.pins) == ("candidate", (old, new))
        async with admitted(credentials, second, new):
            pass
        # The old key's time is over, for whoever stole it, too.
        shown = Credentials(state.folder, None).for_next_dial()
        assert shown is not None
        assert (shown.source, shown.pins) == ("stored", (new,))
        impostor = Impostor()
        async with (
            listening(impostor.serve, tls=first) as url,
            linked(url.replace("http:", "https:"), credentials=credentials, backoff=SLOW) as rig,
        ):
            assert "does not show the key" in await rig.until_down()
        assert not impostor.heard


async def test_a_server_cannot_set_the_first_pin_nor_take_the_last_away(
    authority: Authority, tmp_path: Path
) -> None:
    context, pin = authority.pinned_server()
    with StateDir.open(tmp_path / "state") as state:
        for known, announced in (((), (OTHER,)), ((pin,), ())):
            credentials = Credentials(state.folder, None)
            credentials.store_enrolled(Secret("canary-secret"), known)
            trust = {} if known else {"ca_file": str(authority.ca_file(tmp_path))}
            async with admitted(credentials, context, *announced, **trust):
                pass
            shown = credentials.for_next_dial()
            assert shown is not None
            assert shown.pins == known
