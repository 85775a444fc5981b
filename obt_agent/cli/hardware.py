"""``obt-agent hardware``: what this machine is made of and does, what could not be read, and why."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import msgspec
from rich.live import Live

from obt_agent.cli import exit_codes
from obt_agent.cli.common import load_config, to_stderr
from obt_agent.cli.hardware_report import live, report
from obt_agent.cli.options import add_config_options
from obt_agent.cli.tables import console_for, print_table
from obt_agent.config.schema import OllamaConfig
from obt_agent.errors import AgentError, ConfigError
from obt_agent.hardware.gpu.registry import gpu_providers
from obt_agent.hardware.inventory import Inventory
from obt_agent.hardware.samples import Sample
from obt_agent.hardware.service import HardwareService
from obt_agent.hardware.snapshot.capture import RecordingRoot, capture
from obt_agent.hardware.snapshot.replay import replay
from obt_agent.hardware.snapshot.root import Root
from obt_agent.ollama.client import OllamaClient
from obt_agent.text_output import print_json

_WATCH_INTERVAL_S = 1.0
# Between the two samples that rates need: the kernel counts processor time in steps of 10 ms.
_FIRST_WINDOW_S = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--json", action="store_true", help="inventory and a sample as JSON")
    what.add_argument("--watch", action="store_true", help="live readings, until interrupted")
    what.add_argument(
        "--capture",
        metavar="DIR",
        help="write a masked snapshot (no serials, UUIDs, names of hosts and users) to attach to a report",
    )
    words = "between readings with --watch (1)"
    parser.add_argument(
        "--interval", type=_interval, default=_WATCH_INTERVAL_S, metavar="SECONDS", help=words
    )
    parser.add_argument(
        "--replay", metavar="DIR", help="show the machine of a snapshot, as --capture writes it"
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print this machine, or that of a snapshot; or write a snapshot."""
    if args.replay:
        if args.watch or args.capture:
            raise ConfigError("--replay shows one reading of another machine: no --watch, no --capture")
        _replay(Path(args.replay), json=args.json)
    elif args.capture:
        _capture(Path(args.capture))
    else:
        asyncio.run(_show(args))
    return exit_codes.OK


def _interval(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:  # noqa: PLR2004 - a range for people
        raise argparse.ArgumentTypeError("expected 0.1 to 3600 seconds")
    return seconds


async def _show(args: argparse.Namespace) -> None:
    config = load_config(args).config
    # Else a sample that is asked for soon after another would be that other one.
    service = HardwareService(
        msgspec.structs.replace(config.hardware, min_interval_s=min(args.interval, _FIRST_WINDOW_S)),
        ollama_url=config.ollama.url,
    )
    service.note_ollama_version(await _ollama_version(config.ollama.url))
    try:
        inventory = await service.inventory()
        # A watch runs until it is interrupted; its service takes the samples.
        if args.watch:
            await _watch(service, inventory, args.interval)
            return
        sample = await _second_sample(service)
        _print(inventory, sample, json=args.json)
    finally:
        await service.close()


async def _ollama_version(url: str) -> str | None:
    # Its version is a detail of the report: an Ollama that does not answer must not hold it up.
    config = OllamaConfig(url=url, connect_timeout_s=1.0, request_timeout_s=2.0)
    try:
        async with OllamaClient(config, attempts=1) as client:
            return await client.version()
    except AgentError:
        return None


async def _second_sample(service: HardwareService) -> Sample:
    # Rates need two.
    await service.sample()
    await asyncio.sleep(_FIRST_WINDOW_S)
    return await service.sample()


def _print(inventory: Inventory, sample: Sample, *, json: bool) -> None:
    if json:
        print_json({"inventory": inventory, "sample": sample})
    else:
        print_table(console_for(sys.stdout), report(inventory, sample), folds=True)


async def _watch(service: HardwareService, inventory: Inventory, interval_s: float) -> None:
    """In place at a terminal; into a pipe or file, one after the other."""
    await service.start()
    console = console_for(sys.stdout)
    # A terminal has the latest picture alone, on a screen of its own, which is left as it was. A dumb one has
    # no such screen, and rich would show nothing there.
    in_place = console.is_terminal and not console.is_dumb_terminal
    place = Live(console=console, auto_refresh=False, screen=True) if in_place else nullcontext()
    with place as screen:
        async for sample in _samples(service, interval_s):
            picture = live(inventory, sample, service.sampler_cost)
            if screen is None:
                print_table(console, picture, folds=True)
            else:
                screen.update(picture, refresh=True)
            inventory = await service.inventory()


async def _samples(service: HardwareService, interval_s: float) -> AsyncIterator[Sample]:
    async with service.watch(interval_s, reason="obt-agent hardware --watch") as watch:
        async for sample in watch:
            yield sample


def _replay(folder: Path, *, json: bool) -> None:
    try:
        reading, root = replay(folder)
    except OSError as error:
        raise ConfigError(f"{folder} is no snapshot: {error.filename}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{folder} is no snapshot: manifest.json: {error}") from error
    to_stderr(
        f"Replayed from {folder} ({root.manifest.origin}): rates are missing, for they need two readings."
    )
    _print(reading.inventory, reading.sample, json=json)


def _capture(folder: Path) -> None:
    # Providers read through the recorder; what it noted is then copied past it, masked.
    recorder = RecordingRoot(Root())
    try:
        capture(folder, Root(), gpu_providers(recorder), recorder, source="obt-agent hardware --capture")
    except FileExistsError as error:
        raise ConfigError(f"{folder} is there already; name a folder that is not") from error
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}") from error
    to_stderr(
        f"Wrote {folder}. Look through it before you send it: it should hold no serial number, UUID or name."
    )
