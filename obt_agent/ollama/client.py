"""The HTTP client: every request that the agent makes of Ollama, with its deadlines and typed errors.

There is no total limit on a generation: a cold model of 70 B parameters takes minutes. Three waits have
limits of their own: for the connection, for the first byte, and between bytes (``ollama.*_timeout_s``). The
address comes from the configuration alone. Redirects are not followed; encodings other than identity are
refused.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self, cast

import msgspec
import tenacity
from yarl import URL

from obt_agent.config.schema import OllamaConfig
from obt_agent.config.urls import ollama_base
from obt_agent.errors import AgentError, OllamaError, OllamaUnavailable, TooLarge
from obt_agent.ollama import failures, lists
from obt_agent.ollama.exchange import Sent, hang_up, note_sent, open_session, readable, sendable
from obt_agent.ollama.http_library import aiohttp
from obt_agent.ollama.lists import InstalledList, RunningList
from obt_agent.ollama.ndjson import MAX_LINE_BYTES, check
from obt_agent.ollama.stream import Line, OllamaStream, Silence
from obt_agent.ollama.timestamps import StampedResponse, StampingConnector

__all__ = ["Line", "OllamaClient", "OllamaStream"]

_JSON: Final = {"Content-Type": "application/json"}
# Requests that move gigabytes, with long silences of their own.
_CREATE: Final = "/api/create"
_TRANSFERS: Final = frozenset({"/api/pull", "/api/push", _CREATE})
_GOOD: Final = (200, 201)
_NOT_FOUND: Final = 404
# Of a refusal's body, which may be a page of a proxy.
_ERROR_BYTES: Final = 64 << 10
# Of an answer that passes in parts: what one frame may hold, so that 64 of them stay small.
_PART_BYTES: Final = 32 << 10
# Of a body that is read whole; it stands in memory up to four times while it is passed on.
MAX_BODY_BYTES: Final = 32 << 20


class _LoadRequest(msgspec.Struct, omit_defaults=True):
    model: str
    stream: bool = True
    keep_alive: str | int | float | None = None
    options: msgspec.Raw | None = None
    input: tuple[str, ...] | None = None


class OllamaClient:
    """Speaks to one Ollama; an async context manager.

    Args:
        config: the address, and how long each kind of silence may last.
        attempts: of an idempotent GET, the first one counted.
        max_line_bytes: length that no line of a stream may exceed.
        max_body_bytes: length that no other body may exceed.

    Raises (from every request):
        OllamaUnavailable: nothing answers, or the connection breaks before the answer.
        ModelNotFound: Ollama has no such model.
        OllamaError: any other refusal, and answers that are not Ollama's.
        DeadlineExceeded: a wait was longer than the settings allow.
        TooLarge: a body or a line is longer than the settings allow.
    """

    def __init__(
        self,
        config: OllamaConfig,
        *,
        attempts: int = 3,
        max_line_bytes: int = MAX_LINE_BYTES,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._config = config
        self._max_line_bytes = max_line_bytes
        self._max_body_bytes = max_body_bytes
        self._base = URL(ollama_base(config.url))
        # For what generates or changes something: each request on a connection of its own, since a kept one
        # may be dead already, and closing the connection is how Ollama is made to stop.
        self._session: aiohttp.ClientSession | None = None
        # For lists, asked for every two seconds: a connection that is kept costs a third of the CPU.
        self._lists: aiohttp.ClientSession | None = None
        # Nothing but GETs may be sent twice: a DELETE or a generation may have had its effect. The first
        # attempt is not tenacity's, whose machinery costs as much CPU as the request.
        self._attempts = attempts
        self._retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(attempts - 1),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=1),
            retry=tenacity.retry_if_exception_type(OllamaUnavailable),
            reraise=True,
        )

    @property
    def url(self) -> str:
        """The address in use, in its normal form."""
        return str(self._base)

    @property
    def connections(self) -> int:
        """Connections over which lists were asked for: one more may lead to an Ollama that restarted."""
        connector = self._lists.connector if self._lists is not None else None
        return connector.made if isinstance(connector, StampingConnector) else 0

    async def __aenter__(self) -> Self:
        limit_s = self._config.connect_timeout_s
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(note_sent)
        # Made now and not at the import of aiohttp, so that authorities added since then count.
        trust = ssl.create_default_context() if self._base.scheme == "https" else None
        self._session = open_session(StampingConnector(trust), limit_s, trace)
        self._lists = open_session(StampingConnector(trust, keep=True), limit_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in (self._session, self._lists):
            if session is not None:
                await session.close()
        self._session = self._lists = None

    async def version(self) -> str:
        """Ollama's version."""
        return lists.read_version(await self._get("/api/version"))

    async def installed(self) -> InstalledList:
        """The installed models (``/api/tags``); ``loaded`` is false in all of them: see ``Catalog``."""
        return lists.read_installed(await self._get("/api/tags"))

    async def running(self) -> RunningList:
        """The loaded models (``/api/ps``)."""
        return lists.read_running(await self._get("/api/ps"))

    async def show(
        self, model: str, *, verbose: bool = False, hold: Callable[[int], None] | None = None
    ) -> bytes:
        """One model's metadata, Ollama's JSON object as it came.

        ``hold`` is called with the bytes that came, as they come; what it raises ends the request.
        """
        request = {"model": model, "verbose": True} if verbose else {"model": model}
        body = await self._whole("POST", "/api/show", msgspec.json.encode(request), hold)
        check(body)
        return body

    async def copy(self, source: str, destination: str) -> None:
        """Give an installed model a second name."""
        await self._whole(
            "POST", "/api/copy", msgspec.json.encode({"source": source, "destination": destination})
        )

    async def delete(self, model: str) -> None:
        """Remove a model's name, and its files where no other name needs them."""
        await self._whole("DELETE", "/api/delete", msgspec.json.encode({"model": model}))

    async def has_blob(self, digest: str) -> bool:
        """Return whether Ollama has a file of this digest (``sha256:`` and 64 digits)."""
        try:
            await self._whole("HEAD", f"/api/blobs/{digest}")
        except OllamaError as error:
            if error.detail.get("status") == _NOT_FOUND:
                return False
            raise
        return True

    async def call(self, path: str, body: bytes) -> bytes:
        """Send a request that answers with one JSON object (the caller set ``"stream": false``).

        Raises:
            StreamIncomplete: a generation ended without ``done``, as endless repetition does.
        """
        async with self._generation(path, body) as (response, _):
            answer = await self._unstreamed(response)
        head = check(answer)
        if head.error is not None:
            raise failures.from_message(str(head.error), 200)
        # A request for the rendered prompt ends without "done", and is whole.
        if head.done is False and b'"_debug_info"' not in answer:
            raise failures.ended_early(broken=False, lines=1)
        return answer

    @asynccontextmanager
    async def parts(self, path: str, body: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a request that answers with one JSON object, and read that as it comes.

        A reader that pauses makes Ollama wait. Leaving the context closes the connection at once.
        """
        async with self._generation(path, body) as (response, _):
            yield self._parts(response)

    async def _parts(self, response: StampedResponse) -> AsyncIterator[bytes]:
        limit = self._config.between_bytes_timeout_s
        try:
            while True:
                async with asyncio.timeout(limit):
                    part = await response.content.read(_PART_BYTES)
                if not part:
                    return
                yield part
        except TimeoutError as error:
            raise failures.too_late("next bytes", limit, "between_bytes_timeout_s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise OllamaUnavailable(
                f"Ollama at {self.url} broke off its answer; is it restarting?"
            ) from error

    @asynccontextmanager
    async def stream(self, path: str, body: bytes) -> AsyncIterator[OllamaStream]:
        """Send a request and read its answer line by line; entering waits for the headers.

        Leaving the context, by whatever way, closes the connection at once, which makes Ollama stop.
        """
        async with self._generation(path, body) as (response, t_sent_ns):
            stream = OllamaStream(
                response,
                t_sent_ns,
                self._silence(path),
                self._max_line_bytes,
                to_the_end=path == _CREATE,
            )
            try:
                yield stream
            finally:
                stream.close()

    def _silence(self, path: str) -> Silence:
        """Verifying or converting a large model says nothing for minutes, like the wait for a first token."""
        if path in _TRANSFERS:
            return Silence(self._config.first_byte_timeout_s, "first_byte_timeout_s")
        return Silence(self._config.between_bytes_timeout_s, "between_bytes_timeout_s")

    async def load(
        self, model: str, *, keep_alive: str | float | None = None, options: bytes | None = None
    ) -> float:
        """Load a model; returns wall milliseconds. A model that only embeds is loaded the way it can be."""
        raw = None if options is None else msgspec.Raw(options)
        return await self._load(_LoadRequest(model=model, stream=False, keep_alive=keep_alive, options=raw))

    async def unload(self, model: str) -> float:
        """Unload a model; returns wall milliseconds. ``/api/ps`` may show it a moment longer."""
        return await self._load(_LoadRequest(model=model, stream=False, keep_alive=0))

    async def _load(self, request: _LoadRequest) -> float:
        began = time.monotonic_ns()
        try:
            await self.call("/api/generate", msgspec.json.encode(request))
        except OllamaError as error:
            if not str(error.detail.get("ollama_message")).endswith("does not support generate"):
                raise
            # A model that only embeds is loaded by embedding nothing.
            request.input = ()
            await self.call("/api/embed", msgspec.json.encode(request))
        return (time.monotonic_ns() - began) / 1e6

    async def _unstreamed(self, response: StampedResponse) -> bytes:
        """The body of a generation that was not streamed: it comes in one piece, after its headers."""
        limit = self._config.between_bytes_timeout_s
        try:
            async with asyncio.timeout(limit):
                return await self._body(response)
        except TimeoutError as error:
            raise failures.too_late("end of the answer", limit, "between_bytes_timeout_s") from error

    async def _get(self, path: str) -> bytes:
        """The body of an idempotent GET, tried again while nothing answers."""
        try:
            return await self._whole("GET", path)
        except OllamaUnavailable:
            if self._attempts == 1:
                raise
            # At once for the first time: most often Ollama was restarted, and closed the connection kept.
            return await self._retrying(self._whole, "GET", path)

    async def _whole(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        hold: Callable[[int], None] | None = None,
    ) -> bytes:
        """The body of a short request."""
        limit = self._config.request_timeout_s
        try:
            async with asyncio.timeout(limit):
                response, _ = await self._send(method, path, body)
                try:
                    return await self._body(response, hold)
                finally:
                    hang_up(response)
        except TimeoutError as error:
            raise failures.too_late("answer", limit, "request_timeout_s") from error

    @asynccontextmanager
    async def _generation(self, path: str, body: bytes) -> AsyncIterator[tuple[StampedResponse, int]]:
        """A request whose headers may be long in coming; its body is left to the caller."""
        limit = self._config.first_byte_timeout_s
        try:
            async with asyncio.timeout(limit):
                response, t_sent_ns = await self._send("POST", path, body)
        except TimeoutError as error:
            raise failures.too_late("first byte", limit, "first_byte_timeout_s") from error
        try:
            await self._accept(response)
            yield response, t_sent_ns
        finally:
            hang_up(response)

    async def _send(self, method: str, path: str, body: bytes | None) -> tuple[StampedResponse, int]:
        """Send a request; return its response once the headers are here, and when it was sent."""
        session = self._lists if method == "GET" else self._session
        if session is None:
            raise RuntimeError("OllamaClient is used outside its context.")
        sent = Sent(at_ns=time.monotonic_ns())
        try:
            response = await session.request(
                method,
                self._base / path.lstrip("/"),
                data=sendable(body),
                headers=_JSON if body is not None else None,
                allow_redirects=False,
                trace_request_ctx=sent,
            )
        except (aiohttp.ClientError, OSError) as error:
            raise self._unanswered(error) from error
        return cast("StampedResponse", response), sent.at_ns

    def _unanswered(self, error: Exception) -> AgentError:
        """What it means that a request got no headers."""
        match error:
            case aiohttp.ConnectionTimeoutError():
                return failures.too_late("connection", self._config.connect_timeout_s, "connect_timeout_s")
            case aiohttp.ClientConnectorError():
                return OllamaUnavailable(
                    f"Nothing answers at {self.url}; is Ollama running? Start it with: ollama serve"
                )
            case aiohttp.ClientResponseError():
                return failures.not_ollama("sends something other than HTTP", error.status)
            case _:
                return OllamaUnavailable(
                    f"Ollama at {self.url} closed the connection before it answered; is it restarting?"
                )

    async def _accept(self, response: StampedResponse) -> None:
        """Let a response pass that carries JSON with status 200; raise for any other."""
        kind = readable(response.headers.get("Content-Type", ""))
        if response.status not in _GOOD:
            raise failures.refused(response.status, kind, await self._error_body(response))
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise failures.not_ollama("compresses its answer unasked", response.status)
        if kind and "json" not in kind:
            raise failures.not_ollama(f"answers with {kind}", response.status)

    async def _error_body(self, response: StampedResponse) -> bytes:
        """The beginning of a refusal's body; empty if it does not come."""
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                return await response.content.read(_ERROR_BYTES)
        except (TimeoutError, aiohttp.ClientError, OSError):
            return b""

    async def _body(self, response: StampedResponse, hold: Callable[[int], None] | None = None) -> bytes:
        """The whole body of a response that is accepted; no deadline here."""
        await self._accept(response)
        parts: list[bytes] = []
        size = 0
        try:
            async for part in response.content.iter_any():
                if hold is not None:
                    hold(len(part))
                parts.append(part)
                size += len(part)
                if size > self._max_body_bytes:
                    raise TooLarge(
                        f"Ollama's answer is longer than {self._max_body_bytes} bytes.",
                        limit_bytes=self._max_body_bytes,
                    )
        except (aiohttp.ClientError, OSError) as error:
            raise OllamaUnavailable(
                f"Ollama at {self.url} broke off its answer; is it restarting?"
            ) from error
        return b"".join(parts)
