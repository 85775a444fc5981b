"""Enrolment at the wire: one POST, the agent's own secret, and what each answer means."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.config.schema import ServerConfig
from obt_agent.errors import AdmissionRefused
from obt_agent.identity.credentials import Credentials
from obt_agent.identity.secret import Secret
from obt_agent.link.disconnect import retry_after_s
from obt_agent.link.enroll import MAX_ANSWER_BYTES, EnrolAgent, Enrolled, enroll
from obt_agent.protocol.admission import ServerIdentity
from tests.link.authority import Authority
from tests.link.doubles import PATIENCE_S, TIMINGS, shorter
from tests.link.proxy_doubles import HttpProxyDouble
from tests.link.server_double import listening

AGENT = EnrolAgent(id="0190-agent", name="box", version="1.0")
ANSWER = {"agent_id": "0190-agent", "server": {"name": "obt", "version": "2"}}


class Joins(Credentials):
    """Keeps the secret of a join in memory."""

    def __init__(self) -> None:  # nothing of the real one's: no folder
        self.secret = Secret("own-canary-secret")
        self.servers: list[str] = []
        self.stored: Secret | None = None
        self.pins: tuple[str, ...] | None = None

    def pending_join(self, server: str) -> Secret:
        self.servers.append(server)
        return self.secret

    def store_enrolled(self, secret: Secret, pins: Sequence[str] = ()) -> None:
        self.stored, self.pins = secret, tuple(pins)


class Desk:
    """Answers every POST with the next answer, the last one again and again; keeps the requests."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, bytes]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(
            next(line for line in head.split("\r\n") if line.startswith("Content-Length")).split()[1]
        )
        self.requests.append((head, await reader.readexactly(length)))
        writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        await writer.drain()


