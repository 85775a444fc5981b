"""Enrolment: a credential of one's own for a one-time join token.

The agent makes its secret itself, keeps it before it asks, and sends only its sha256. A join whose answer was
lost is repeated with the same hash, and gets the same answer: it burns no token.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog

from obt_agent.errors import AdmissionRefused
from obt_agent.identity.credentials import Credentials
from obt_agent.identity.secret import Secret
from obt_agent.link import http
from obt_agent.link.address import Address, parse_address
from obt_agent.link.disconnect import DialFailed, printable
from obt_agent.link.retry_after import retry_after_s
from obt_agent.link.settings import LinkSettings
from obt_agent.protocol.admission import ServerIdentity

log = structlog.get_logger(__name__)


class EnrolAgent(msgspec.Struct, frozen=True, kw_only=True):
    """Who enrols."""

    id: str
    name: str
    version: str


class _EnrollRequest(msgspec.Struct, frozen=True, kw_only=True):
    agent: EnrolAgent
    secret_sha256: str


class _EnrollAnswer(msgspec.Struct, frozen=True, kw_only=True):
    agent_id: str
    server: ServerIdentity = ServerIdentity()


class _Problem(msgspec.Struct, frozen=True, kw_only=True):
    message: str = ""


class _ProblemBody(msgspec.Struct, frozen=True, kw_only=True):
    error: _Problem = _Problem()


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The server knows this agent now."""

    agent_id: str
    server: ServerIdentity


async def enroll(
    settings: LinkSettings, join_token: Secret, *, agent: EnrolAgent, credentials: Credentials
) -> Enrolled:
    """Enrol this agent; its credential is stored when this returns.

    Args:
        settings: ``url`` is the server's.
        join_token: from the server's operator, good for one agent.
        agent: identity, name and version.
        credentials: where the secret is kept.

    Raises:
        ConfigError: the address cannot be used, or the state folder cannot be written.
        AdmissionRefused: the server cannot be reached, or refused; the message says what to do. ``retryable``
            says whether the same token may still do.
    """
    address = parse_address(settings.url, allow_insecure=settings.allow_insecure)
    secret = await asyncio.to_thread(credentials.pending_join, address.authority)
    body = msgspec.json.encode(_EnrollRequest(agent=agent, secret_sha256=secret.sha256()))
    try:
        answer = await http.post_json(address, address.enroll_path, body, settings, secret=join_token)
    except DialFailed as failed:
        raise AdmissionRefused(failed.ending.message) from failed
    enrolled = _read(answer, address, agent)
    await asyncio.to_thread(credentials.store_enrolled, secret)
    log.info("link.enrolled", server=address.authority, agent_id=enrolled.agent_id)
    return enrolled


_OK: Final = frozenset({200, 201})
_HINTS: Final = {
    401: "The server refused the join token: it is wrong, used, expired or revoked. Ask for a new one.",
    403: "The server, or a proxy before it, refused the request (HTTP 403).",
    404: "The server has no enrolment at this address (HTTP 404); check the URL.",
    409: "The server knows another agent by this identity.",
    429: "The server asks to try less often (HTTP 429).",
    503: "The server is not available now (HTTP 503).",
}
_FINAL: Final = frozenset({400, 401, 404, 409, 422})
_NOT_OURS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding a body raises that is no JSON, no UTF-8, or nested without end."""


def _read(answer: http.HttpResponse, address: Address, agent: EnrolAgent) -> Enrolled:
    if answer.status not in _OK:
        raise _refused(answer)
    try:
        body = msgspec.json.decode(answer.body, type=_EnrollAnswer)
    except _NOT_OURS as error:
        message = f"{address.authority} answered with something else than an OBT server does; check the URL."
        raise AdmissionRefused(message) from error
    if body.agent_id != agent.id:
        raise AdmissionRefused("The server enrolled another identity than this agent's.", retryable=False)
    return Enrolled(body.agent_id, body.server)


def _refused(answer: http.HttpResponse) -> AdmissionRefused:
    message = _HINTS.get(answer.status, f"The server answered with HTTP {answer.status}.")
    said = _problem(answer.body)
    wait_s = retry_after_s(answer.retry_after, datetime.now(UTC))
    return AdmissionRefused(
        f"{message} ({said})" if said else message,
        retryable=answer.status not in _FINAL,
        retry_after_ms=int(wait_s * 1000) or None,
    )


def _problem(body: bytes) -> str:
    """The server's own words, if it sent any that can be shown."""
    try:
        return printable(msgspec.json.decode(body, type=_ProblemBody).error.message)
    except _NOT_OURS:
        return ""
