"""The looks at the way to the server, against real sockets."""

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from obt_agent.config.schema import ServerConfig
from obt_agent.doctor import server as doctor
from obt_agent.doctor.findings import Finding
from obt_agent.identity.secret import Secret
from obt_agent.link import disconnect, tls
from tests.doctor.paths import SHORT, Server, running, settings, tls_context
from tests.link.authority import Authority

TOKEN = Secret("obta_a-secret-of-the-test")


async def looked(
    given: ServerConfig, secret: Secret | None = TOKEN, pins: tuple[str, ...] = ()
) -> dict[str, Finding]:
    async with asyncio.timeout(30):
        checks = doctor.check(given, secret, timings=SHORT, pins=pins)
        return {finding.check: finding async for finding in checks}


def levels(found: dict[str, Finding]) -> dict[str, str]:
    return {check: finding.level for check, finding in found.items()}


@pytest.fixture
def trusted(tmp_path: Path) -> tuple[trustme.CA, dict[str, str]]:
    ca = trustme.CA(organization_name="Test Authority")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    return ca, {"ca_file": str(tmp_path / "ca.pem")}


async def test_every_step_is_reported_when_all_is_well(trusted: tuple[trustme.CA, dict[str, str]]) -> None:
    ca, tls = trusted
    async with running(Server(), tls_context(ca)) as server:
        found = await looked(settings(server, tls))
    assert set(levels(found).values()) == {"ok"}
    assert list(found) == [
        "server.dns",
        "server.proxy",
        "server.tcp",
        "server.tls",
        "server.upgrade",
        "server.token",
        "server.version",
        "server.clock",
    ]
    assert "TLSv1.3, certificate by Test Authority" in found["server.tls"].message
    assert "test-server/1" in found["server.version"].message


async def test_the_check_ends_before_the_hello_so_that_no_running_agent_is_disturbed() -> None:
    async with running(Server()) as server:
        await looked(settings(server))
        assert server.shown == [f"Bearer {TOKEN.reveal()}"]
    assert server.heard == []


async def test_no_finding_shows_the_credential() -> None:
    for status in (101, 401, 403, 500):
        async with running(Server(status)) as server:
            found = await looked(settings(server))
        assert TOKEN.reveal() not in repr(found)


@pytest.mark.parametrize(
    ("status", "check", "words"),
    [
        (401, "server.token", "refused the credential"),
        (403, "server.token", "refused the connection"),
        (404, "server.upgrade", "check server.url"),
        (426, "server.upgrade", "obt.v1"),
        (302, "server.upgrade", "redirect"),
        (503, "server.upgrade", "not available"),
        (200, "server.upgrade", "HTTP 200"),
    ],
)
async def test_an_answer_other_than_yes_is_reported_with_what_to_do(
    status: int, check: str, words: str
) -> None:
    async with running(Server(status)) as server:
        found = await looked(settings(server))
    assert found[check].level == "failure"
    assert words in found[check].message
    assert found[check].remedy


@pytest.mark.parametrize("status", [101, 401])
async def test_without_a_credential_it_is_still_reported_whether_a_server_answers(status: int) -> None:
    async with running(Server(status)) as server:
        found = await looked(settings(server), None)
    assert found["server.upgrade"].level == "ok"
    assert "server.token" not in found


async def test_a_clock_that_is_off_is_reported() -> None:
    ahead = (datetime.now(UTC) + timedelta(hours=2)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    async with running(Server(date=ahead, name=None)) as server:
        found = await looked(settings(server))
    assert found["server.clock"].level == "warning"
    assert "ahead of" in found["server.clock"].message
    assert "NTP" in (found["server.clock"].remedy or "")


async def test_a_server_that_sends_no_time_is_no_fault() -> None:
    async with running(Server(date="half past three")) as server:
        found = await looked(settings(server))
    assert found["server.clock"].level == "skipped"


async def test_a_certificate_that_ends_soon_is_reported(trusted: tuple[trustme.CA, dict[str, str]]) -> None:
    ca, tls = trusted
    soon = tls_context(ca, not_after=datetime.now(UTC) + timedelta(days=3))
    async with running(Server(), soon) as server:
        found = await looked(settings(server, tls))
    assert found["server.tls"].level == "warning"
    assert "ends in" in found["server.tls"].message


async def test_a_pinned_key_stands_for_authority_and_dates() -> None:
    context, pin = Authority().pinned_server("another.name")
    async with running(Server(), context) as server:
        found = await looked(settings(server), pins=(pin,))
        assert (found["server.tls"].level, found["server.token"].level) == ("ok", "ok")
        assert pin in found["server.tls"].message
        found = await looked(settings(server), pins=("sha256-" + "A" * 43,))
    assert found["server.tls"].level == "failure"
    assert "--enroll-again" in (found["server.tls"].remedy or "")
    assert "server.upgrade" not in found


async def test_an_unknown_authority_is_a_failure_of_tls(trusted: tuple[trustme.CA, dict[str, str]]) -> None:
    async with running(Server(), tls_context(trusted[0])) as server:
        found = await looked(settings(server))
    assert found["server.tls"].level == "failure"
    assert "server.ca_file" in found["server.tls"].message
    assert "server.ca_file" in (found["server.tls"].remedy or "")
    assert "server.upgrade" not in found


def test_every_way_that_a_dial_fails_has_a_remedy_of_its_own() -> None:
    handshakes = {kind for _, kind, _ in tls._HANDSHAKE}  # noqa: SLF001 - so that none is forgotten
    certificates = {"tls_expired", "tls_not_yet_valid", "tls_wrong_host", "tls_unknown_ca", "tls_timeout"}
    pinned = {"tls_wrong_key", "tls_pin_without_tls"}
    answers = {kind for kind, _, _ in disconnect._STATUS.values()}  # noqa: SLF001 - the same
    assert (handshakes | certificates | pinned | answers) - set(doctor.REMEDIES) == set()


async def test_a_name_that_does_not_exist_is_a_failure_of_dns() -> None:
    found = await looked(settings("wss://no-such-host.invalid/api/v1/agents/connect"))
    assert levels(found) == {"server.dns": "failure"}


async def test_a_port_where_nothing_listens_is_a_failure_of_tcp() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        found = await looked(settings(f"ws://127.0.0.1:{port}/"))
    assert levels(found) == {"server.dns": "ok", "server.proxy": "ok", "server.tcp": "failure"}


async def test_a_proxy_that_is_away_is_reported() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{unused.getsockname()[1]}"
        found = await looked(settings("wss://obt.example.org/", proxy=proxy))
    assert found["server.proxy"].level == "failure"
    assert "server.dns" not in found


async def test_a_proxy_that_cannot_be_used_is_reported() -> None:
    found = await looked(settings("wss://obt.example.org/", proxy="ftp://proxy"))
    assert levels(found) == {"server.proxy": "failure"}


async def test_an_address_that_cannot_be_used_is_reported() -> None:
    given = ServerConfig(url="ws://obt.example.org/")
    found = await looked(given)
    assert levels(found) == {"server.address": "failure"}