def answer(status: int, body: Any, *headers: str) -> bytes:
    data = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Something", f"Content-Length: {len(data)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


async def join(url: str, joins: Joins | None = None, **settings: Any) -> Enrolled:
    timings, token = settings.pop("timings", TIMINGS), settings.pop("token", Secret("join-canary"))
    async with asyncio.timeout(PATIENCE_S):
        return await enroll(
            ServerConfig(url=url, **settings),
            token,
            agent=AGENT,
            credentials=joins or Joins(),
            timings=timings,
        )


async def test_only_the_hash_of_the_agents_own_secret_is_sent_and_the_secret_is_kept() -> None:
    desk, joins = Desk(answer(200, ANSWER)), Joins()
    async with listening(desk.serve) as url:
        enrolled = await join(url, joins)
    assert enrolled == Enrolled("0190-agent", ServerIdentity(name="obt", version="2"))
    head, body = desk.requests[0]
    assert head.startswith("POST /api/v1/agents/enroll HTTP/1.1\r\n")
    assert "Authorization: Bearer join-canary\r\n" in head
    assert json.loads(body) == {
        "agent": {"id": "0190-agent", "name": "box", "version": "1.0"},
        "secret_sha256": joins.secret.sha256(),
    }
    assert b"own-canary-secret" not in body + head.encode()
    assert joins.stored is joins.secret
    assert joins.servers == [url.removeprefix("http://")]


async def test_a_join_whose_answer_was_lost_is_repeated_with_the_same_hash() -> None:
    desk, joins = Desk(b"", answer(200, ANSWER)), Joins()
    async with listening(desk.serve) as url:
        await join(url, joins)
    assert desk.requests[0][1] == desk.requests[1][1]
    assert joins.stored is not None


async def test_a_server_that_is_busy_for_a_moment_is_tried_again() -> None:
    desk, joins = Desk(answer(503, {}), answer(429, {}, "Retry-After: 1"), answer(200, ANSWER)), Joins()
    async with listening(desk.serve) as url:
        await join(url, joins)
    assert len(desk.requests) == 3
    assert joins.stored is not None


@pytest.mark.parametrize("status", [401, 503])
async def test_what_stays_wrong_or_asks_for_a_long_wait_is_not_tried_again(status: int) -> None:
    desk = Desk(answer(status, {}, "Retry-After: 60"))
    async with listening(desk.serve) as url:
        with pytest.raises(AdmissionRefused):
            await join(url)
    assert len(desk.requests) == 1


@pytest.mark.parametrize(
    ("status", "retryable", "says"),
    [
        (400, False, "HTTP 400"),
        (401, False, "join token"),
        (403, True, "403"),
        (404, False, "no enrolment at this address"),
        (409, False, "another agent"),
        (422, False, "HTTP 422"),
        (429, True, "less often"),
        (503, True, "not available"),
        (302, True, "HTTP 302"),
    ],
)
async def test_each_refusal_says_what_to_do(status: int, retryable: bool, says: str) -> None:
    problem = {"error": {"kind": "x", "message": "the server's\nown words"}}
    desk, joins = Desk(answer(status, problem, "Retry-After: 70", "Location: http://127.0.0.1:1/")), Joins()
    async with listening(desk.serve) as url:
        with pytest.raises(AdmissionRefused) as caught:
            await join(url, joins)
    assert says in caught.value.message
    assert "own words" in caught.value.message
    assert "\n" not in caught.value.message
    assert "canary" not in caught.value.message
    assert caught.value.retryable is retryable
    assert caught.value.retry_after_ms == 70_000
    assert joins.stored is None


@pytest.mark.parametrize(
    "raw",
    [
        answer(200, {"agent_id": 5}),
        answer(200, {"agent_id": "somebody-else", "server": {}}),
        answer(502, "<html>bad gateway</html>"),
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nno json",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_ANSWER_BYTES + 1),
    ],
)
async def test_an_answer_that_is_none_stores_nothing(raw: bytes) -> None:
    desk, joins = Desk(raw), Joins()
    async with listening(desk.serve) as url:
        with pytest.raises(AdmissionRefused):
            await join(url, joins)
    assert joins.stored is None


async def test_a_chunked_answer_is_read() -> None:
    body = json.dumps(ANSWER).encode()
    head = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with listening(Desk(chunked).serve) as url:
        assert (await join(url)).agent_id == "0190-agent"


async def test_a_server_that_does_not_answer_is_given_up_at_the_deadline() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(silent) as url:
        with pytest.raises(AdmissionRefused, match="did not answer"):
            await join(url, timings=shorter(upgrade_s=0.05))


async def test_enrolment_uses_the_same_tls_and_the_same_proxy_as_the_link(tmp_path: Path) -> None:
    authority = Authority()
    desk = Desk(answer(200, ANSWER))
    tls: dict[str, Any] = {"ca_file": str(authority.ca_file(tmp_path))}
    async with (
        listening(desk.serve, tls=authority.server("obt.test")) as url,
        HttpProxyDouble(int(url.rpartition(":")[2])) as proxy,
    ):
        enrolled = await join("https://obt.test", proxy=f"http://127.0.0.1:{proxy.port}", **tls)
    assert enrolled.agent_id == "0190-agent"
    assert proxy.asked == ["obt.test:443"]


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after_s(None, now) == 0
    assert retry_after_s(" 120 ", now) == 120
    assert retry_after_s("-5", now) == 0
    assert retry_after_s("soon", now) == 0
    assert retry_after_s("Thu, 01 Jan 2026 00:01:00 GMT", now) == 60
    assert retry_after_s("Thu, 01 Jan 2026 00:01:00 -0000", now) == 60
    assert retry_after_s("Wed, 31 Dec 2025 00:00:00 GMT", now) == 0
    assert retry_after_s("9" * 50, now) <= 10**9


@pytest.mark.parametrize(
    "value",
    [
        "Mon, 01 Jan 2026 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 99999999999999999999999 00:00:00 GMT",
        "Mon, 99 Jan 2026 99:99:99 GMT",
    ],
)
def test_a_date_that_no_calendar_holds_asks_for_nothing(value: str) -> None:
    assert retry_after_s(value, datetime(2026, 1, 1, tzinfo=UTC)) == 0


@given(st.text())
def test_whatever_retry_after_holds_it_is_a_number_of_seconds(value: str) -> None:
    assert retry_after_s(value, datetime(2026, 1, 1, tzinfo=UTC)) >= 0


@pytest.mark.parametrize("body", [b'{"agent_id":"\xff"}', b"[" * 20_000], ids=["no UTF-8", "no end"])
@pytest.mark.parametrize("status", [200, 401])
async def test_an_answer_that_cannot_be_decoded_is_refused_in_words(status: int, body: bytes) -> None:
    joins = Joins()
    reply = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
    async with listening(Desk(reply).serve) as url:
        with pytest.raises(AdmissionRefused):
            await join(url, joins)
    assert joins.stored is None
