"""Results of benchmarks for people and for programs: a table, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Final, TextIO

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from obt_agent.benchmark.metrics_registry import METRICS, Metric
from obt_agent.benchmark.obt_format import to_obt
from obt_agent.benchmark.result import BenchmarkResult, CellResult, IterationMetrics, Summary
from obt_agent.cli.common import as_json
from obt_agent.cli.tables import console_for, print_table

# Stands for what was not measured, which is never 0.
UNKNOWN: Final = "–"
_PLURAL: Final = ("iteration", "iterations")

_COLUMN_GAP: Final = 3
_HEADINGS: Final = ("", "Median", "95 % interval of the mean", "Spread", "Least to most", "n")


def show(results: Sequence[BenchmarkResult], form: str | None, file: TextIO) -> None:
    """Write the results: ``json``, ``obt``, ``csv``, ``markdown``, or None for tables."""
    match form:
        case "json" | "obt":
            each = [to_obt(result) for result in results] if form == "obt" else results
            file.write(as_json(each[0] if len(each) == 1 else each) + "\n")
        case "csv":
            file.write(as_csv(results))
        case "markdown":
            file.write("\n".join(as_markdown(result) for result in results))
        case _:
            console = console_for(file)
            for result in results:
                _print_tables(console, result)
            if len(results) > 1:
                console.print()
                console.print(Text("All models", style="bold"))
                print_table(console, _headline_table("Model", _lines_of_all(results), console.width))


def as_csv(results: Sequence[BenchmarkResult]) -> str:
    """A line for each measured iteration, with every plain field; flags joined by spaces."""
    # What holds several values has no place in a cell; the JSON has it.
    skipped = {"unavailable", "inter_chunk_ms", "throttle", "requests"}
    names = [name for name in IterationMetrics.__struct_fields__ if name not in skipped]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "status", "plan_hash", *names])
    for result in results:
        head = [result.config.model_name, result.status, result.environment.plan_hash]
        for one in result.metrics:
            writer.writerow([*head, *(_plain(getattr(one, name)) for name in names)])
    return text.getvalue()


def _plain(value: object) -> str:
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def as_markdown(result: BenchmarkResult) -> str:
    """The table, the warnings and the environment as Markdown."""
    lines = [f"## {heading(result)}", ""]
    for cell in result.cells:
        if len(result.cells) > 1:
            lines += [f"### {cell.label}", ""]
        titles = ("Metric", *_HEADINGS[1:])
        lines += [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
        lines += [f"| {' | '.join(row)} |" for row in rows(result, cell)]
        lines.append("")
    lines += [f"- {line}" for line in footing(result)]
    lines += [f"- **{message}**: {action}" for message, action in warnings(result)]
    return "\n".join(lines) + "\n"


def heading(result: BenchmarkResult) -> str:
    """Model, quantization, ending."""
    about = result.environment
    parts = [part for part in (about.parameter_size, about.quantization) if part]
    ending = "" if result.status == "completed" else f": {result.status}"
    return (
        f"{about.model or result.config.model_name}{' (' + ', '.join(parts) + ')' if parts else ''}{ending}"
    )


def rows(result: BenchmarkResult, cell: CellResult) -> list[tuple[str, ...]]:
    """The table's rows: label with unit, median, interval, spread, range, n."""
    # Rows that would be empty for this model or this number of requests are left out.
    wanted: set[str] = {"always"}
    if any(one.thinking_chars for one in result.metrics):
        wanted.add("thinking")
    if cell.concurrency > 1:
        wanted.add("concurrent")
    found: list[tuple[str, ...]] = []
    for metric in METRICS:
        if metric.shown not in wanted or metric.name not in cell.summary:
            continue
        one = cell.summary[metric.name]
        if metric.aggregation == "sum" and cell.concurrency > 1:
            of_each = _divided(one, cell.concurrency)
            found.append((f"{metric.label} of each request ({metric.unit})", *_figures(metric, of_each)))
            found.append((f"{metric.label} of all requests ({metric.unit})", *_figures(metric, one)))
        else:
            found.append((f"{metric.label} ({metric.unit})", *_figures(metric, one)))
    return found


def _divided(one: Summary, by: int) -> Summary:
    """The summary of a ``by``-th part of the values; the spread, a share of the mean, stays."""
    figures = ("mean", "median", "stddev", "min", "max", "ci_low", "ci_high")
    known = {name: value / by for name in figures if (value := getattr(one, name)) is not None}
    return msgspec.structs.replace(one, **known)


def _figures(metric: Metric, one: Summary) -> tuple[str, ...]:
    exact = metric.unit == "tokens" and one.min == one.max  # equal counts have no decimals
    shown = (lambda value: f"{value:.0f}") if exact else number
    interval = UNKNOWN
    if one.ci_low is not None and one.ci_high is not None:
        interval = f"{shown(one.ci_low)} – {shown(one.ci_high)}"
        if not one.ci_low <= one.median <= one.ci_high:  # of a skewed sample the mean is another figure
            interval += f" (mean {shown(one.mean)})"
    spread = UNKNOWN if one.cv is None else f"{one.cv * 100:.1f} %"
    return shown(one.median), interval, spread, f"{shown(one.min)} – {shown(one.max)}", str(one.n)


def number(value: float) -> str:
    """Four significant digits or so, never an exponent."""
    size = abs(value)
    if size == 0.0:
        return "0"
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 4  # noqa: PLR2004 - readable sizes
    return f"{value:,.{digits}f}".replace(",", " ")


