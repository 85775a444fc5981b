"""Two benchmarks side by side, for people."""

from __future__ import annotations

from typing import Final, TextIO

from rich import box
from rich.table import Table
from rich.text import Text

from obt_agent.benchmark.compare import Comparison
from obt_agent.benchmark.metrics_registry import BY_NAME
from obt_agent.benchmark.result import Ratio
from obt_agent.cli.bench_report import UNKNOWN
from obt_agent.cli.tables import console_for, print_table

# As Ollama's own list shows them.
_DIGEST_CHARS: Final = 12


def show(compared: Comparison, file: TextIO) -> None:
    """Print ratios with their intervals, then what else differed."""
    console = console_for(file)
    pairing = "measured in turns" if compared.paired else "measured apart"
    console.print()
    console.print(Text(f"{compared.model_a} over {compared.model_b}, {pairing}", style="bold"))
    for cell in compared.cells:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for position, title in enumerate((cell.label, "Ratio", "95 % interval", "Reading")):
            table.add_column(title, justify="left" if position in (0, 3) else "right")
        for name, ratio in cell.ratios.items():
            table.add_row(BY_NAME[name].label, f"{ratio.ratio:.3f}", _interval(ratio), reading(name, ratio))
        print_table(console, table)
    for one in compared.differences:
        # Only what puts the ratio in doubt is marked; what one compares on purpose is not.
        mark = "! " if one.weight == "warning" else "  "
        a, b = _shown(one.field, one.a), _shown(one.field, one.b)
        console.print(Text(f"{mark}{one.field}: {a} against {b}: {one.meaning}"))
    for name, reason in compared.left_out.items():
        console.print(Text(f"  {BY_NAME[name].label} left out: {reason}"))
    if not compared.paired:
        console.print(Text("  The intervals know of nothing that changed between the runs.", style="dim"))


def _shown(field: str, value: str | None) -> str:
    if value is None:
        return "unknown"
    return value[:_DIGEST_CHARS] if field == "model_digest" else value


def _interval(ratio: Ratio) -> str:
    if ratio.ci_low is None or ratio.ci_high is None:
        return UNKNOWN
    return f"{ratio.ci_low:.3f} – {ratio.ci_high:.3f}"


def reading(name: str, ratio: Ratio) -> str:
    """What an interval says: better, worse, or nothing for sure."""
    if ratio.ci_low is None or ratio.ci_high is None:
        return "too few iterations for an interval"
    # An interval that holds 1 allows for either direction, however far from 1 the ratio lies.
    if ratio.ci_low <= 1 <= ratio.ci_high:
        return "no difference shown"
    higher = ratio.ratio > 1
    if BY_NAME[name].better is None:
        return "more" if higher else "less"
    return "better" if higher == (BY_NAME[name].better == "higher") else "worse"
