"""One measured request: sends it, keeps its lines as they arrive, and reads them when it is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from obt_agent.benchmark import counters
from obt_agent.benchmark.counters import COUNTS, DURATIONS
from obt_agent.benchmark.metrics import Chunk, Trace, arrival
from obt_agent.errors import OllamaError
from obt_agent.ollama.client import Line, OllamaClient

_CHUNK: Final = msgspec.json.Decoder(Chunk)


class MeasuredRequest(NamedTuple):
    """What one request gave: its trace, and when it was sent (monotonic, nanoseconds)."""

    trace: Trace
    t_sent_ns: int

    @property
    def first_token_ns(self) -> int | None:
        """When the first text arrived (monotonic, nanoseconds); None without any."""
        arrivals = self.trace.arrivals
        return self.t_sent_ns + arrivals[0].t_us * 1000 if arrivals else None

    @property
    def end_ns(self) -> int:
        """When the last line arrived (monotonic, nanoseconds)."""
        return self.t_sent_ns + self.trace.final_t_us * 1000


# Called with the sending time and the lines that one read gave.
OnLines = Callable[[int, list[Line]], None]


async def generate(ollama: OllamaClient, body: bytes, on_lines: OnLines) -> MeasuredRequest:
    """Send the request and wait for its end.

    While lines come nothing is decoded here but what the stream's own check needs, so that the reading stays
    fast; their times were stamped when their bytes arrived.

    Raises:
        OllamaError and its kinds, DeadlineExceeded, TooLarge: as ``OllamaClient``.
    """
    # Decoded only when the stream is over, for decoding takes time in which no byte is stamped.
    lines: list[Line] = []
    async with ollama.stream("/api/generate", body) as stream:
        async for batch in stream.batches():
            lines.extend(batch)
            on_lines(stream.t_sent_ns, batch)
        sent_ns, final = stream.t_sent_ns, stream.final
    return MeasuredRequest(_trace(lines, final), sent_ns)


def _trace(lines: list[Line], final: Line) -> Trace:
    try:
        found = [arrival(line.t_us, _CHUNK.decode(line.raw)) for line in lines]
        last = _CHUNK.decode(final.raw)
    except msgspec.ValidationError as error:
        raise OllamaError(f"Ollama sent a line of another form than /api/generate has: {error}") from error
    # The last line may carry text, too: answers that are not streamed in full end so.
    found.append(arrival(final.t_us, last))
    reported = counters.read({name: bytes(getattr(last, name)) for name in (*COUNTS, *DURATIONS)})
    return Trace(tuple(one for one in found if one is not None), final.t_us, reported, last.done_reason)