def footing(result: BenchmarkResult) -> list[str]:
    """What was measured, and where."""
    about = result.environment
    lines: list[str] = []
    if result.cold_load is not None:
        cache = {"warm": "file cached by the system", "unknown": "file perhaps cached by the system"}
        lines.append(
            f"cold load {number(result.cold_load.wall_ms)} ms "
            f"({cache.get(result.cold_load.page_cache, result.cold_load.page_cache)})"
        )
    for cell in result.cells:
        width = max((w for w in (cell.stopping.width_decode, cell.stopping.width_ttft) if w), default=None)
        words = f"{cell.label}: {cell.stopping.iterations} iterations ({cell.stopping.reason})"
        lines.append(words if width is None else f"{words}, widest interval {100 * width:.1f} % of the mean")
    if result.config.alternate_sampling:
        lines.append(_sampling_effect(result))
    hardware = ", ".join(about.gpu) or about.cpu or "unknown hardware"
    lines.append(f"Ollama {about.ollama_version or 'unknown'}, {hardware}, plan {about.plan_hash[:12]}")
    return lines


def _sampling_effect(result: BenchmarkResult) -> str:
    """What sampling costs, as its option promises."""
    effect = None if result.sampler is None else result.sampler.effect
    if effect is None:
        return "what sampling costs: no sampled iteration beside an unsampled one, ask for more iterations"
    shown = f"decode speed with sampling {effect.ratio - 1:+.2%}"
    if effect.ci_low is None or effect.ci_high is None:
        return f"{shown} ({effect.n_a} pair, too few for an interval)"
    return (
        f"{shown} (95 % interval {effect.ci_low - 1:+.2%} to {effect.ci_high - 1:+.2%}, {effect.n_a} pairs)"
    )


def warnings(result: BenchmarkResult) -> list[tuple[str, str]]:
    """Each warning with where it applies, and what to do."""
    kept = f"{len(result.metrics)} iterations measured before are kept"
    found = [(result.error, kept if result.metrics else "nothing was measured")] if result.error else []
    # With one cell its label says nothing.
    labels = {cell.index: cell.label for cell in result.cells} if len(result.cells) > 1 else {}
    # One line for each message, with all places to which it applies.
    places: dict[tuple[str, str], list[str]] = {}
    for one in result.warnings:
        where = [str(index) for index in one.iterations]
        where = [f"{_PLURAL[len(where) > 1]} {', '.join(where)}"] if where else []
        if one.cell in labels:
            where.insert(0, labels[one.cell])
        places.setdefault((one.message, one.action), []).append(", ".join(where))
    for (message, action), wheres in places.items():
        known = "; ".join(where for where in wheres if where)
        found.append((f"{message} ({known})" if known else message, action))
    return found


def _print_tables(console: Console, result: BenchmarkResult) -> None:
    console.print()
    console.print(Text(heading(result), style="bold"))
    if len(result.cells) > 1:
        cells = [(cell.label, cell) for cell in result.cells]
        print_table(console, _headline_table("Prompt:answer", cells, console.width))
    elif result.metrics:
        print_table(console, _table(rows(result, result.cells[0])))
    for line in footing(result):
        console.print(Text(line, style="dim"))
    for message, action in warnings(result):
        console.print(Text.assemble(("! ", "yellow"), message, (" → ", "yellow"), action))


def _table(lines: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, title in enumerate(_HEADINGS):
        table.add_column(title, justify="left" if position == 0 else "right")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    return table


def _lines_of_all(results: Sequence[BenchmarkResult]) -> list[tuple[str, CellResult]]:
    """Each measured cell of each model, named by the model, and by its own label where there are several."""
    named = [(result.environment.model or result.config.model_name, result.cells) for result in results]
    return [
        (f"{model} {cell.label}" if len(cells) > 1 else model, cell)
        for model, cells in named
        for cell in cells
        if cell.summary
    ]


def _headline_table(title: str, cells: Sequence[tuple[str, CellResult]], width: int) -> Table:
    """A line for each cell: medians, with half the interval's width beside them where the columns allow."""
    concurrent = any(cell.concurrency > 1 for _, cell in cells)
    shown = [
        metric
        for metric in METRICS
        if metric.headline
        and metric.clock != "machine"
        and (concurrent or metric.shown != "concurrent")
        and any(metric.name in cell.summary for _, cell in cells)
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    lines = [_cell_line(label, cell, shown, with_width=True) for label, cell in cells]
    # A table that is too wide would fold in the middle of figures: the intervals go first.
    if sum(max(map(len, column)) + _COLUMN_GAP for column in zip(*lines, strict=True)) > width:
        lines = [_cell_line(label, cell, shown, with_width=False) for label, cell in cells]
    table.add_column(title, no_wrap=True)
    for metric in shown:
        table.add_column(f"{metric.brief} {metric.unit}", justify="right")
    table.add_column("n", justify="right")
    for line in lines:
        table.add_row(*(Text(one) for one in line))
    return table


def _cell_line(label: str, cell: CellResult, shown: Sequence[Metric], *, with_width: bool) -> tuple[str, ...]:
    figures = [_short(cell.summary.get(metric.name), with_width=with_width) for metric in shown]
    return (label, *figures, str(cell.stopping.iterations))


def _short(one: Summary | None, *, with_width: bool) -> str:
    if one is None:
        return UNKNOWN
    # One iteration has a median and no interval.
    if one.ci_low is None or one.ci_high is None or not with_width:
        return number(one.median)
    half = number((one.ci_high - one.ci_low) / 2)
    # Of a skewed sample the interval is of another figure, and is not to be read as the median's.
    if not one.ci_low <= one.median <= one.ci_high:
        return f"{number(one.median)}\u00a0(mean\u00a0{number(one.mean)}\u00a0±\u00a0{half})"
    return f"{number(one.median)}\u00a0±\u00a0{half}"
