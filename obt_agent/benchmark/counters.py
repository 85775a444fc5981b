"""Ollama's counters, each held against the agent's own clock before anything is computed from it. Pure.

A counter that contradicts the clock, another counter or physics is left out by name and never corrected:
which of the two is right cannot be known, and a wrong one would stand in means as millions of tokens a
second. The bounds leave a margin of an order of magnitude for slow links and busy machines, so that what they
reject is impossible rather than odd.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from obt_agent.benchmark import statistics

COUNTS: Final = ("prompt_eval_count", "eval_count")
DURATIONS: Final = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")

# Larger integers have no exact float, and no model writes so many tokens or runs for a hundred days.
_COUNTER: Final = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_LATE_SHARE: Final = 1.1
# A duration may exceed the agent's by a tenth and 50 ms: clocks of virtual machines differ a little.
_LATE_NS: Final = 50_000_000
# Decoding this many times as fast as half of the lines came apart is impossible.
_FASTER_THAN_SEEN: Final = 10
# A million tokens a second of one stream: a thousand times what any hardware decodes.
_LEAST_NS_PER_TOKEN: Final = 1000
# A prefill starts hundreds of GPU kernels, of which each takes microseconds to start.
_LEAST_NS_OF_PREFILL: Final = 10_000
# Fifty million tokens a second: more than a prompt reaches of which all but the end was cached.
_LEAST_NS_PER_PROMPT_TOKEN: Final = 20


class Counters(NamedTuple):
    """What Ollama's last line counts: tokens and nanoseconds, None where it is missing or impossible.

    ``rejected`` names the impossible ones.
    """

    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    rejected: frozenset[str] = frozenset()

    def without(self, **impossible: bool) -> Counters:
        """Return the same with those rejected that are impossible."""
        names = {name for name, reject in impossible.items() if reject}
        fields: dict[str, Any] = dict.fromkeys(names)
        return self._replace(**fields, rejected=self.rejected | names)


class AgentClock(NamedTuple):
    """What the agent saw of the request: stamps of lines with text and of the last line, from its sending."""

    lines_us: Sequence[int]
    final_us: int


def read(texts: Mapping[str, bytes]) -> Counters:
    """Return the counters from their JSON; one that is no integer from 0 on is rejected, not an error."""
    values: dict[str, Any] = {}
    rejected: set[str] = set()
    for name, text in texts.items():
        if text in (b"", b"null"):
            continue
        with contextlib.suppress(msgspec.MsgspecError):
            values[name] = msgspec.json.decode(text, type=_COUNTER)
        if name not in values:
            rejected.add(name)
    return Counters(**values, rejected=frozenset(rejected))


def checked(
    counters: Counters, clock: AgentClock, *, completion_tokens: int, num_ctx: int | None
) -> Counters:
    """Return the counters without those that contradict the agent's clock or what was asked for.

    Args:
        counters: what Ollama reported.
        clock: what the agent saw meanwhile.
        completion_tokens: how many tokens were asked for at most.
        num_ctx: the context that was asked for, which holds any prompt; None when not known.
    """
    counted = counters.without(
        eval_count=_impossible_count(counters.eval_count, clock, completion_tokens),
        prompt_eval_count=num_ctx is not None and (counters.prompt_eval_count or 0) > 2 * num_ctx,
    )
    # The durations are held against counts that may be right: an impossible count condemns itself alone.
    return counted.without(
        total_duration=_longer(counted.total_duration, clock.final_us),
        load_duration=_longer(counted.load_duration, _until_first(clock)),
        prompt_eval_duration=_impossible_prefill(counted, clock),
        eval_duration=_impossible_decode(counted, clock),
    )


def _impossible_count(count: int | None, clock: AgentClock, asked: int) -> bool:
    """A line holds at least one token; more than twice what was asked for is none of Ollama's answers."""
    lines = len(clock.lines_us)
    return count is not None and (2 * count < lines - 1 or count > 2 * max(asked, lines) + 16)


def _impossible_prefill(counters: Counters, clock: AgentClock) -> bool:
    spent = counters.prompt_eval_duration
    if spent is None:
        return False
    tokens = counters.prompt_eval_count or 0
    least = max(_LEAST_NS_OF_PREFILL, tokens * _LEAST_NS_PER_PROMPT_TOKEN) if tokens else 0
    return 0 < spent < least or _longer(spent, _until_first(clock))


def _impossible_decode(counters: Counters, clock: AgentClock) -> bool:
    spent, count = counters.eval_duration, counters.eval_count
    if spent is None:
        return False
    if _longer(spent, clock.final_us):
        return True
    # One token has no decode time; versions of Ollama report 0 or some microseconds for it.
    if count is not None and count < 2:  # noqa: PLR2004 - see above
        return False
    # The median gap between lines, not their whole span: a single stall on the way would stretch the span,
    # and lines that came in one piece have no gaps at all, so that the clock then contradicts nothing.
    gaps = [later - earlier for earlier, later in pairwise(clock.lines_us)]
    steady_ns = statistics.median(gaps) * len(gaps) * 1000 if gaps else 0.0
    return spent * _FASTER_THAN_SEEN < steady_ns or spent < ((count or 1) - 1) * _LEAST_NS_PER_TOKEN


def _until_first(clock: AgentClock) -> int:
    """Loading and prefill are over when the first text comes; without text, when the last line comes."""
    return clock.lines_us[0] if clock.lines_us else clock.final_us


def _longer(duration_ns: int | None, seen_us: int) -> bool:
    return duration_ns is not None and duration_ns > _LATE_SHARE * seen_us * 1000 + _LATE_NS
