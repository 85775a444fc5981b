"""Enrolment: a credential of one's own for a one-time join token.

The agent makes its secret itself, keeps it before it asks, and sends only its sha256. A join whose answer was
lost is repeated with the same hash, and gets the same answer: it burns no token.

It is one POST over the link's own connector: same proxies, same TLS, no redirects, a bounded answer, parsed
by the standard library.
"""

from __future__ import annotations

import asyncio
import http.client
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec
import structlog
import tenacity

from obt_agent.config.schema import ServerConfig
from obt_agent.errors import AdmissionRefused
from obt_agent.identity.credentials import Credentials
from obt_agent.identity.secret import Secret
from obt_agent.link.address import Address, parse_address
from obt_agent.link.bearer import bearer
from obt_agent.link.dial import open_channel
from obt_agent.link.disconnect import SHOWN_CHARS, DialFailed, dial_failed, retry_after_s
from obt_agent.link.timings import LinkTimings
from obt_agent.link.tls import pins_in_force
from obt_agent.link.wire import USER_AGENT
from obt_agent.printable import printable
from obt_agent.protocol.admission import ServerIdentity
from obt_agent.protocol.server_key import split_join_token

log = structlog.get_logger(__name__)

MAX_ANSWER_BYTES: Final = 64 << 10

_TRIES: Final = 3
_LONGEST_WAIT_S: Final = 10.0
"""Somebody sits before the terminal: a server that is away for longer is reported, not waited for."""

_OK: Final = frozenset({200, 201})
_FINAL: Final = frozenset({400, 401, 404, 409, 422})
_HINTS: Final = {
    401: "The server refused the join token as wrong, used, expired or revoked. Ask for a new one.",
    403: "The server, or a proxy before it, refused the request (HTTP 403).",
    404: "The server has no enrolment at this address (HTTP 404); check the URL.",
    409: "The server knows another agent by this identity.",
    429: "The server asks to try less often (HTTP 429).",
    503: "The server is not available now (HTTP 503).",
}
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding a body raises that is no JSON, no UTF-8, or nested without end."""


class EnrolAgent(msgspec.Struct, frozen=True, kw_only=True):
    """Who enrols."""

    id: str
    name: str
    version: str


class _EnrolmentRequest(msgspec.Struct, frozen=True, kw_only=True):
    agent: EnrolAgent
    secret_sha256: str


class _EnrolmentReply(msgspec.Struct, frozen=True, kw_only=True):
    agent_id: str
    server: ServerIdentity = ServerIdentity()


class _Problem(msgspec.Struct, frozen=True, kw_only=True):
    message: str = ""


class _ProblemBody(msgspec.Struct, frozen=True, kw_only=True):
    error: _Problem = _Problem()


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The server knows this agent now; ``pins`` are those of its keys, none where authorities decide."""

    agent_id: str
    server: ServerIdentity
    pins: tuple[str, ...] = ()


async def enroll(
    server: ServerConfig,
    join_token: Secret,
    *,
    agent: EnrolAgent,
    credentials: Credentials,
    timings: LinkTimings = LinkTimings(),  # noqa: B008 - immutable
) -> Enrolled:
    """Enrol this agent; its credential is stored when this returns.

    What may pass (a lost connection, HTTP 429, 502, 503, 504) is tried three times.

    Args:
        server: where, and how to get there.
        join_token: from the server's operator, good for one agent. Pins behind it are checked before it is
            sent, and kept beside the credential, unless ``server.ca_file`` decides whom to trust.
        agent: identity, name and version.
        credentials: where the secret is kept.
        timings: deadlines.

    Raises:
        ConfigError: the address cannot be used, or the state folder cannot be written.
        AdmissionRefused: the server cannot be reached, or refused; the message says what to do. ``retryable``
            says whether the same token may still do.
    """
    address = parse_address(server.url or "", allow_insecure=server.allow_insecure)
    text, pins = split_join_token(join_token.reveal())
    pins = pins_in_force(server, pins)
    secret = await asyncio.to_thread(credentials.pending_join, address.authority)
    body = msgspec.json.encode(_EnrolmentRequest(agent=agent, secret_sha256=secret.sha256()))
    tries = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(_TRIES),
        retry=tenacity.retry_if_exception(_may_pass),
        wait=_wait_s,
        before_sleep=_log_retry,
        reraise=True,
    )
    try:
        enrolled: Enrolled = await tries(_join, address, server, timings, Secret(text), pins, agent, body)
    except DialFailed as failed:
        raise AdmissionRefused(failed.ending.message) from failed
    await asyncio.to_thread(credentials.store_enrolled, secret, pins)
    log.info("link.enrolled", server=address.authority, agent_id=enrolled.agent_id)
    return enrolled


_MAY_PASS: Final = frozenset({"connect_failed", "http_cut", "http_timeout"})
_WAIT_S: Final = tenacity.wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT_S)


