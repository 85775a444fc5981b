"""A relay before Ollama that stamps every byte on its way: what the agent's clock is held against."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_BLOCK = 65_536


@dataclass
class Exchange:
    """One request and its answer; times are ``time.monotonic_ns``."""

    # When the whole request had come from the agent, as far as it came before the answer began.
    sent_ns: int = 0
    request: bytes = b""
    # Each line of JSON in the answer, and when its last byte came from Ollama.
    lines: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    # What came after the last whole line.
    rest: bytes = b""
    # Something of an answer came: what the agent sends next on this connection is another request.
    begun: bool = False

    def answered(self, data: bytes, at_ns: int) -> None:
        """Take in bytes of the answer."""
        self.begun = True
        *whole, self.rest = (self.rest + data).split(b"\n")
        for line in whole:
            # Between the lines stand HTTP's headers and the sizes of its chunks.
            if line.startswith(b"{"):
                self.lines.append((at_ns, json.loads(line)))

    @property
    def whole(self) -> dict[str, Any] | None:
        """The one JSON object that is the answer, once all of it has come."""
        if self.lines:
            return self.lines[0][1]
        # Such an answer ends with no newline, and an object that was cut anywhere is no JSON.
        try:
            found = json.loads(self.rest)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    @property
    def body(self) -> dict[str, Any]:
        """The request's fields; empty when it has none."""
        text = self.request.partition(b"\r\n\r\n")[2]
        found: dict[str, Any] = json.loads(text) if text.startswith(b"{") else {}
        return found

    @property
    def prompt_sha256(self) -> str:
        """Of the prompt, as a benchmark's iterations name theirs."""
        return hashlib.sha256(str(self.body.get("prompt", "")).encode()).hexdigest()

    @property
    def texts(self) -> list[int]:
        """When each line with text came."""
        return [at for at, line in self.lines if line.get("response") or line.get("thinking")]

    @property
    def final(self) -> tuple[int, dict[str, Any]] | None:
        """The last line with Ollama's counters, and when it came."""
        return next((one for one in reversed(self.lines) if one[1].get("eval_count")), None)


class Tap:
    """Relays connections to one Ollama, and keeps what went over them."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self.exchanges: list[Exchange] = []

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Relay while the context lasts; gives the address to use in Ollama's place."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up, down = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        # One connection holds one exchange after the other.
        mine = [Exchange()]

        async def requests() -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(_BLOCK):
                    if mine[-1].begun:
                        mine.append(Exchange())
                    one = mine[-1]
                    if not one.request:
                        self.exchanges.append(one)
                    one.request += data
                    one.sent_ns = time.monotonic_ns()
                    down.write(data)
                    await down.drain()
            # The agent has gone: Ollama must hear of it, or it would generate on.
            down.close()

        async def answers() -> None:
            while data := await up.read(_BLOCK):
                at_ns = time.monotonic_ns()
                writer.write(data)
                # After the bytes went on: reading them is no part of their way.
                mine[-1].answered(data, at_ns)
                await writer.drain()

        asking = asyncio.create_task(requests(), name="tap.requests")
        try:
            await answers()
        except OSError:
            # Either side closed in the middle: so does the relay.
            pass
        finally:
            asking.cancel()
            await asyncio.wait({asking})
            for one in (writer, down):
                one.close()
