"""From a URL to an upgrade: what is dialled, through what, and what each refusal means."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from websockets.http11 import Response

from obt_agent.config.schema import ServerConfig
from obt_agent.errors import ConfigError
from obt_agent.identity.secret import Secret
from obt_agent.link.address import parse_address
from obt_agent.link.dial import connect, dial
from obt_agent.link.disconnect import DialFailed, DisconnectReason, NextDial
from tests.link.authority import Authority
from tests.link.doubles import PATIENCE_S, TIMINGS, linked, shorter
from tests.link.proxy_doubles import HttpProxyDouble, SocksProxyDouble
from tests.link.server_double import Peer, ServerDouble, listening, refusal


async def serve(peer: Peer) -> None:
    await peer.admit()
    await peer.until_closed()


async def failed_dial(url: str, **more: Any) -> DisconnectReason:
    """Dial once; how it ended."""
    timings = more.pop("timings", TIMINGS)
    server = ServerConfig(url=url, **more)
    address = parse_address(url, allow_insecure=server.allow_insecure)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(DialFailed) as caught:
            await dial(address, server, timings, Secret("canary-secret"))
    return caught.value.ending


@pytest.mark.parametrize(
    ("url", "dialled"),
    [
        ("https://obt.example.org", "wss://obt.example.org/api/v1/agents/connect"),
        ("https://obt.example.org:8443/base/", "wss://obt.example.org:8443/base/api/v1/agents/connect"),
        ("wss://obt.example.org/other", "wss://obt.example.org/other"),
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/api/v1/agents/connect"),
        ("http://[::1]:8000", "ws://[::1]:8000/api/v1/agents/connect"),
        ("ws://localhost/api/v1/agents/connect", "ws://localhost/api/v1/agents/connect"),
    ],
)
def test_the_path_is_added_to_a_web_address(url: str, dialled: str) -> None:
    assert parse_address(url).socket_url == dialled


def test_the_enrolment_stands_beside_the_socket() -> None:
    assert parse_address("https://h/base").enroll_path == "/base/api/v1/agents/enroll"


@pytest.mark.parametrize("url", ["http://obt.example.org", "ws://10.0.0.1/x", "http://127.0.0.1.example.org"])
def test_clear_text_to_another_machine_is_refused_unless_the_owner_allows_it(url: str) -> None:
    with pytest.raises(ConfigError, match="allow_insecure"):
        parse_address(url)
    assert not parse_address(url, allow_insecure=True).secure


@pytest.mark.parametrize(
    "url", ["obt.example.org", "ftp://h", "https://", "https://h:x", "https://u:canary@h"]
)
def test_what_is_no_address_of_a_server_is_refused_without_repeating_secrets(url: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.url") as caught:
        parse_address(url)
    assert "canary" not in str(caught.value)


REFUSALS = [
    (refusal(401), NextDial.REFUSED, 0.0, "credential"),
    (refusal(403), NextDial.REFUSED, 0.0, "403"),
    (refusal(404), NextDial.MAX_BACKOFF, 0.0, "server.url"),
    (refusal(426), NextDial.MAX_BACKOFF, 0.0, "obt.v1"),
    (refusal(429, {"Retry-After": "120"}), NextDial.REDIAL, 120.0, "less often"),
    (refusal(503, {"Retry-After": "7"}), NextDial.REDIAL, 7.0, "not available"),
    (refusal(503), NextDial.REDIAL, 0.0, "not available"),
    (refusal(500), NextDial.REDIAL, 0.0, "HTTP 500"),
    (refusal(200), NextDial.REDIAL, 0.0, "HTTP 200"),
    (
        refusal(302, {"Location": "https://evil.example.org/?token=canary"}),
        NextDial.MAX_BACKOFF,
        0.0,
        "redirect",
    ),
]


@pytest.mark.parametrize(("answer", "next_", "floor_s", "says"), REFUSALS)
async def test_each_refusal_before_the_upgrade_has_its_meaning(
    answer: Response, next_: NextDial, floor_s: float, says: str
) -> None:
    async with ServerDouble(serve, refusals=[answer]) as server:
        ending = await failed_dial(server.url)
        assert ending.next is next_
        assert ending.floor_s == floor_s
        assert says in ending.message
        assert "canary" not in ending.message
        assert not ending.revoked
        assert len(server.requests) == 1


async def test_a_redirect_is_not_followed_even_to_the_same_server() -> None:
    async with ServerDouble(serve) as server:
        server.refusals.append(refusal(307, {"Location": server.url + "/api/v1/agents/connect"}))
        ending = await failed_dial(server.url)
        assert ending.kind == "redirect"
        assert len(server.requests) == 1


async def test_a_websocket_without_our_subprotocol_is_not_used() -> None:
    async with ServerDouble(serve, subprotocol=None) as server:
        ending = await failed_dial(server.url)
        assert ending.kind == "no_subprotocol"
        assert ending.next is NextDial.MAX_BACKOFF


GARBAGE = [
    b"\x00\x01\x02 nothing like HTTP\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 abc\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
]


@pytest.mark.parametrize("answer", GARBAGE)
async def test_garbage_in_place_of_the_upgrade_is_said_to_be_that(answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with listening(talk) as url:
        ending = await failed_dial(url)
        assert ending.kind == "upgrade_garbage"
        assert ending.next is NextDial.REDIAL


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close at once."""


async def test_a_server_that_hangs_up_on_the_upgrade_is_told_from_garbage() -> None:
    async with listening(_hang_up) as url:
        assert (await failed_dial(url)).kind == "upgrade_cut"


