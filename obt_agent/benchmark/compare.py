"""Two benchmarks side by side: ratios with intervals, and what differed besides. Pure.

Equal plan hashes, or a refusal. Speeds that Ollama itself reports are compared only where both versions mean
the same by them; by the agent's own clock they always can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from obt_agent.benchmark import statistics, stopping_rule
from obt_agent.benchmark.metrics_registry import BY_NAME, METRICS
from obt_agent.benchmark.plan import NOT_OF_THE_METHOD, Plan
from obt_agent.benchmark.result import BenchmarkResult, IterationMetrics, Ratio
from obt_agent.benchmark.semantics import version_class
from obt_agent.errors import InvalidParams

# Ollama's estimate of the share on GPUs varies by this much between loads of one model.
OFFLOAD_TOLERANCE: Final = 0.02

Weight = Literal["intended", "warning", "note"]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in which the runs differ. ``intended`` is what one compares on purpose, such as the model."""

    field: str
    a: str | None
    b: str | None
    weight: Weight
    meaning: str


class CellComparison(msgspec.Struct, frozen=True, kw_only=True):
    """Ratios a / b of one cell, by metric."""

    index: int
    label: str
    ratios: dict[str, Ratio]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """``a`` over ``b``. ``left_out`` says, by metric, why there is no ratio."""

    plan_hash: str
    model_a: str | None
    model_b: str | None
    paired: bool
    cells: tuple[CellComparison, ...]
    differences: tuple[Difference, ...]
    left_out: dict[str, str] = {}


class NotComparable(InvalidParams):
    """The two runs did not measure the same thing; the message says in what they differ."""


def compare(a: BenchmarkResult, b: BenchmarkResult) -> Comparison:
    """Independent runs: the ratio of means, with Welch's interval on its logarithm.

    Raises:
        NotComparable: the plans differ, the context in use differs, or nothing was measured.
    """
    return _compared((a,), (b,), paired=False)


def compare_pairs(a: Sequence[BenchmarkResult], b: Sequence[BenchmarkResult]) -> Comparison:
    """Runs taken in turns, one of each at a time: the interval is that of the pairs' ratios.

    Raises:
        NotComparable: as ``compare``, or the sequences are not equally long.
    """
    if not a or len(a) != len(b):
        raise NotComparable(f"pairs take as many runs of one side as of the other, not {len(a)} and {len(b)}")
    return _compared(a, b, paired=True)


def _compared(
    side_a: Sequence[BenchmarkResult], side_b: Sequence[BenchmarkResult], *, paired: bool
) -> Comparison:
    a, b = side_a[0], side_b[0]
    # Every run is held against the first: equality of hashes is transitive.
    for other in (*side_a[1:], *side_b):
        _check_plans(a, other)
    _check_contexts(side_a, side_b)
    names, left_out = _metrics_of(a, b)
    cells = tuple(
        CellComparison(
            index=cell.index,
            label=cell.label,
            ratios=_ratios(_of_cell(side_a, cell.index), _of_cell(side_b, cell.index), names, paired=paired),
        )
        for cell in a.cells
    )
    if not any(cell.ratios for cell in cells):
        raise NotComparable("one of the runs measured nothing that the other measured too")
    return Comparison(
        plan_hash=a.environment.plan_hash,
        model_a=a.environment.model,
        model_b=b.environment.model,
        paired=paired,
        cells=cells,
        differences=differences(a, b),
        left_out=left_out,
    )


def _check_plans(a: BenchmarkResult, b: BenchmarkResult) -> None:
    one, other = a.environment.plan_hash, b.environment.plan_hash
    if one != other:
        changed = ", ".join(changed_fields(a.config, b.config)) or "a prompt's text"
        raise NotComparable(
            f"the plans differ ({one[:12]} and {other[:12]}) in {changed}: run both with the same plan"
        )


def changed_fields(a: Plan, b: Plan) -> list[str]:
    """The names of what two plans differ in, as far as it is a matter of method."""
    names = [name for name in a.__struct_fields__ if name not in NOT_OF_THE_METHOD]
    return [name for name in names if getattr(a, name) != getattr(b, name)]


def _check_contexts(a: Sequence[BenchmarkResult], b: Sequence[BenchmarkResult]) -> None:
    # Ollama clamps a context that the model or the memory does not allow; prefill then does other work.
    for index in {one.cell for result in a for one in result.metrics}:
        in_a = {one.num_ctx for one in _of_cell(a, index)} - {None}
        in_b = {one.num_ctx for one in _of_cell(b, index)} - {None}
        if in_a and in_b and in_a != in_b:
            raise NotComparable(
                f"Ollama ran cell {index} with a context of {sorted(map(str, in_a))} in one run and "
                f"{sorted(map(str, in_b))} in the other: set num_ctx to what both support"
            )


def _metrics_of(a: BenchmarkResult, b: BenchmarkResult) -> tuple[tuple[str, ...], dict[str, str]]:
    names = tuple(one.name for one in METRICS if one.compared)
    class_a, class_b = (version_class(one.environment.ollama_version) for one in (a, b))
    if class_a == class_b:
        return names, {}
    # Between such versions Ollama's own figures differ in meaning; the agent's clock stays the same.
    ollamas = [one.name for one in METRICS if one.compared and one.clock == "ollama"]
    versions = f"{a.environment.ollama_version} and {b.environment.ollama_version}"
    reason = f"Ollama {versions} mean different things by it"
    return tuple(name for name in names if name not in ollamas), dict.fromkeys(ollamas, reason)


