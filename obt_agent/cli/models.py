"""``obt-agent models``: what Ollama has installed and loaded, asked of Ollama directly."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from obt_agent.argument_parser import JSON_OPTION, add_options
from obt_agent.cli import exit_codes
from obt_agent.cli.common import load_config, to_stderr
from obt_agent.cli.options import add_config_options
from obt_agent.cli.tables import console_for, print_table
from obt_agent.config.schema import OllamaConfig
from obt_agent.ollama.client import OllamaClient
from obt_agent.ollama.lists import InstalledList, RunningList
from obt_agent.ollama.payloads import InstalledModel, RunningModel
from obt_agent.text_output import print_json

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP: Final = 1024
# As Ollama's own list shows them.
_DIGEST_CHARS: Final = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_options(parser, JSON_OPTION)
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the models; 69 when Ollama does not answer."""
    ollama = load_config(args).config.ollama
    # Entries that cannot be read are named, and do not hide the others.
    version, (installed, odd), (running, odd_running) = asyncio.run(_ask(ollama))
    for problem in odd + odd_running:
        to_stderr(f"Note: {problem}")
    if args.json:
        print_json({"ollama_version": version, "models": installed, "running": running})
    elif installed:
        _print_table(version, installed, running)
    else:
        to_stderr(
            f"Ollama {version} at {ollama.url} has no models. Get a small one with: ollama pull llama3.2:1b"
        )
    return exit_codes.OK


async def _ask(config: OllamaConfig) -> tuple[str, InstalledList, RunningList]:
    async with OllamaClient(config) as client:
        return await client.version(), await client.installed(), await client.running()


def _print_table(
    version: str, installed: tuple[InstalledModel, ...], running: tuple[RunningModel, ...]
) -> None:
    table = Table(box=box.SIMPLE, title=f"Ollama {version}", title_justify="left")
    # Names and digests are copied and searched for: they stay whole, and what a model can is folded first.
    for heading in ("Model", "Parameters", "Quantization", "Size", "Context", "Can", "Digest", "Loaded"):
        right = heading in ("Size", "Context")
        table.add_column(heading, no_wrap=heading != "Can", justify="right" if right else "left")
    loaded = {model.name: model for model in running}
    for model in installed:
        table.add_row(*(Text(cell) for cell in _row(model, loaded.get(model.name))))
    print_table(console_for(sys.stdout), table)


def _row(model: InstalledModel, running: RunningModel | None) -> tuple[str, ...]:
    return (
        model.name,
        model.parameter_size or "–",
        model.quantization_level or "–",
        f"runs at {model.remote_host}" if model.remote_host else size_text(model.size_bytes),
        str(model.context_length or "–"),
        ", ".join(model.capabilities) or "–",
        model.digest.removeprefix("sha256:")[:_DIGEST_CHARS],
        loaded_text(running),
    )


def loaded_text(running: RunningModel | None) -> str:
    """Where a loaded model lies: ``5.1 GiB, 100 % GPU``."""
    if running is None:
        return ""
    ratio = running.gpu_offload_ratio
    share = "" if ratio is None else f", {ratio:.0%} GPU".replace("%", " %")
    return size_text(running.size_bytes) + share


def size_text(size: int) -> str:
    """Bytes for people: ``1.3 GiB``."""
    amount = float(size)
    for unit in _UNITS:
        if amount < _STEP or unit == _UNITS[-1]:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= _STEP
    raise AssertionError  # the last unit takes everything