def _may_pass(error: BaseException) -> bool:
    """Whether trying again soon may help: a wrong name, certificate or token stays wrong."""
    if isinstance(error, DialFailed):
        return error.ending.kind in _MAY_PASS
    return (
        isinstance(error, AdmissionRefused)
        and error.detail.get("http_status") in {429, 502, 503, 504}
        and (error.retry_after_ms or 0) <= _LONGEST_WAIT_S * 1000
    )


def _wait_s(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked_ms = error.retry_after_ms if isinstance(error, AdmissionRefused) else None
    return max(_WAIT_S(state), (asked_ms or 0) / 1000)


def _log_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    log.warning("link.enrolment_retried", attempt=state.attempt_number, reason=str(error))


async def _join(
    address: Address,
    server: ServerConfig,
    timings: LinkTimings,
    token: Secret,
    pins: tuple[str, ...],
    agent: EnrolAgent,
    body: bytes,
) -> Enrolled:
    answer = await post_json(address, address.enroll_path, body, server, timings, secret=token, pins=pins)
    if answer.status not in _OK:
        raise _refused(answer)
    try:
        enrolled = msgspec.json.decode(answer.body, type=_EnrolmentReply)
    except _UNREADABLE as error:
        message = f"{address.authority} answered with something else than an OBT server does; check the URL."
        raise AdmissionRefused(message) from error
    # The server would know the credential as that agent's, and refuse every hello of this one.
    if enrolled.agent_id != agent.id:
        raise AdmissionRefused("The server enrolled another identity than this agent's.", retryable=False)
    return Enrolled(enrolled.agent_id, enrolled.server, pins)


def _refused(answer: HttpResponse) -> AdmissionRefused:
    message = _HINTS.get(answer.status, f"The server answered with HTTP {answer.status}.")
    reason = _problem(answer.body)
    wait_s = retry_after_s(answer.retry_after, datetime.now(UTC))
    return AdmissionRefused(
        f"{message} ({reason})" if reason else message,
        retryable=answer.status not in _FINAL,
        retry_after_ms=int(wait_s * 1000) or None,
        http_status=answer.status,
    )


def _problem(body: bytes) -> str:
    """The server's own words, if it sent any that can be shown."""
    try:
        return printable(msgspec.json.decode(body, type=_ProblemBody).error.message, SHOWN_CHARS)
    except _UNREADABLE:
        return ""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """Status, ``Retry-After`` if any, and the body."""

    status: int
    retry_after: str | None
    body: bytes


async def post_json(
    address: Address,
    path: str,
    body: bytes,
    server: ServerConfig,
    timings: LinkTimings,
    *,
    secret: Secret | None = None,
    pins: Sequence[str] = (),
) -> HttpResponse:
    """POST a JSON body.

    Args:
        address: the server.
        path: the request's target.
        body: JSON.
        server: proxy and TLS.
        timings: deadlines.
        secret: goes into the ``Authorization`` header and nowhere else; None for a request without one.
        pins: the server's keys that it may be shown to; empty for any that is trusted.

    Raises:
        DialFailed: there was no answer that is HTTP.
    """
    head = _head(address, path, len(body), None if secret is None else bearer(secret))
    channel = await open_channel(address, server, timings, pins)
    collector = _Collector()
    try:
        channel.transport.set_protocol(collector)
        channel.transport.write(head + body)
        async with asyncio.timeout(timings.upgrade_s):
            data = await collector.whole
    except TimeoutError as error:
        raise dial_failed(
            "http_timeout", f"{address.authority} took the request and did not answer."
        ) from error
    finally:
        channel.abort()
    if not data:
        raise dial_failed("http_cut", f"{address.authority} ended the connection without an answer.")
    return _parse(data, address)


def _head(address: Address, path: str, body_bytes: int, authorization: str | None) -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: {address.authority}",
        f"User-Agent: {USER_AGENT}",
        *([] if authorization is None else [f"Authorization: {authorization}"]),
        "Content-Type: application/json",
        f"Content-Length: {body_bytes}",
        "Accept: application/json",
        # ``http.client`` unpacks nothing.
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode("latin-1")


class _Collector(asyncio.Protocol):
    """Gathers everything until the other side closes."""

    def __init__(self) -> None:
        self.whole: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._data = bytearray()

    def data_received(self, data: bytes) -> None:
        self._data += data
        # What came so far is read all the same: its status says more than its length.
        if len(self._data) > MAX_ANSWER_BYTES:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the answer may be whole anyway
        self._end()

    def _end(self) -> None:
        if not self.whole.done():
            self.whole.set_result(bytes(self._data))


class _Socket:
    """What ``http.client`` reads an answer from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def _parse(data: bytes, address: Address) -> HttpResponse:
    response = http.client.HTTPResponse(cast("Any", _Socket(data)), method="POST")
    try:
        response.begin()
        body = response.read(MAX_ANSWER_BYTES)
    except (http.client.HTTPException, ValueError, OSError) as error:
        raise dial_failed(
            "http_garbage",
            f"What answers at {address.authority} is no web server: check host and port, and whether it is "
            "http:// or https://.",
        ) from error
    return HttpResponse(response.status, response.headers.get("Retry-After"), body)
