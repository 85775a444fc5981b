"""What the smoke test found, for a person."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table

from obt_agent.benchmark.metrics_registry import BY_NAME
from obt_server.client import JsonObject
from obt_server.demo.ollama_target import OllamaTarget
from obt_server.demo.smoke_test import REFUSED, SmokeTest, StepResult

STANDIN: Final = "stand-in, not a real model"
# Commands that tell of machine and agent; the other lines hold what Ollama, or a stand-in, said.
OWN: Final = frozenset({"hardware", "hardware_watch", "agent_info"})
# Of an iteration; the result has more.
_METRICS: Final = tuple(
    BY_NAME[name]
    for name in ("tokens_per_second", "decode_tps_corrected", "first_token_ms", "average_token_ms")
)


class SmokeReport:
    """Print a line for each step, and tables at the end.

    Args:
        console: where to.
        target: the Ollama that is driven; a stand-in is named beside every figure that comes from it.
    """

    def __init__(self, console: Console, target: OllamaTarget) -> None:
        self._console = console
        self._mark = f" ({STANDIN})" if target.standin else ""
        self.failed: list[StepResult] = []

    def head(self, target: OllamaTarget, url: str) -> None:
        """Print the server and which Ollama is driven."""
        self._console.print(f"Server [bold]{url}[/], agent admitted over its own outbound WebSocket.")
        if target.standin:
            where = (
                f"No Ollama answers at {target.silent} (set OLLAMA_URL if it is elsewhere); "
                if target.silent
                else f"No Ollama, at {target.url} "
            )
            self._console.print(
                f"[yellow]{where}a stand-in ({target.version}) takes its place. "
                "Its figures are scripted and say nothing of this machine.[/]"
            )
        else:
            self._console.print(f"Ollama {target.version} at {target.url}.")
        self._console.print()

    def step(self, step: StepResult) -> None:
        """One command."""
        mark = "[green]ok[/]  " if step.ok else "[red]FAIL[/]"
        if not step.ok:
            self.failed.append(step)
        self._console.print(f"{mark} {step.method:<18} ", end="")
        # Only figures of Ollama's are marked: hardware and agent are real, beside a stand-in too.
        mark = self._mark if step.ok and step.method not in OWN | REFUSED else ""
        # Not as markup: names of models and messages of errors may hold brackets.
        self._console.print(step.line + mark, markup=False, highlight=False, soft_wrap=True)

    def tables(self, test: SmokeTest) -> None:
        """Models, hardware, benchmark and generation in full."""
        self._models(test.models)
        self._hardware(test.hardware)
        self._benchmark(test.result)
        if test.answer:
            self._console.print(f"\n[bold]Streamed generation[/]{self._mark}")
            self._console.print(test.answer.strip(), markup=False, highlight=False, style="italic")

    def verdict(self) -> int:
        """The last line; the exit status."""
        self._console.print()
        if self.failed:
            names = ", ".join(step.method for step in self.failed)
            self._console.print(f"[red]{len(self.failed)} commands failed: {names}[/]")
            return 1
        self._console.print("[green]Every command of the protocol was run once.[/]")
        return 0

    def _table(self, title: str, *columns: str) -> Table:
        table = Table(title=title + self._mark, title_justify="left", title_style="bold")
        for column in columns:
            # A name stays whole, so that it can be copied.
            table.add_column(column, overflow="fold", no_wrap=column == "name")
        return table

    def _models(self, models: list[JsonObject]) -> None:
        table = self._table(
            "Models", "name", "digest", "size", "parameters", "quantization", "context", "can"
        )
        for model in models:
            table.add_row(
                model["name"],
                model["digest"][:12],
                f"{model['size_bytes'] / 1e6:.0f} MB",
                model.get("parameter_size") or "",
                model.get("quantization_level") or "",
                str(model.get("context_length") or ""),
                ", ".join(model.get("capabilities") or []),
            )
        self._console.print()
        self._console.print(table)

    def _hardware(self, hardware: JsonObject) -> None:
        if not hardware:
            return
        # Any part may be missing: what this machine does not show is left out of its inventory.
        inventory = hardware["inventory"]
        cpu, memory = inventory.get("cpu") or {}, inventory.get("memory") or {}
        host = inventory.get("host") or {}
        table = Table(
            title="Hardware (this machine)", title_justify="left", title_style="bold", show_header=False
        )
        table.add_row("host", f"{host.get('distro')}, kernel {host.get('kernel')}, {host.get('arch')}")
        table.add_row(
            "CPU",
            f"{cpu.get('model')}, {cpu.get('physical_cores')} cores, {cpu.get('logical_cores')} threads",
        )
        table.add_row("memory", f"{(memory.get('total_bytes') or 0) / 2**30:.1f} GiB")
        for gpu in inventory.get("gpus") or []:
            table.add_row(
                "GPU", f"{gpu.get('name')} ({gpu.get('vendor')}, driver {gpu.get('driver_version')})"
            )
        if not inventory.get("gpus"):
            table.add_row("GPU", "none found")
        self._console.print(table)

    def _benchmark(self, result: JsonObject) -> None:
        measured = result.get("metrics") or []
        # The benchmark failed: its step says why.
        if not measured:
            return
        table = self._table(
            f"Benchmark, {len(measured)} iterations",
            "iteration",
            *(f"{one.brief} {one.unit}" for one in _METRICS),
        )
        for number, metrics in enumerate(measured, start=1):
            table.add_row(str(number), *(_figure(metrics.get(one.name)) for one in _METRICS))
        self._console.print(table)
        for warning in result.get("warnings") or []:
            words = f"! {warning['message']} → {warning['action']}"
            self._console.print(words, markup=False, highlight=False, style="yellow")


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"
