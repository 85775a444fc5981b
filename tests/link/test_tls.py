"""TLS at the wire: what is checked, and that each failure says what to do."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as pem

from obt_agent.config.schema import ServerConfig
from obt_agent.errors import ConfigError
from obt_agent.link import tls
from tests.link.authority import AlertingServer, Authority
from tests.link.doubles import linked, shorter
from tests.link.server_double import Peer, ServerDouble, listening

NOW = datetime.now(UTC).replace(tzinfo=None)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


async def serve(peer: Peer) -> None:
    await peer.admit()
    await peer.until_closed()


async def test_a_server_of_a_trusted_authority_is_dialled(authority: Authority, tmp_path: Path) -> None:
    settings = {"ca_file": str(authority.ca_file(tmp_path))}
    async with ServerDouble(serve, tls=authority.server()) as server, linked(server.url, **settings) as rig:
        session = await rig.session()
        connection = server.peers[0].socket.transport.get_extra_info("ssl_object")
        assert connection.version() in {"TLSv1.2", "TLSv1.3"}
        assert session.alive


async def test_a_client_certificate_is_shown(authority: Authority, tmp_path: Path) -> None:
    chain, key = authority.client_files(tmp_path)
    settings = {
        "ca_file": str(authority.ca_file(tmp_path)),
        "client_cert_file": str(chain),
        "client_key_file": str(key),
    }
    context = authority.server(wants_client=True)
    async with ServerDouble(serve, tls=context) as server, linked(server.url, **settings) as rig:
        await rig.session()
        connection = server.peers[0].socket.transport.get_extra_info("ssl_object")
        assert connection.getpeercert()["subjectAltName"] == (("email", "agent@example.org"),)


FAILURES: dict[str, tuple[dict[str, Any], str, str]] = {
    "expired": ({"not_after": NOW - timedelta(days=1)}, "has expired", "clock says"),
    "not yet valid": ({"not_before": NOW + timedelta(days=1)}, "is not valid yet", "clock says"),
    "wrong host": ({"names": ("other.example.org",)}, "is not for localhost", "server.url"),
    "old protocol": ({"newest": ssl.TLSVersion.TLSv1_1}, "TLS 1.2 or later", "localhost"),
    "client certificate wanted": ({"wants_client": True}, "client certificate", "server.client_cert_file"),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_each_failure_says_what_it_is_and_what_to_do(
    case: str, authority: Authority, tmp_path: Path
) -> None:
    server_settings, says, advises = FAILURES[case]
    names = server_settings.pop("names", ())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old TLS is what this test is about
        context = authority.server(*names, **server_settings)
    settings = {"ca_file": str(authority.ca_file(tmp_path))}
    with AlertingServer(context) as server:
        async with linked(server.url, **settings) as rig:
            problem = await rig.until_down()
    assert says in problem
    assert advises in problem


async def test_an_unknown_authority_is_refused_and_named_as_that(authority: Authority) -> None:
    async with ServerDouble(serve, tls=authority.server()) as server, linked(server.url) as rig:
        problem = await rig.until_down()
        assert "not trusted here" in problem
        assert "server.ca_file" in problem


async def test_a_wrong_address_is_told_from_a_wrong_name(authority: Authority, tmp_path: Path) -> None:
    settings = {"ca_file": str(authority.ca_file(tmp_path))}
    async with (
        ServerDouble(serve, tls=authority.server()) as server,
        linked(f"https://127.0.0.1:{server.port}", **settings) as rig,
    ):
        assert "is not for 127.0.0.1" in await rig.until_down()


async def test_tls_towards_a_plain_port_says_so() -> None:
    async def complain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    async with listening(complain) as url, linked(url.replace("http", "https")) as rig:
        assert "without TLS on this port" in await rig.until_down()


async def test_plain_http_towards_a_tls_port_says_so(authority: Authority) -> None:
    async with (
        ServerDouble(serve, tls=authority.server()) as server,
        linked(f"http://localhost:{server.port}") as rig,
    ):
        problem = await rig.until_down()
        assert "https://" in problem or "without an answer" in problem


async def test_a_server_that_hangs_up_or_says_nothing_during_the_handshake_says_so() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with listening(hang_up) as url, linked(url.replace("http", "https")) as rig:
        assert "ended the connection during the TLS handshake" in await rig.until_down()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with (
        listening(say_nothing) as url,
        linked(url.replace("http", "https"), timings=shorter(tls_s=0.1)) as rig,
    ):
        assert "did not finish the TLS handshake in time" in await rig.until_down()


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not PEM")
    chain, key = authority.client_files(tmp_path)
    for settings, name in (
        (ServerConfig(ca_file=str(tmp_path / "missing.pem")), "server.ca_file"),
        (ServerConfig(ca_file=str(garbage)), "server.ca_file"),
        (ServerConfig(client_cert_file=str(garbage)), "server.client_cert_file"),
        (
            ServerConfig(client_cert_file=str(chain), client_key_file=str(tmp_path / "none")),
            "server.client_cert_file",
        ),
    ):
        with pytest.raises(ConfigError, match=name):
            tls.client_context(settings)
    tls.client_context(ServerConfig(client_cert_file=str(chain), client_key_file=str(key)))


def test_an_encrypted_key_is_refused_without_asking_on_the_terminal(
    authority: Authority, tmp_path: Path
) -> None:
    chain, key = authority.client_files(tmp_path)
    private = pem.load_pem_private_key(key.read_bytes(), None)
    locked = private.private_bytes(
        pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"word")
    )
    key.write_bytes(locked)
    with pytest.raises(ConfigError, match="without a passphrase"):
        tls.client_context(ServerConfig(client_cert_file=str(chain), client_key_file=str(key)))


def test_the_context_checks_names_and_refuses_old_protocols() -> None:
    context = tls.client_context(ServerConfig())
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_unusable_files_hold_up_the_dial_with_their_name(tmp_path: Path) -> None:
    settings = {"ca_file": str(tmp_path / "missing.pem")}
    async with ServerDouble(serve) as server, linked(f"https://localhost:{server.port}", **settings) as rig:
        assert "server.ca_file" in await rig.until_down()


def test_a_handshake_error_without_a_known_reason_is_still_told() -> None:
    kind, message = tls.explain(ssl.SSLError(1, "odd"), "box")
    assert kind == "tls_failed"
    assert "box" in message