def _of_cell(results: Sequence[BenchmarkResult], index: int) -> list[IterationMetrics]:
    return [
        one
        for result in results
        for one in stopping_rule.counted_by_plan(result.config, result.metrics, index)
    ]


def _ratios(
    of_a: Sequence[IterationMetrics], of_b: Sequence[IterationMetrics], names: Sequence[str], *, paired: bool
) -> dict[str, Ratio]:
    found: dict[str, Ratio] = {}
    for name in names:
        a, b = _observations(of_a, name), _observations(of_b, name)
        if paired:
            pairs = [
                (x, y)
                for one, other in zip(a, b, strict=False)
                if (x := _positive(one, name)) is not None and (y := _positive(other, name)) is not None
            ]
            if pairs:
                found[name] = statistics.ratio_paired([x for x, _ in pairs], [y for _, y in pairs])
            continue
        values_a = [x for one in a if (x := _positive(one, name)) is not None]
        values_b = [y for one in b if (y := _positive(one, name)) is not None]
        if values_a and values_b:
            found[name] = statistics.ratio_unpaired(values_a, values_b)
    return found


def _observations(metrics: Sequence[IterationMetrics], name: str) -> list[IterationMetrics]:
    """The iterations whose figure is one of its own: of the load of a model the first that shows it."""
    if BY_NAME[name].aggregation != "load":
        return list(metrics)
    return list({getattr(one, name): one for one in reversed(metrics)}.values())[::-1]


def _positive(one: IterationMetrics, name: str) -> float | None:
    value = getattr(one, name)
    # Ratios are taken on the logarithm, which zero does not have.
    return float(value) if value is not None and value > 0 else None


_FIELDS: Final[tuple[tuple[str, Weight, str], ...]] = (
    ("model", "intended", "another model"),
    ("model_digest", "intended", "another version of the model"),
    ("quantization", "warning", "other precision: speed and quality differ"),
    ("parameter_size", "note", "another size"),
    ("ollama_version", "warning", "Ollama itself may be faster or slower"),
    ("gpu", "intended", "other GPUs"),
    ("driver", "note", "another driver"),
    ("power_limit_watts", "warning", "GPUs may draw different power"),
    ("cpu_governor", "warning", "CPUs choose their clocks by another rule"),
    ("cpu", "intended", "another CPU"),
    ("other_models_loaded", "warning", "other models took memory, and perhaps time"),
    ("memory_bytes", "note", "another amount of memory"),
    ("os", "note", "another system"),
    ("agent_version", "note", "another version of the agent"),
)


def differences(a: BenchmarkResult, b: BenchmarkResult) -> tuple[Difference, ...]:
    """Everything in the environments that differs, weightiest first."""
    found = [
        Difference(
            field=field,
            a=_text(getattr(a.environment, field)),
            b=_text(getattr(b.environment, field)),
            weight=_weight(a, b, field, weight),
            meaning=meaning,
        )
        for field, weight, meaning in _FIELDS
        if getattr(a.environment, field) != getattr(b.environment, field)
    ]
    found += _offload(a, b) + _states(a, b) + _company(a, b)
    # What puts the ratio in doubt comes before what one compares on purpose.
    order = {"warning": 0, "intended": 1, "note": 2}
    return tuple(sorted(found, key=lambda one: order[one.weight]))


def _weight(a: BenchmarkResult, b: BenchmarkResult, field: str, usual: Weight) -> Weight:
    """The same name with another digest is a surprise, not what was meant."""
    same_name = a.environment.model == b.environment.model
    return "warning" if field == "model_digest" and same_name else usual


def _offload(a: BenchmarkResult, b: BenchmarkResult) -> list[Difference]:
    one, other = a.environment.gpu_offload_ratio, b.environment.gpu_offload_ratio
    if one is None or other is None or abs(one - other) <= OFFLOAD_TOLERANCE:
        return []
    meaning = "another share of the model was on GPUs, which decides speed"
    return [
        Difference(
            field="gpu_offload_ratio", a=f"{one:.2f}", b=f"{other:.2f}", weight="warning", meaning=meaning
        )
    ]


def _states(a: BenchmarkResult, b: BenchmarkResult) -> list[Difference]:
    if a.status == b.status == "completed":
        return []
    meaning = "a run did not end as planned: it may have fewer iterations"
    return [Difference(field="status", a=a.status, b=b.status, weight="warning", meaning=meaning)]


def _company(a: BenchmarkResult, b: BenchmarkResult) -> list[Difference]:
    """What kept a run from having the machine for itself: said also where both runs had company."""
    found: list[Difference] = []
    shared = [one.used_meanwhile is not None and one.used_meanwhile.used for one in (a, b)]
    if any(shared):
        meaning = "others used the machine meanwhile: the figures may be those of two programs"
        words = [_YES_NO[one] for one in shared]
        found.append(
            Difference(field="used_meanwhile", a=words[0], b=words[1], weight="warning", meaning=meaning)
        )
    settled = [one.settled is None or one.settled.reached for one in (a, b)]
    if not all(settled):
        meaning = "a run began on a machine that was not idle, or not cool"
        words = [_YES_NO[one] for one in settled]
        found.append(Difference(field="settled", a=words[0], b=words[1], weight="warning", meaning=meaning))
    return found


_YES_NO: Final = {True: "yes", False: "no"}


def _text(value: object) -> str | None:
    if value is None:
        return None
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
