"""The stand-in itself: Ollama's routes on a real socket."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Self
from urllib.parse import urlsplit

from aiohttp import web

from obt_standin import control, faults
from obt_standin.generation import encode
from obt_standin.inference import Inference
from obt_standin.log import LoggedExchange
from obt_standin.models import ModelRoutes
from obt_standin.request_body import ErrorAnswer
from obt_standin.runner import Runners
from obt_standin.script import Script
from obt_standin.store import Store
from obt_standin.wire import EXCHANGE, OwnFraming

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_JSON: Final = "application/json; charset=utf-8"
# Bytes: images come in the request.
_MAX_BODY: Final = 256 << 20
# A stand-in may run for days beside a benchmark.
_KEPT_EXCHANGES: Final = 4096
_CORS_HEADERS: Final = "Authorization,Content-Type,User-Agent,Accept,X-Requested-With"


class StandIn:
    """A stand-in for Ollama; an async context manager.

    ``script`` may be changed while it runs. ``requests`` holds what was asked and what was written when.

    Args:
        script: what it does.
        host: address to listen on.
        port: port to listen on; 0 takes a free one, which it keeps over ``stop`` and ``start``.
        control: whether it can be scripted over HTTP (see ``obt_standin.control``).
    """

    def __init__(
        self, script: Script | None = None, *, host: str = "127.0.0.1", port: int = 0, control: bool = False
    ) -> None:
        self.script = script or Script()
        self.host = host
        # 0 until it listens for the first time.
        self.port = port
        # The latest exchanges, the open ones among them, in the order in which they began.
        self.requests: deque[LoggedExchange] = deque(maxlen=_KEPT_EXCHANGES)
        self.store = Store(self.script)
        self.runners = Runners(self.script)
        self._control = control
        # Notified when a request begins or ends, for ``wait_for``.
        self._changed = asyncio.Condition()
        # None while it does not listen.
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> list[list[tuple[int, bytes]]]:
        """For each request, what was written when (``time.monotonic_ns``)."""
        return [exchange.writes for exchange in self.requests]

    @property
    def open_streams(self) -> int:
        """Requests that are not answered to the end."""
        return sum(exchange.ended == "open" for exchange in self.requests)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, on the port of last time if there was one."""
        application = web.Application(client_max_size=_MAX_BODY, middlewares=[self._logged])
        application.on_response_prepare.append(_set_headers)
        application.add_routes(self._routes())
        if self._control:
            application.add_routes(control.routes(self.script, self.store, self.runners, self.requests))
        # Ollama stops generating when its client goes; without cancellation the stand-in would not.
        self._runner = web.AppRunner(
            application, handler_cancellation=True, access_log=None, shutdown_timeout=0.01
        )
        await self._runner.setup()
        # The port of last time may still have connections that linger.
        site = web.TCPSite(self._runner, self.host, self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Go away as a stopped Ollama does: open streams end without their last chunk."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()
            self.runners.close()

    def kill_runner(self, model: str | None = None) -> None:
        """Kill the process of one loaded model, or of all."""
        self.runners.kill(model)

    async def wait_for(self, what: Callable[[StandIn], bool]) -> None:
        """Wait until a condition on this stand-in holds; checked whenever a request begins or ends."""
        async with self._changed:
            await self._changed.wait_for(lambda: what(self))

    def _routes(self) -> list[web.RouteDef]:
        inference = Inference(self.script, self.store, self.runners)
        models = ModelRoutes(self.script, self.store, self.runners)
        # Ollama's router answers HEAD wherever it answers GET, and so does aiohttp's.
        return [
            web.get("/", _root),
            web.get("/api/version", models.version),
            web.get("/api/status", models.status),
            web.get("/api/tags", models.tags),
            web.get("/api/ps", models.ps),
            web.get("/v1/models", models.openai),
            web.post("/api/me", models.me),
            web.post("/api/show", models.show),
            web.post("/api/copy", models.copy),
            web.delete("/api/delete", models.delete),
            web.post("/api/pull", models.pull),
            web.post("/api/push", models.push),
            web.post("/api/create", models.create),
            web.head("/api/blobs/{digest}", models.has_blob),
            web.post("/api/blobs/{digest}", models.put_blob),
            web.post("/api/generate", inference.generate),
            web.post("/api/chat", inference.chat),
            web.post("/api/embed", inference.embed),
            web.post("/api/embeddings", inference.embeddings),
        ]

    @web.middleware
    async def _logged(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Log the exchange, and answer the request as the script wants."""
        # Control is no part of what a client asked Ollama.
        if self._control and request.path.startswith(control.PREFIX):
            return await handler(request)
        exchange = LoggedExchange(
            request.method, request.path, b"", {k.lower(): v for k, v in request.headers.items()}
        )
        EXCHANGE.set(exchange)
        self.requests.append(exchange)
        await self._notify()
        try:
            exchange.body = await request.read()
            response = await self._respond(request, handler)
            exchange.status = response.status
            if isinstance(response, web.Response) and isinstance(response.body, bytes):
                exchange.headers_ns = time.monotonic_ns()
                exchange.writes.append((exchange.headers_ns, response.body))
            if exchange.ended == "open":
                exchange.ended = "complete"
            return response
        finally:
            if exchange.ended == "open":
                exchange.ended = "client_closed"
            exchange.ended_ns = time.monotonic_ns()
            # The client that went away cancels this handler, and whoever waits must hear of it all the same.
            await asyncio.shield(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _respond(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        special = await faults.special_answer(request, self.script.answer)
        if special is not None:
            return special
        # Not with "or": a response is a mapping too, and before aiohttp 3.12 false while it is empty.
        for special in (_forbidden(request), _preflight(request)):
            if special is not None:
                return special
        try:
            return await handler(request)
        except ErrorAnswer as refusal:
            return _error(refusal)
        except web.HTTPException as error:
            return _unknown_route(request, error)


async def _root(_request: web.Request) -> web.StreamResponse:
    return web.Response(text="Ollama is running")


async def _set_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Make the headers Ollama's: no Server, no content type on nothing, chunked where streamed."""
    response.headers.pop("Server", None)
    if isinstance(response, OwnFraming):
        response.headers.pop("Content-Length", None)
        response.headers["Transfer-Encoding"] = "chunked"
    elif isinstance(response, web.Response) and not response.body and "X-Keep-Type" not in response.headers:
        response.headers.pop("Content-Type", None)
    response.headers.pop("X-Keep-Type", None)


def _error(refusal: ErrorAnswer) -> web.Response:
    kind = _JSON if refusal.charset else "application/json"
    return web.Response(
        status=refusal.status, body=encode({"error": refusal.message}), headers={"Content-Type": kind}
    )


def _unknown_route(request: web.Request, error: web.HTTPException) -> web.Response:
    """404 and 405 as Ollama's router words them, and its redirect of a trailing slash."""
    if error.status == 404 and request.path != "/" and request.path.endswith("/"):  # noqa: PLR2004 - HTTP's number
        there = request.path.rstrip("/")
        body = f'<a href="{there}">Moved Permanently</a>.\n\n'
        headers = {"Location": there, "Content-Type": "text/html; charset=utf-8"}
        return web.Response(status=301, text=body, headers=headers)
    words = {404: "404 page not found", 405: "405 method not allowed"}
    body = words.get(error.status, f"{error.status} {error.reason}")
    return web.Response(status=error.status, body=body.encode(), headers={"Content-Type": "text/plain"})


def _forbidden(request: web.Request) -> web.Response | None:
    """403 for a Host or an Origin that is not of this machine."""
    host = urlsplit(f"//{request.host}").hostname or ""
    origin = request.headers.get("Origin")
    if _local(host) and (origin is None or _local(urlsplit(origin).hostname or "")):
        return None
    return web.Response(status=403)


def _local(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host in {"", "localhost"} or host.endswith((".localhost", ".local", ".internal"))
    return True


def _preflight(request: web.Request) -> web.Response | None:
    if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
        return None
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Headers": _CORS_HEADERS,
            "Access-Control-Allow-Methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
            "Access-Control-Allow-Origin": request.headers.get("Origin", ""),
            "Access-Control-Max-Age": "43200",
        },
    )
