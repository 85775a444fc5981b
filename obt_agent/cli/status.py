"""``obt-agent status``: what the running agent is doing. It opens no port; it leaves its status in a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from obt_agent.argument_parser import JSON_OPTION, add_options
from obt_agent.cli import exit_codes
from obt_agent.cli.common import load_config, to_stderr
from obt_agent.cli.options import add_config_options
from obt_agent.daemon.status_file import Clocks, Status, read_status, status_line
from obt_agent.daemon.waiting_file import read_waiting
from obt_agent.errors import AgentError
from obt_agent.printable import printable
from obt_agent.protocol.jobs import JobSummary
from obt_agent.service import paths, state, system
from obt_agent.text_output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = (
        "exit status: 0 admitted, 69 running or waiting and not admitted, 1 not running; "
        "with --quiet 0 admitted, 1 not"
    )
    add_options(parser, JSON_OPTION)
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing: for the health check of a container"
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    if args.quiet:
        return exit_codes.OK if _is_well(args) else exit_codes.FAILED
    folder = Path(load_config(args).config.agent.state_dir)
    found = read_status(folder)
    if found.holder is None and (waiting := read_waiting(folder)) is not None:
        again_s = max(waiting.again_uptime_s - Clocks.now().uptime, 0.0)
        to_stderr(
            f"Process {waiting.pid} waits, and looks again in {_span(again_s)}: {printable(waiting.reason)}"
        )
        return exit_codes.UNAVAILABLE
    if found.holder is None:
        to_stderr(f"No agent runs with the state folder {folder}.")
        for line in _why_not(folder):
            to_stderr(printable(line))
        return exit_codes.FAILED
    if found.status is None:
        to_stderr(f"{found.holder} holds the state folder, and has written no status yet.")
        return exit_codes.UNAVAILABLE
    if args.json:
        print_json(found.status)
    else:
        print("\n".join(map(printable, lines(found.status, Clocks.now()))))
    return exit_codes.OK if found.status.link.state == "admitted" else exit_codes.UNAVAILABLE


def _is_well(args: argparse.Namespace) -> bool:
    """Whether the agent is admitted, by a status that is no older than those of an agent that works."""
    # Docker knows no other answers than 0 and 1, whatever is wrong.
    try:
        status = read_status(Path(load_config(args).config.agent.state_dir)).status
    except AgentError:
        return False
    return status is not None and status.link.state == "admitted" and status.age_s(Clocks.now()) <= _STALE_S


def _why_not(folder: Path) -> Iterator[str]:
    """What systemd knows of the service whose folder this is, and what to do."""
    where = paths.here()
    try:
        service = state.read_state(where, system.System())
    except system.ServiceError as error:
        yield f"{error.message} Start it: obt-agent run"
        return
    # Somebody's own state folder has nothing to do with the system's service.
    if folder != where.state:
        yield "Start it: obt-agent run"
        if service.installed:
            yield f"The system's own service is {service.active}: sudo obt-agent status"
    elif not service.installed:
        yield "There is no service: sudo obt-agent service install --server URL --token-file FILE"
    elif service.result == "success":
        yield "Start it: sudo systemctl start obt-agent"
    else:
        yield f"It ended with {service.ending}"
        yield _after(service.exit_status, starting=service.active.startswith("activating"))


def _after(exit_status: int, *, starting: bool) -> str:
    if exit_status == exit_codes.CONFIG:
        return (
            "systemd does not start it again, since that would change nothing. Correct the cause, then: "
            "sudo systemctl restart obt-agent"
        )
    again = (
        "systemd starts it again in a few seconds" if starting else "Start it: sudo systemctl start obt-agent"
    )
    return f"{again}; its log: journalctl -u obt-agent"


def lines(status: Status, now: Clocks) -> Iterator[str]:
    """The status for a person."""
    yield status_line(status)
    yield ""
    yield f"agent    {status.name} ({status.agent_id})"
    yield f"version  {status.version}, process {status.pid}, up {_span(status.up_s(now))}"
    yield f"server   {_server(status, now)}"
    if status.link.pins:
        yield f"pinned   {', '.join(status.link.pins)}"
    yield f"ollama   {_ollama(status)}"
    if status.commands:
        yield f"commands {_commands(status)}"
    yield f"outbox   {status.outbox.entries} results to deliver, {status.outbox.bytes} bytes"
    if status.store_problem:
        yield f"store    {status.store_problem}"
    for job in status.jobs:
        yield f"job      {job.job_id}: {job.kind} of {job.model or '-'}, {_job_state(job)}"
    for provider in status.providers:
        reason = f" ({provider.reason})" if provider.reason else ""
        yield f"reads    {provider.name}: {provider.status}{reason}"
    if status.loop_lag_ms is not None:
        yield f"loop     {status.loop_lag_ms:.0f} ms late at most"
    if status.age_s(now) > _STALE_S:
        yield f"This was written {_span(status.age_s(now))} ago: the agent may hang."


# The daemon writes every 5 s at least.
_STALE_S = 30.0


def _job_state(job: JobSummary) -> str:
    """The state, the phase where it says more, and for what the job waits."""
    progress = job.progress
    if progress is None:
        return job.state
    if progress.waiting_for:
        return f"{job.state}, waiting for {progress.waiting_for}"
    return f"{job.state}, {progress.phase}"


def _server(status: Status, now: Clocks) -> str:
    link, held_s = status.link, status.link.held_s(now)
    since = "" if held_s is None else f" for {_span(held_s)}"
    problem = f": {link.problem}" if link.problem and link.state != "admitted" else ""
    return f"{link.server}, {link.state}{since}{problem}"


def _ollama(status: Status) -> str:
    if not status.ollama.reachable:
        return f"does not answer: {status.ollama.error or 'no reason known'}"
    loaded = f", loaded: {', '.join(status.loaded)}" if status.loaded else ""
    return f"{status.ollama.version or 'version unknown'}, {status.models} models{loaded}"


def _commands(status: Status) -> str:
    held = f", {status.blob_bytes} bytes of attachments held" if status.blob_bytes else ""
    return f"{status.commands} in flight, {status.streams} of them streams{held}"


def _span(seconds: float) -> str:
    """A length of time in its two largest units."""
    whole = max(0, int(seconds))
    for unit, size, smaller, small in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small} {smaller}"
    return f"{whole} s"
