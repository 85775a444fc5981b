"""The nights of one machine, model and plan, and what changed between them. Pure.

A night is what one campaign measured of a line, its repeats together, or one result that no campaign asked
for: runs right after each other are more alike than runs of two nights, and must not count as several.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from obt_agent.benchmark import statistics
from obt_agent.benchmark.result import Summary
from obt_server.campaigns.comparison import Night
from obt_server.result_index import DigestEnvironment, IndexedResult, ResultDigest
from obt_server.rollout_storage import model_key
from obt_server.verdict_storage import EnvironmentChange, LineKey, ResultRef

# Campaign, cell and attempt.
_JOB_OF_CELL: Final = re.compile(r"([0-9a-f-]{36})\.(c\d+)\.\d+")
# A temperature, or another load, that differs by less is as it was.
_DEGREES: Final = 10.0
_CPU_PERCENT: Final = 15.0

BUSY: Final[Mapping[str, str]] = {
    "used_meanwhile": "other programs used the machine meanwhile",
    "cpu_contended": "other programs took CPU time from the model",
    "cpu_busy": "the CPU was busy before the run",
    "gpu_busy": "the GPU was busy before the run",
    "not_settled": "the machine did not become idle",
    "other_models_loaded": "other models were loaded",
    "after_restart": "Ollama was restarted during the run",
}
"""Flags and warnings of a run that the machine was not alone with it."""
OTHER_WORK: Final[Mapping[str, str]] = {
    "model_changed": "another version of the model was loaded during the run",
    "num_ctx_clamped": "Ollama ran the model with a smaller context than the plan's",
    "prompt_truncated": "Ollama cut the prompt",
    "reloaded": "Ollama loaded the model anew during the run",
}
"""Flags and warnings of a run that did other work than the plan says."""

# Field of the digest's environment, and what people call it.
_WATCHED: Final = (
    ("ollama_version", "Ollama"),
    ("model_digest", "model's digest"),
    ("driver", "driver"),
    ("kernel", "kernel"),
    ("os", "system"),
    ("power_limit_watts", "power limit (W)"),
    ("cpu_governor", "CPU governor"),
    ("gpu", "GPUs"),
    ("cpu", "CPU"),
    ("memory_bytes", "memory (bytes)"),
    ("num_parallel", "parallel requests"),
    ("other_models_loaded", "other models loaded"),
    ("agent_version", "agent"),
)


@dataclass(frozen=True)
class NightResults:
    """The results of one night, at least one, in their order.

    ``campaign_id`` where a campaign asked for them.
    """

    campaign_id: str | None
    results: tuple[IndexedResult, ...]

    @property
    def first(self) -> IndexedResult:
        """The result that stands for the night."""
        return self.results[0]

    @property
    def at(self) -> float:
        """When it began."""
        return self.first.stored.created_at

    @property
    def digest(self) -> str | None:
        """The model's version."""
        return digest_of_model(self.first)

    @property
    def ref(self) -> ResultRef:
        """What names it."""
        return ResultRef(job_id=self.first.stored.job_id, at=self.at)


def digest_of_model(result: IndexedResult) -> str | None:
    """Return the version of the model that a result measured."""
    return result.digest.environment.model_digest or result.stored.model_digest


def key_of(result: IndexedResult) -> LineKey:
    """Return the line that a result belongs to."""
    plan_hash = result.digest.environment.plan_hash or ""
    return LineKey(result.stored.agent_id, model_key(result.model), plan_hash)


def by_line(results: Iterable[IndexedResult]) -> dict[LineKey, list[NightResults]]:
    """Return the nights of each line, oldest first; runs that did not complete are none.

    Of a cell that was measured again in its campaign the newest result counts.
    """
    # By line, night and cell.
    grouped: dict[LineKey, dict[str, dict[str, IndexedResult]]] = {}
    for one in sorted(results, key=_begun):
        if one.digest.status == "completed":
            night, cell = _place(one.stored.job_id)
            grouped.setdefault(key_of(one), {}).setdefault(night, {})[cell] = one
    return {
        key: [NightResults(night or None, tuple(found.values())) for night, found in _in_order(nights)]
        for key, nights in grouped.items()
    }


def _place(job_id: str) -> tuple[str, str]:
    """The campaign and cell of a job; empty and the job itself where no campaign asked for it."""
    match = _JOB_OF_CELL.fullmatch(job_id)
    return ("", job_id) if match is None else (match[1], match[2])


