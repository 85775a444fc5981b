"""Arithmetic of one request: from arrival times and Ollama's counters to figures. Pure.

Clock: microseconds since the request was sent, stamped when bytes arrived and before anything was parsed. A
line of the stream is not a token: counts come from Ollama's last line only.

Definitions, with n = eval_count, t_first = the first line that carries text (thinking included), t_last = the
last line that carries text (the last line of all when the model ended by itself, for then the token that ends
it arrives with that line):

    TTFT                  t_first
    TPOT                  (t_last - t_first) / (n - 1), as vLLM's benchmark and AIPerf have it
    decode_tps_corrected  (n - 1) / (t_last - t_first)
    decode_tps_by_ollama  (n - 1) / eval_duration: the same by Ollama's clock, if it starts at the first token
    output_tps_wall       n / t_final
    tokens_per_second     eval_count / eval_duration, Ollama's own
    prefill_tps           prompt_eval_count / prompt_eval_duration, Ollama's own; only for uncached prompts
    prefill_tps_ttft      prompt_eval_count / TTFT
    unaccounted_ms        total - load - prompt_eval - eval: waiting for a slot, saving what it held
    slot_ms               unaccounted_ms, at most TTFT - load - prompt_eval
    ttft_excluding_slot_ms  TTFT - slot_ms

llama-server saves the key-value cache of the prompt before when a new one takes its slot: after the request
came in and before its clock of the prompt starts, so that no counter of Ollama's holds it. What its counters
leave of its total is all taken to lie before the first token: ``slot_ms`` is an upper bound of the wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from obt_agent.benchmark import statistics
from obt_agent.benchmark.counters import COUNTS, DURATIONS, AgentClock, Counters, checked
from obt_agent.benchmark.result import ChunkGaps, RequestTimings

T = TypeVar("T")

_US_PER_MS: Final = 1e3
_US_PER_S: Final = 1e6
_NS_PER_MS: Final = 1e6
_NS_PER_S: Final = 1e9
_MS_PER_S: Final = 1e3
# Of fewer gaps the 99th percentile is nothing but the longest one.
_LEAST_FOR_P99: Final = 100
# Of a live rate: less is shown as the tens of thousands of tokens a second that no model has.
_LEAST_SPAN_US: Final = 50_000

_NO_TEXT: Final = "no line of the stream carried text"
_NO_ANSWER: Final = "no answer came: thinking took all tokens, or there was no text"
_OTHER_CLOCK: Final = "this version's eval_duration is not the time from the first token to the last"
_TOO_FEW: Final = "a rate takes at least two tokens that arrive apart"
_NOT_REPORTED: Final = "Ollama's last line does not say"
_CONTRADICTED: Final = "Ollama's figure contradicts the agent's clock, or what was asked for"
_NO_THOUGHT: Final = "the first text was an answer: nothing was thought"
_NO_GAPS: Final = "fewer than two lines carried text"
_CACHED: Final = "the prompt was cached on purpose, so that nothing was prefilled"


class Chunk(msgspec.Struct, frozen=True):
    """What is read of a line of ``/api/generate``; the last one carries Ollama's counters (nanoseconds).

    The counters stay raw: one that is no integer costs itself, not the whole line.
    """

    response: str = ""
    thinking: str | None = None
    done_reason: str | None = None
    total_duration: msgspec.Raw = msgspec.Raw()
    load_duration: msgspec.Raw = msgspec.Raw()
    prompt_eval_count: msgspec.Raw = msgspec.Raw()
    prompt_eval_duration: msgspec.Raw = msgspec.Raw()
    eval_count: msgspec.Raw = msgspec.Raw()
    eval_duration: msgspec.Raw = msgspec.Raw()


class Arrival(NamedTuple):
    """One line that carries text: when it came, and its characters of thinking and of answer."""

    t_us: int
    thinking_chars: int
    answer_chars: int


class Trace(NamedTuple):
    """One request as the agent saw it: its text lines in order, and when the last line came with what."""

    arrivals: tuple[Arrival, ...]
    final_t_us: int
    counters: Counters = Counters()
    done_reason: str | None = None


def arrival(t_us: int, chunk: Chunk) -> Arrival | None:
    """The line as an arrival; None when it carries no text."""
    thinking, answer = len(chunk.thinking or ""), len(chunk.response)
    return Arrival(t_us, thinking, answer) if thinking or answer else None


def timings(
    trace: Trace,
    *,
    completion_tokens: int,
    cached: bool,
    num_ctx: int | None = None,
    from_first_token: bool = False,
) -> RequestTimings:
    """Return all figures of one request.

    Args:
        trace: what arrived, and when.
        completion_tokens: how many were asked for.
        cached: whether the prompt was sent before on purpose, so that no prefill rate exists.
        num_ctx: the context that was asked for.
        from_first_token: whether this version's ``eval_duration`` goes from the first token to the last.
    """
    clock = AgentClock([one.t_us for one in trace.arrivals], trace.final_t_us)
    reported = checked(trace.counters, clock, completion_tokens=completion_tokens, num_ctx=num_ctx)

    def why(*names: str) -> str:
        return _NOT_REPORTED if reported.rejected.isdisjoint(names) else _CONTRADICTED

    n, prompt, edges = reported.eval_count, reported.prompt_eval_count, _RequestEdges.of(trace)
    decode = _decode_tps(n, edges)
    by_ollama = _rate(n - 1, reported.eval_duration) if n and from_first_token else None
    no_rate = why("eval_count") if n is None else _TOO_FEW
    no_ollama_rate = _TOO_FEW if n == 1 else why("eval_count", "eval_duration")
    no_prefill = _CACHED if cached else why("prompt_eval_count", "prompt_eval_duration")
    first_ms, lines = _ms(edges.first), len(trace.arrivals)
    # Each figure beside the reason that stands for it where it is null.
    figures: dict[str, tuple[object, str]] = {
        "decode_tps_corrected": (decode, no_rate),
        "tokens_per_second": (None if n == 1 else _rate(n, reported.eval_duration), no_ollama_rate),
        "decode_tps_by_ollama": (by_ollama, no_ollama_rate if from_first_token else _OTHER_CLOCK),
        "decode_tps_uncertainty": (_decode_uncertainty(decode, by_ollama, n, trace), no_rate),
        "average_token_ms": (None if decode is None else _MS_PER_S / decode, no_rate),
        "output_tps_wall": (_per_second(n, trace.final_t_us), why("eval_count")),
        "prefill_tps": (None if cached else _rate(prompt, reported.prompt_eval_duration), no_prefill),
        "prefill_tps_ttft": (None if cached else _per_second(prompt, edges.first), no_prefill),
        "first_token_ms": (first_ms, _NO_TEXT),
        "latency_ms": (first_ms, _NO_TEXT),
        **_of_slot(reported, first_ms, why(*DURATIONS), known=from_first_token),
        "ttft_answer_ms": (_ms(edges.first_answer), _NO_ANSWER),
        "thinking_ms": (_thinking_ms(trace, edges), _NO_THOUGHT),
        "inter_chunk_ms": (chunk_gaps(clock.lines_us), _NO_GAPS),
        "tokens_per_chunk": (n / lines if n and lines else None, _NO_TEXT if n else why("eval_count")),
        **_counted(reported, why),
    }
    values: dict[str, Any] = {name: value for name, (value, _) in figures.items()}
    return RequestTimings(
        **values,
        chunks=lines,
        total_duration_ms=trace.final_t_us / _US_PER_MS,
        thinking_chars=sum(one.thinking_chars for one in trace.arrivals),
        done_reason=trace.done_reason,
        short_output=n is not None and n < completion_tokens,
        rejected_counters=tuple(name for name in (*COUNTS, *DURATIONS) if name in reported.rejected),
        unavailable={name: reason for name, (value, reason) in figures.items() if value is None},
    )


def _counted(reported: Counters, why: Callable[..., str]) -> dict[str, tuple[object, str]]:
    """Ollama's own counters, in the result's units."""
    n, prompt = reported.eval_count, reported.prompt_eval_count
    return {
        "server_total_ms": (_ns_ms(reported.total_duration), why("total_duration")),
        "load_ms": (_ns_ms(reported.load_duration), why("load_duration")),
        "prompt_eval_ms": (_ns_ms(reported.prompt_eval_duration), why("prompt_eval_duration")),
        "eval_ms": (_ns_ms(reported.eval_duration), why("eval_duration")),
        "unaccounted_ms": (_unaccounted(reported), why(*DURATIONS)),
        "prompt_tokens": (prompt, why("prompt_eval_count")),
        "completion_tokens": (n, why("eval_count")),
        "total_tokens": (None if n is None or prompt is None else n + prompt, why(*COUNTS)),
    }


def chunk_gaps(t_us: Sequence[int]) -> ChunkGaps | None:
    """Gaps between lines, in milliseconds; None for fewer than two lines."""
    gaps = [(later - earlier) / _US_PER_MS for earlier, later in pairwise(t_us)]
    if not gaps:
        return None
    return ChunkGaps(
        p50=statistics.median(gaps),
        p90=statistics.quantile(gaps, 0.90),
        p99=statistics.quantile(gaps, 0.99) if len(gaps) >= _LEAST_FOR_P99 else None,
        max=max(gaps),
    )


def rate_of_lines(t_us: Sequence[int], now_us: int, window_us: int = 1_000_000) -> float | None:
    """Lines a second over the last window, or since the first line; None under two lines, or in a burst."""
    recent = [t for t in t_us if t > now_us - window_us]
    # From the first to the last line, not over the whole window: at a low rate its edges cut intervals.
    # Lines that waited for the agent's turn come within microseconds: of those there is no rate either.
    if len(recent) < 2 or recent[-1] - recent[0] < _LEAST_SPAN_US:  # noqa: PLR2004 - a rate takes two
        return None
    return (len(recent) - 1) * _US_PER_S / (recent[-1] - recent[0])


class Missing(dict[str, str]):
    """Reasons, by field, why figures are null."""

    def unless(self, value: T | None, field: str, reason: str) -> T | None:
        """The value; when it is None, note the reason for its field."""
        if value is None:
            self[field] = reason
        return value


class _RequestEdges(NamedTuple):
    """The times that the definitions name, in microseconds; None when no line carried text."""

    first: int | None
    first_answer: int | None
    last: int | None

    @classmethod
    def of(cls, trace: Trace) -> _RequestEdges:
        if not trace.arrivals:
            return cls(None, None, None)
        answers = (one.t_us for one in trace.arrivals if one.answer_chars)
        # The token that ends an answer carries no text and arrives with the last line.
        by_itself = trace.done_reason == "stop"
        return cls(
            trace.arrivals[0].t_us,
            next(answers, None),
            trace.final_t_us if by_itself else trace.arrivals[-1].t_us,
        )


def _decode_tps(n: int | None, edges: _RequestEdges) -> float | None:
    if n is None or n < 2 or edges.first is None or edges.last is None:  # noqa: PLR2004 - see TPOT
        return None
    # Lines that came in one piece have equal stamps: then nothing is known of the speed.
    elapsed = edges.last - edges.first
    return (n - 1) * _US_PER_S / elapsed if elapsed > 0 else None


def _decode_uncertainty(
    decode: float | None, by_ollama: float | None, n: int | None, trace: Trace
) -> float | None:
    """Half-width in tokens a second that the shape of the stream, or the other clock, leaves open.

    The first line may hold k = n / lines tokens, of which k - 1 came before t_first was seen; when the model
    ended by itself, one token more may lie between the last text and the last line. So many of the n - 1
    tokens are open; the rest were surely decoded between the two stamps.
    """
    if decode is None or n is None:
        return None
    # All lines are taken to be as long as the mean line: how many tokens the first one held is not reported.
    open_tokens = max(n / len(trace.arrivals) - 1.0, 0.0)
    if trace.done_reason == "stop":
        open_tokens += 1.0
    by_shape = decode * open_tokens / max(n - 1 - open_tokens, 1.0)
    # On a busy machine the agent, or Ollama, gets its turn late, and which of the two cannot be known.
    return max(by_shape, abs(decode - by_ollama)) if by_ollama else by_shape


def _thinking_ms(trace: Trace, edges: _RequestEdges) -> float | None:
    """From the first thinking to the first answer, or to the end when no answer came; None without any."""
    if edges.first is None or not trace.arrivals[0].thinking_chars:
        return None
    end = trace.final_t_us if edges.first_answer is None else edges.first_answer
    return (end - edges.first) / _US_PER_MS


def _unaccounted(reported: Counters) -> float | None:
    """What Ollama's parts leave of its whole; None when a part is missing or impossible."""
    total, prompt, decode = reported.total_duration, reported.prompt_eval_duration, reported.eval_duration
    if total is None or prompt is None or decode is None or "load_duration" in reported.rejected:
        return None
    return (total - (reported.load_duration or 0) - prompt - decode) / _NS_PER_MS


