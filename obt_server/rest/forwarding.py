"""Requests that only the leader can answer, handed to it by the other replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import msgspec
import structlog
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Scope

from obt_agent.errors import AgentError, DeadlineExceeded, LinkLost
from obt_server.bus import BusUnavailable, NoResponders, ReplySink, Serving
from obt_server.replicas.parts import Replicas
from obt_server.rest import audit
from obt_server.rest.problems import LeaderLost, NoLeader, error_response

log = structlog.get_logger(__name__)

WITHIN_S: Final = 60.0
"""For the leader's answer: the longest honest work is a rollout to ten thousand machines that is stored."""
FINISHED_WITHIN_S: Final = 10.0
"""For what others asked for, when this process stops."""
_PART: Final = "http"
_AGAIN_MS: Final = 1000
_FORWARDED: Final = "obt.forwarded"
_BY_LEADER: Final = "obt_by_leader"
_READING: Final = frozenset({"GET", "HEAD"})

E = TypeVar("E", bound=Callable[..., Any])
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ForwardedRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request as a replica received it."""

    method: str
    path: str
    root_path: str
    query: bytes
    scheme: str
    headers: list[tuple[bytes, bytes]]
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    body: bytes


class ForwardedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What the leader answers."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def by_leader(endpoint: E) -> E:
    """Mark an endpoint that needs what only the leader's engines know, or changes what they do."""
    setattr(endpoint, _BY_LEADER, True)
    return endpoint


def is_by_leader(route: APIRoute) -> bool:
    """Return whether a route is answered by the leader alone."""
    return bool(getattr(route.endpoint, _BY_LEADER, False))


def is_forwarded(connection: HTTPConnection) -> bool:
    """Return whether another replica forwarded a request, and checked its Host and Origin.

    It is a part of the scope that no client can send.
    """
    return _FORWARDED in connection.scope.get("extensions", {})


class Forwarding:
    """Hands requests to the leader, and answers those that others hand to this replica.

    Args:
        replicas: who leads, and the way there.
    """

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._app: ASGIApp | None = None
        self._subscription: Serving | None = None
        self._closing = False
        # Requests of others that are answered here. None ends with its caller: what is half done when a
        # caller leaves (stored, and not begun) nobody would look at again.
        self._answering: set[asyncio.Task[bytes]] = set()

    async def start(self, app: ASGIApp) -> None:
        """Answer others from now on, by an application that asks for credentials as it does of everybody."""
        self._app, replicas = app, self._replicas
        mine = replicas.subjects.replica(replicas.membership.replica_id, _PART)
        self._subscription = await replicas.exchanges.serve(mine, self._serve)

    async def close(self) -> None:
        """Take no more of others; what is being answered is finished, and waited for a while."""
        self._closing = True
        if self._answering:
            await asyncio.wait(self._answering, timeout=FINISHED_WITHIN_S)
        if self._subscription is not None:
            await self._subscription.close()

    def around(self, inner: Handler) -> Handler:
        """Return a handler that answers by ``inner`` while this replica leads, and else as the leader does.

        It raises NoLeader where nothing was done, and LeaderLost where the leader may have done it.
        """

        async def handle(request: Request) -> Response:
            leader = self._elsewhere(request)
            return await inner(request) if leader is None else await self._forward(request, leader)

        return handle

    def _elsewhere(self, request: Request) -> str | None:
        """Return the replica that a request is to be handed to; None where it is this one."""
        membership = self._replicas.membership
        if membership.leading:
            return None
        leader = membership.leader
        # Whoever handed it on saw this replica lead. Where it would go from here may be where it came from.
        if leader is None or leader == membership.replica_id or is_forwarded(request):
            raise _no_leader()
        return leader

    async def _forward(self, request: Request, leader: str) -> Response:
        """Return the leader's answer. Its audit line is written there, with the address of the client."""
        scope = request.scope
        asked = ForwardedRequest(
            method=request.method,
            path=scope["path"],
            root_path=scope.get("root_path", ""),
            query=scope["query_string"],
            scheme=scope["scheme"],
            headers=[(bytes(name), bytes(value)) for name, value in scope["headers"]],
            client=scope.get("client"),
            server=scope.get("server"),
            body=await request.body(),
        )
        answer = await self._ask(leader, asked)
        audit.leave_out()
        made = Response(answer.body, answer.status)
        made.raw_headers = answer.headers
        return made

    async def _ask(self, leader: str, asked: ForwardedRequest) -> ForwardedAnswer:
        replicas = self._replicas
        # Nothing goes out without it; once something did, nobody knows how far it came.
        sent = replicas.bus.connected
        try:
            text = await replicas.exchanges.call(
                replicas.subjects.replica(leader, _PART), msgspec.msgpack.encode(asked), timeout_s=WITHIN_S
            )
        except NoResponders as error:
            raise NoLeader(
                "The server process that leads cannot be reached; try again.", retry_after_ms=_AGAIN_MS
            ) from error
        # Never sent a second time, whatever the method.
        except (BusUnavailable, LinkLost, DeadlineExceeded) as error:
            if not sent:
                raise NoLeader(error.message, retry_after_ms=_AGAIN_MS) from error
            log.warning("request.leader_lost", method=asked.method, path=asked.path, error=error.message)
            raise self._lost(asked.method) from error
        return msgspec.msgpack.decode(text, type=ForwardedAnswer)

    def _lost(self, method: str) -> AgentError:
        if method in _READING:
            text = "The server process that leads did not answer; try again."
            return NoLeader(text, retry_after_ms=_AGAIN_MS)
        return LeaderLost(
            "The server process that leads did not answer. It may have done what was asked for: look before "
            "you ask again, or ask with the same key.",
            retry_after_ms=_AGAIN_MS,
        )

    # -- at the leader ----------------------------------------------------------------------------------

    async def _serve(self, body: bytes, reply: ReplySink) -> bytes:
        del reply  # an answer is one piece
        if self._closing:
            refused = error_response(_no_leader())
            return _encoded(refused.status_code, refused.raw_headers, bytes(refused.body))
        asked = msgspec.msgpack.decode(body, type=ForwardedRequest)
        task = asyncio.create_task(self._answer(asked), name=f"forwarded {asked.method} {asked.path[:100]}")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        return await asyncio.shield(task)

    async def _answer(self, asked: ForwardedRequest) -> bytes:
        pending: list[Message] = [{"type": "http.request", "body": asked.body, "more_body": False}]
        status, headers, parts = 500, list[tuple[bytes, bytes]](), list[bytes]()

        async def receive() -> Message:
            return pending.pop() if pending else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message.get("headers", ()))
            else:
                parts.append(message.get("body", b""))

        try:
            if self._app is not None:
                await self._app(_scope_of(asked), receive, send)
        # It has answered 500 before it raises, for a server that logs it.
        except Exception:
            log.exception("request.failed", method=asked.method, path=asked.path)
        return _encoded(status, headers, b"".join(parts))


def _encoded(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    return msgspec.msgpack.encode(ForwardedAnswer(status, headers, body))


def _no_leader() -> NoLeader:
    return NoLeader("No server process leads at this moment; try again.", retry_after_ms=_AGAIN_MS)


def _scope_of(asked: ForwardedRequest) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": asked.method,
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "root_path": asked.root_path,
        "query_string": asked.query,
        "scheme": asked.scheme,
        "headers": asked.headers,
        "client": asked.client,
        "server": asked.server,
        "extensions": {_FORWARDED: {}},
    }