def _in_order(nights: dict[str, dict[str, IndexedResult]]) -> list[tuple[str, dict[str, IndexedResult]]]:
    """Nights by their first result; each result that no campaign asked for is one."""
    alone = [("", {cell: one}) for cell, one in nights.get("", {}).items()]
    found = [(night, cells) for night, cells in nights.items() if night]
    return sorted([*alone, *found], key=lambda one: min(_begun(result) for result in one[1].values()))


def _begun(result: IndexedResult) -> tuple[float, str]:
    return result.stored.created_at, result.stored.job_id


def figure(digest: ResultDigest, metric: str, point: int | None) -> Summary | None:
    """Return a headline metric's summary at a point of the plan; None: in the first cell that has it."""
    at = (cell for cell in digest.cells if point in (None, cell.index))
    return next((cell.summary[metric] for cell in at if metric in cell.summary), None)


def night_of(summaries: Sequence[Summary]) -> Night | None:
    """Return a night's figure from the summaries of its results; None where none is positive."""
    usable = [one for one in summaries if one.mean > 0]
    if not usable:
        return None
    # Of repeats the median, since one that went wrong moves it least; they share their night.
    log = statistics.median([math.log(one.mean) for one in usable])
    # The delta method: the variance of the mean's logarithm.
    within = [((one.stddev or 0.0) / one.mean) ** 2 / one.n for one in usable]
    return Night(log, statistics.mean(within) / len(within))


def flags_of(night: NightResults) -> frozenset[str]:
    """Return all flags and warnings of a night's runs."""
    return frozenset(
        code
        for result in night.results
        for code in (*result.digest.flags, *(one.code for one in result.digest.warnings))
    )


def unusable(night: NightResults, others: Sequence[NightResults]) -> str | None:
    """Return why a night's figure is no measure of the machine; None where it is one.

    A machine that is never alone is measured as it is: what most of the other nights have too is no reason.
    """
    for flag in sorted(flags_of(night) & (BUSY.keys() | OTHER_WORK.keys())):
        as_usual = sum(flag in flags_of(other) for other in others)
        if 2 * as_usual <= len(others):
            return BUSY.get(flag) or OTHER_WORK[flag]
    return None


def changes(before: IndexedResult, after: IndexedResult) -> list[EnvironmentChange]:
    """Return what differs in where and with what two results were measured."""
    a, b = before.digest.environment, after.digest.environment
    found = [
        EnvironmentChange(what=what, before=_text(getattr(a, field)), after=_text(getattr(b, field)))
        for field, what in _WATCHED
        # What one of them does not say (an older agent) is no change.
        if getattr(a, field) is not None
        and getattr(b, field) is not None
        and getattr(a, field) != getattr(b, field)
    ]
    return found + _measured(a, b) + _throttled(before.digest, after.digest)


def _measured(a: DigestEnvironment, b: DigestEnvironment) -> list[EnvironmentChange]:
    """What is a figure, and differs by more than it does anyway."""
    watched = (
        ("gpu_temperature", "GPU temperature before the run (°C)", _DEGREES),
        ("cpu_temperature", "CPU temperature before the run (°C)", _DEGREES),
        ("idle_cpu_percent", "other load of the CPU (%)", _CPU_PERCENT),
        ("idle_gpu_percent", "other load of the GPU (%)", _CPU_PERCENT),
    )
    found = []
    for field, what, least in watched:
        one, other = getattr(a, field), getattr(b, field)
        if one is not None and other is not None and abs(one - other) > least:
            found.append(EnvironmentChange(what=what, before=f"{one:.0f}", after=f"{other:.0f}"))
    return found


def _throttled(a: ResultDigest, b: ResultDigest) -> list[EnvironmentChange]:
    """Held back by heat or power in one of them."""
    return [
        EnvironmentChange(what=what, before=_yes(flag in a.flags), after=_yes(flag in b.flags))
        for flag, what in (
            ("throttled_thermal", "held back by heat"),
            ("throttled_power", "held back by power"),
        )
        if (flag in a.flags) != (flag in b.flags)
    ]


def _yes(value: bool) -> str:  # noqa: FBT001 - its only meaning
    return "yes" if value else "no"


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