async def test_a_server_that_says_nothing_is_given_up_at_the_deadline() -> None:
    async with listening(lambda reader, _writer: reader.read()) as url:
        ending = await failed_dial(url, timings=shorter(upgrade_s=0.05))
        assert ending.kind == "upgrade_timeout"


async def test_a_closed_port_is_said_to_be_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        ending = await failed_dial(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert ending.kind == "connect_failed"


async def test_a_host_that_does_not_answer_is_given_up_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # fill the backlog: the next SYN gets no answer
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        ending = await failed_dial(f"http://127.0.0.1:{port}", timings=shorter(connect_s=0.1))
        for sock in waiting:
            sock.close()
    assert ending.kind == "connect_timeout"


async def test_a_name_without_an_address_is_said_to_have_none() -> None:
    ending = await failed_dial("https://obt.invalid")
    assert ending.kind in {"resolve_failed", "resolve_timeout"}


async def test_a_resolver_that_hangs_is_given_up_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(*_: object, **__: object) -> list[object]:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(5)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)  # no resolver can be made to hang from here
    ending = await failed_dial("https://obt.example.org", timings=shorter(resolve_s=0.05))
    assert ending.kind == "resolve_timeout"
    gate.set()


async def test_the_second_address_is_tried_when_the_first_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ServerDouble(serve) as server:
        real = socket.getaddrinfo

        def two(host: str, port: int, **more: object) -> object:
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("100::1", port, 0, 0)),
                *real("127.0.0.1", port, type=socket.SOCK_STREAM),
            ]

        monkeypatch.setattr(socket, "getaddrinfo", two)  # the machine's resolver has no such name
        sock = await connect("two.example.org", server.port, TIMINGS)
        assert sock.getpeername()[1] == server.port
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sock.close()


async def test_a_credential_that_cannot_stand_in_a_header_is_refused_without_being_shown() -> None:
    async with ServerDouble(serve) as server:
        config = ServerConfig(url=server.url)
        for secret in ("", "two words", "line\r\nX-Evil: canary", "ümlaut"):
            with pytest.raises(DialFailed) as caught:
                await dial(parse_address(server.url), config, TIMINGS, Secret(secret))
            assert caught.value.ending.kind == "credential_unusable"
            assert "canary" not in caught.value.ending.message
        assert not server.requests


# Proxies


async def test_an_http_proxy_of_the_configuration_is_used_with_its_credentials() -> None:
    async with (
        ServerDouble(serve) as server,
        HttpProxyDouble(server.port, username="u", password="p@ss") as proxy,
    ):
        settings = {"proxy": f"http://u:p%40ss@127.0.0.1:{proxy.port}"}
        async with linked("http://obt.test:81", allow_insecure=True, **settings) as rig:
            await rig.session()
        assert proxy.asked == ["obt.test:81"]
        assert proxy.credentials == ["u:p@ss"]
        assert server.requests[0].headers["Host"] == "obt.test:81"


async def test_tls_runs_through_a_proxy_to_the_server_itself(tmp_path: Path) -> None:
    authority = Authority()
    tls = {"ca_file": str(authority.ca_file(tmp_path))}
    async with ServerDouble(serve, tls=authority.server("obt.test")) as server:
        async with HttpProxyDouble(server.port) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            async with linked("https://obt.test", proxy=url, **tls) as rig:
                await rig.session()
        assert proxy.asked == ["obt.test:443"]


async def test_a_socks5_proxy_resolves_the_name_itself_when_it_is_socks5h() -> None:
    async with (
        ServerDouble(serve) as server,
        SocksProxyDouble(server.port, username="u", password="p") as proxy,
    ):
        url = f"socks5h://u:p@127.0.0.1:{proxy.port}"
        async with linked("http://obt.test", allow_insecure=True, proxy=url) as rig:
            await rig.session()
        assert proxy.asked == ["obt.test:80"]
        assert proxy.credentials == ["u:p"]


async def test_a_socks5_proxy_without_h_gets_an_address() -> None:
    async with ServerDouble(serve) as server, SocksProxyDouble(server.port) as proxy:
        async with linked("http://localhost:80", proxy=f"socks5://127.0.0.1:{proxy.port}") as rig:
            await rig.session()
        assert proxy.asked == ["127.0.0.1:80"] or proxy.asked[0].startswith("0.0.")


async def test_the_environments_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ServerDouble(serve) as server, SocksProxyDouble(server.port) as proxy:
        monkeypatch.setenv("all_proxy", f"socks5h://127.0.0.1:{proxy.port}")
        async with linked("http://obt.test", allow_insecure=True) as rig:
            await rig.session()
        assert proxy.asked == ["obt.test:80"]


async def test_a_proxys_refusals_are_told_without_its_password() -> None:
    async with HttpProxyDouble(1, username="u", password="right") as proxy:
        url = f"http://u:canary@127.0.0.1:{proxy.port}"
        ending = await failed_dial("https://obt.test", proxy=url)
        assert ending.kind == "proxy_refused"
        assert "407" in ending.message
        assert "canary" not in ending.message
        proxy.garbage = True
        assert (await failed_dial("https://obt.test", proxy=url)).kind == "proxy_refused"
        proxy.silent = True
        ending = await failed_dial("https://obt.test", proxy=url, timings=shorter(proxy_s=0.05))
        assert ending.kind == "proxy_timeout"
    ending = await failed_dial("https://obt.test", proxy=url)
    assert ending.kind == "proxy_unreachable"
    async with SocksProxyDouble(1, username="u", password="right") as proxy:
        ending = await failed_dial("https://obt.test", proxy=f"socks5h://u:canary@127.0.0.1:{proxy.port}")
        assert ending.kind == "proxy_refused"
        assert "canary" not in ending.message
