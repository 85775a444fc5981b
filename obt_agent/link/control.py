"""Methods of the link itself: credit, liveness, drain, state, credentials. All others are the handler's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from obt_agent.errors import AgentError, Cancelled
from obt_agent.identity.credentials import Credentials
from obt_agent.link.session import LinkSession, RequestHandler
from obt_agent.protocol import codec
from obt_agent.protocol.admission import DrainParams, Empty, RotateParams, RotateResult
from obt_agent.protocol.envelope import Notification, Request, RequestId
from obt_agent.protocol.errors import to_wire
from obt_agent.protocol.state import StateKind, StateRequest
from obt_agent.protocol.streams import LinkCredit, StreamCredit, StreamsAlive

log = structlog.get_logger(__name__)


class ControlMethods(RequestHandler):
    """Handles the link's own methods for one session, and hands all others on.

    Args:
        handler: who answers all others.
        candidates: where ``credentials.rotate`` keeps the new credential.
        on_state_request: called with the states that the server asks for again.
    """

    def __init__(
        self,
        handler: RequestHandler,
        candidates: Credentials,
        on_state_request: Callable[[Sequence[StateKind]], None],
    ) -> None:
        self._handler = handler
        self._candidates = candidates
        self._on_state_request = on_state_request
        # Seconds after which the server wants to be dialled again, as ``server.drain`` said.
        self.retry_after_s = 0.0
        # The last ``credentials.rotate``; each waits for the one before.
        self._rotating: asyncio.Task[None] | None = None
        # Streams that the last ``streams.alive`` left out. Twice in a row ends a stream: the first may have
        # crossed the request on its way.
        self._absent: frozenset[RequestId] = frozenset()
        self._requests: Final = {"credentials.rotate": self._rotate, "state.request": self._state_request}
        self._notifications: Final = {
            "stream.credit": self._stream_credit,
            "link.credit": self._link_credit,
            "streams.alive": self._streams_alive,
            "server.drain": self._drain,
            "link.alive": _alive,
        }

    def on_request(self, session: LinkSession, request: Request) -> None:
        """Answer a request of the link itself; the handler answers any other."""
        method = self._requests.get(request.method)
        if method is None:
            self._handler.on_request(session, request)
            return
        try:
            method(session, request)
        except AgentError as error:
            session.respond_error(request.id, to_wire(error))

    def on_notification(self, session: LinkSession, notification: Notification) -> None:
        """Take a notification of the link itself; the handler takes any other.

        Raises:
            InvalidParams: its parameters are wrong.
        """
        method = self._notifications.get(notification.method) or self._handler.on_notification
        method(session, notification)

    def session_ended(self, session: LinkSession) -> None:
        """Stop what is under way, and tell the handler, if it heard of the session at all."""
        if self._rotating is not None:
            self._rotating.cancel()
        if session.hello_result is not None:
            self._handler.session_ended(session)

    def _state_request(self, session: LinkSession, request: Request) -> None:
        kinds = codec.convert(request.params, StateRequest).kinds
        session.respond(request.id, Empty())
        self._on_state_request(kinds)

    def _rotate(self, session: LinkSession, request: Request) -> None:
        params = codec.convert(request.params, RotateParams)
        previous = self._rotating
        self._rotating = asyncio.get_running_loop().create_task(
            self._store_candidate(session, request.id, params, previous), name="credentials-rotate"
        )

    async def _store_candidate(
        self,
        session: LinkSession,
        request_id: RequestId,
        params: RotateParams,
        previous: asyncio.Task[None] | None,
    ) -> None:
        """One after the other: the answer to the last request names the candidate that is kept."""
        if previous is not None:
            await asyncio.wait([previous])
        try:
            sha256 = await asyncio.to_thread(self._candidates.store_candidate, params.rotation_id)
        except Exception as error:
            log.exception("credentials.candidate_not_stored")
            session.respond_error(request_id, to_wire(error))
            return
        log.info("credentials.candidate_stored", rotation_id=params.rotation_id)
        session.respond(request_id, RotateResult(rotation_id=params.rotation_id, sha256=sha256))

    def _stream_credit(self, session: LinkSession, notification: Notification) -> None:
        credit = codec.convert(notification.params, StreamCredit)
        session.granted_stream(credit.id, credit.bytes)

    def _link_credit(self, session: LinkSession, notification: Notification) -> None:
        session.granted_link(codec.convert(notification.params, LinkCredit).bytes)

    def _streams_alive(self, session: LinkSession, notification: Notification) -> None:
        alive = frozenset(codec.convert(notification.params, StreamsAlive).ids)
        absent = frozenset(session.flow.streams) - alive
        for request_id in absent & self._absent:
            log.info("stream.not_read", stream_id=request_id, session=session.number)
            session.give_up(request_id, Cancelled("The server does not read this stream any more."))
        self._absent = absent

    def _drain(self, session: LinkSession, notification: Notification) -> None:
        seconds = codec.convert(notification.params, DrainParams).retry_after_s
        log.info("link.server_drains", retry_after_s=seconds, session=session.number)
        self.retry_after_s = seconds


def _alive(session: LinkSession, notification: Notification) -> None:
    """Its arrival is all there is to it."""
