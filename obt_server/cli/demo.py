"""``obt-server demo``: a server and agents on this machine, at the Ollama that answers and at stand-ins."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import aiohttp
import structlog
from rich.console import Console

from obt_agent.system import signals
from obt_server.cli.campaigns import run_example
from obt_server.cli.options import UsageError, port
from obt_server.cli.run import DEFAULT_PORT
from obt_server.client import ApiError, Client
from obt_server.demo.environment import OPERATOR, DemoEnvironment, demo_environment, free_port
from obt_server.demo.fleet import MACHINES, DemoFleet, demo_fleet
from obt_server.demo.processes import ChildFailed
from obt_server.demo.report import SmokeReport
from obt_server.demo.smoke_test import NO_MODEL, run_smoke_test

# Columns of a report that goes to a file or a pipe.
WIDE: Final = 110
# The exit status that shells give to a program that Ctrl-C ended.
INTERRUPTED: Final = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--once", action="store_true", help="run every command once, print a report, and end")
    parser.add_argument(
        "--port", type=port, default=DEFAULT_PORT, help="port (default: %(default)s, else any free one)"
    )
    parser.add_argument(
        "--machines",
        type=int,
        choices=range(1, len(MACHINES) + 2),
        default=len(MACHINES) + 1,
        help="how many: this one, and others on stand-ins, with scripted GPUs (default: %(default)s)",
    )
    parser.set_defaults(work=run)


def run(options: argparse.Namespace) -> int:
    """Exit status 0; 1 when a part did not come up, or with ``--once`` when a command failed."""
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    # The server runs in this process: its log would drown the report.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        with tempfile.TemporaryDirectory(prefix="obt-demo-") as folder:
            return asyncio.run(_demo(console, Path(folder), options))
    except ChildFailed as error:
        print(f"obt-server: {error}", file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        # A signal during the start, or during ``--once``.
        return INTERRUPTED


async def _demo(console: Console, folder: Path, options: argparse.Namespace) -> int:
    # A machine that runs a server already has the usual port taken, and can be shown the demonstration too.
    free = free_port(options.port)
    if options.port not in (0, free):
        console.print(f"Port {options.port} is taken; using {free}.")
    with _cancel_on_signals():
        async with demo_environment(folder, free) as ready:
            report = SmokeReport(console, ready.target)
            report.head(ready.target, ready.url)
            if options.once:
                return await _once(ready, report)
            await _show_how_to_sign_in(console, ready)
            await _run_fleet(console, folder, ready, options.machines - 1)
            console.print("Stopping the agents and the server.")
    return 0


async def _run_fleet(console: Console, folder: Path, ready: DemoEnvironment, further: int) -> None:
    """Keep the further machines beside the first one until a signal."""
    if further == 0:
        await _wait_for_signal()
        return
    console.print(
        f"[dim]{further} more machines are coming, on stand-ins: their GPUs and figures are scripted.[/]"
    )

    def tell(words: str) -> None:
        # Not as markup: the words may hold the log of a process.
        console.print(words, markup=False, highlight=False, style="dim")

    async with demo_fleet(folder, ready, MACHINES[:further], tell) as fleet:
        # The example names all of them.
        whole = further == len(MACHINES)
        campaign = (
            asyncio.create_task(_campaign(fleet, ready.client, tell), name="demo-campaign") if whole else None
        )
        try:
            await _wait_for_signal()
        finally:
            if campaign is not None:
                campaign.cancel()
                await asyncio.gather(campaign, return_exceptions=True)


async def _campaign(fleet: DemoFleet, client: Client, tell: Callable[[str], None]) -> None:
    """Measure what the example of a campaign says, and tell what it came to."""
    try:
        await fleet.ready()
        lines = await run_example(client)
    except (ApiError, ChildFailed, UsageError, aiohttp.ClientError, TimeoutError) as error:
        # The page and the machines go on without it.
        tell(f"The campaign ended: {error}")
        return
    for line in lines:
        tell(line)


async def _once(ready: DemoEnvironment, report: SmokeReport) -> int:
    test = await run_smoke_test(ready.client, ready.agent_id, report.step)
    report.tables(test)
    return report.verdict()


async def _show_how_to_sign_in(console: Console, ready: DemoEnvironment) -> None:
    # The page would show an empty list, and not say why.
    if not (await ready.client.get(f"/agents/{ready.agent_id}"))["model_count"]:
        console.print(f"[yellow]{NO_MODEL}[/]")
    console.print(f"Open [bold]{ready.url}/[/] and sign in as {OPERATOR} with the password ", end="")
    console.print(ready.password, style="bold", highlight=False)
    console.print("Ctrl-C ends it. Nothing of it stays on this machine.")


async def _wait_for_signal() -> None:
    """Wait for Ctrl-C or SIGTERM: the proper end of a demonstration."""
    task = asyncio.current_task()
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        # What follows waits again, for the parts to end.
        if task is not None:
            task.uncancel()


@contextlib.contextmanager
def _cancel_on_signals() -> Iterator[None]:
    """SIGINT and SIGTERM unwind what runs, so that every part is ended in order."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    if task is not None:
        for number in signals.STOP:
            signals.handle(loop, number, task.cancel)
    try:
        yield
    finally:
        for number in signals.STOP:
            signals.unhandle(loop, number)
