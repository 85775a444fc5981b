"""One streamed answer of Ollama: its lines in order, each with the time its bytes arrived."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from obt_agent.errors import AgentError, OllamaError
from obt_agent.ollama import failures
from obt_agent.ollama.http_library import aiohttp
from obt_agent.ollama.idle_timeout import IdleTimeout
from obt_agent.ollama.ndjson import LineSplitter, all_plain, check
from obt_agent.ollama.timestamps import StampedResponse


class Line(NamedTuple):
    """One JSON object as it came (``raw``), and when.

    ``t_us`` is microseconds from the sending of the request to the arrival of the bytes that completed the
    line, on the monotonic clock.
    """

    t_us: int
    raw: bytes


class ArrivedLines(NamedTuple):
    """The lines that one read of the socket completed; ``t_us`` as of ``Line``."""

    t_us: int
    lines: list[bytes]


class Silence(NamedTuple):
    """How many seconds a stream may be silent, and the configuration's key for it."""

    limit_s: float
    key: str


class OllamaStream:
    """The lines of one response, read once, by one reader.

    ``t_sent_ns`` is when the request was sent (``time.monotonic_ns``). ``final`` holds the last line after
    ``batches`` or ``arrivals`` has ended. With ``to_the_end`` only the end of the stream shows which line was
    the final one: a creation from a model that is not installed pulls that first, and passes on the pull's
    ``success``.
    """

    def __init__(
        self,
        response: StampedResponse,
        t_sent_ns: int,
        silence: Silence,
        max_line_bytes: int,
        *,
        to_the_end: bool = False,
    ) -> None:
        self.t_sent_ns = t_sent_ns
        self._response = response
        self._silence = silence
        self._to_the_end = to_the_end
        self._splitter = LineSplitter(max_line_bytes)
        # Bytes of the body that were taken so far: the place at which the next arrival begins.
        self._taken = 0
        # When the latest bytes came; the end of the stream has no bytes of its own, and takes this time.
        self._last_ns = t_sent_ns
        # Lines given so far, for the messages of errors.
        self._count = 0
        self._final: Line | None = None
        self._idle_timeout = IdleTimeout(silence.limit_s, self._on_silence)

    @property
    def final(self) -> Line:
        """The last line (``done``, or a pull's ``success``).

        Raises:
            RuntimeError: the stream has not come to its end.
        """
        if self._final is None:
            raise RuntimeError("The final line is known only after the stream has ended.")
        return self._final

    def paused(self, us: int) -> None:
        """Move the deadline of the present wait by ``us`` microseconds in which the reader had no credit.

        Between two waits no deadline runs, and nothing happens.
        """
        self._idle_timeout.extend(us / 1e6)

    def close(self) -> None:
        """Stop the timer: nobody reads any more."""
        self._idle_timeout.close()

    async def batches(self) -> AsyncIterator[list[Line]]:
        """Give the lines, as many at a time as have arrived, without the final one; see ``arrivals``."""
        async with contextlib.aclosing(self.arrivals()) as read:
            async for arrivals in read:
                yield [Line(t_us, raw) for t_us, lines in arrivals for raw in lines]

    async def arrivals(self) -> AsyncGenerator[list[ArrivedLines], None]:
        """Give the lines by the reads of the socket that brought them, without the final one.

        Raises:
            OllamaError: a line is an error, or breaks the form.
            StreamIncomplete: the stream ended, or broke, before its final line.
            DeadlineExceeded: nothing came for as long as the configuration allows.
            TooLarge: a line is too long.
        """
        while self._final is None or self._to_the_end:
            data = await self._read()
            found, failure = self._take(data)
            if found:
                yield found
            if failure is not None:
                raise failure
            if not data and self._final is None:
                raise failures.ended_early(broken=False, lines=self._count)
            if not data:
                return

    async def _read(self) -> bytes:
        """The bytes that have arrived; empty at the end."""
        self._idle_timeout.start()
        try:
            return await self._response.content.readany()
        except TimeoutError as error:
            raise failures.too_late("further line", self._silence.limit_s, self._silence.key) from error
        except (aiohttp.ClientError, OSError) as error:
            raise failures.ended_early(broken=True, lines=self._count) from error
        finally:
            self._idle_timeout.stop()

    def _on_silence(self) -> None:
        """Nothing came for as long as may be, unless it came just now and its reader has not run yet."""
        if not self._response.arrivals:
            self._response.content.set_exception(TimeoutError())

    def _take(self, data: bytes) -> tuple[list[ArrivedLines], AgentError | None]:
        """The good lines in ``data``, and the failure that follows them, if one does."""
        found: list[ArrivedLines] = []
        failure: AgentError | None = None
        try:
            for at_ns, part in self._by_arrival(data):
                self._take_part((at_ns - self.t_sent_ns) // 1000, part, found)
        except AgentError as error:
            failure = error
        self._count += sum(len(arrival.lines) for arrival in found)
        return found, failure or self._splitter.failure

    def _take_part(self, t_us: int, part: bytes, found: list[ArrivedLines]) -> None:
        """Add the lines that one read of the socket completed; empty means the end."""
        lines = self._splitter.feed(part) if part else self._splitter.finish()
        if not lines:
            return
        if self._final is None and all_plain(lines):
            found.append(ArrivedLines(t_us, lines))
            return
        good: list[bytes] = []
        try:
            for raw in lines:
                self._sort(Line(t_us, raw), good)
        finally:  # those before a bad one count
            if good:
                found.append(ArrivedLines(t_us, good))

    def _sort(self, line: Line, good: list[bytes]) -> None:
        head = check(line.raw)
        if self._final is not None and not self._to_the_end:
            raise OllamaError("Ollama sent a line after its final one; the stream was ended.", status=200)
        if self._final is not None:
            # With the time of the line that showed it: whoever asks for the end reads no times.
            good.append(self._final.raw)
            self._final = None
        if head.error is not None:
            raise failures.from_message(str(head.error), 200)
        if head.final:
            self._final = line
        else:
            good.append(line.raw)

    def _by_arrival(self, data: bytes) -> list[tuple[int, bytes]]:
        """Cut what one reading took into what the single reads of the socket brought."""
        if not data:
            return [(self._last_ns, b"")]
        arrivals = self._response.arrivals
        start, end, parts = self._taken, self._taken + len(data), []
        while self._taken < end and arrivals:
            at_ns, upto = arrivals[0]
            # One that reaches further is needed again for the rest of its bytes.
            if upto <= end:
                arrivals.popleft()
            upto = min(upto, end)
            if upto > self._taken:
                parts.append((at_ns, data[self._taken - start : upto - start]))
                self._taken = upto
            self._last_ns = at_ns
        return parts