def _of_slot(
    reported: Counters, first_ms: float | None, reason: str, *, known: bool
) -> dict[str, tuple[object, str]]:
    """The wait for the slot, and TTFT without it; ``known`` where ``eval_duration`` is all of decode."""
    open_ms, prompt_ms = _unaccounted(reported), _ns_ms(reported.prompt_eval_duration)
    slot = None
    if known and open_ms is not None and prompt_ms is not None and first_ms is not None:
        # By the agent's clock no more can have passed before the first token.
        most = first_ms - (_ns_ms(reported.load_duration) or 0.0) - prompt_ms
        slot = max(min(open_ms, most), 0.0)
    why = _OTHER_CLOCK if not known else _NO_TEXT if first_ms is None else reason
    without = None if slot is None or first_ms is None else first_ms - slot
    return {"slot_ms": (slot, why), "ttft_excluding_slot_ms": (without, why)}


def _rate(count: int | None, duration_ns: int | None) -> float | None:
    return count * _NS_PER_S / duration_ns if count and duration_ns else None


def _per_second(count: int | None, t_us: int | None) -> float | None:
    return count * _US_PER_S / t_us if count and t_us else None


def _ms(t_us: int | None) -> float | None:
    return None if t_us is None else t_us / _US_PER_MS


def _ns_ms(duration_ns: int | None) -> float | None:
    return None if duration_ns is None else duration_ns / _NS_PER_MS
