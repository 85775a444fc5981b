"""``obt-server schedules``: campaigns that begin by themselves, through a running server."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from obt_agent.argument_parser import PlainArgumentParser
from obt_server.cli import campaign_file
from obt_server.cli.api import Work, add_api_command, add_api_group, part, print_answer
from obt_server.cli.options import when
from obt_server.client import Client, JsonObject


def add_arguments(parser: PlainArgumentParser) -> None:
    """Add the commands."""
    commands = add_api_group(parser)
    add_api_command(commands, "list", "show all schedules", _list)
    apply = add_api_command(
        commands, "apply", "keep a file's schedule, in place of one of the same name", _apply
    )
    apply.add_argument("file", metavar="FILE", type=Path, help="YAML, as in docs/examples/nightly.yaml")
    _add_named(commands, "show", "show a schedule's runs, the newest first", _show)
    pause = _add_named(commands, "pause", "begin no campaigns until it is resumed", _pause)
    pause.add_argument("--reason", metavar="TEXT", required=True, help="why, for others to read")
    _add_named(commands, "resume", "begin campaigns again", _changed("resume"))
    _add_named(commands, "run", "begin its campaign now", _changed("run"))
    _add_named(commands, "delete", "forget a schedule; its campaigns stay", _delete)


def _add_named(commands: Any, name: str, text: str, work: Work) -> argparse.ArgumentParser:
    parser = add_api_command(commands, name, text, work)
    parser.add_argument("name", metavar="NAME")
    return parser


async def _list(client: Client, options: argparse.Namespace) -> int:
    schedules = await client.get("/schedules")
    print_answer(options, schedules, lambda: _rows(schedules))
    return 0


def _rows(schedules: Sequence[JsonObject]) -> Iterator[Sequence[str]]:
    yield "NAME", "CRON", "TIME ZONE", "NEXT", "LAST", "NOTE"
    for one in schedules:
        paused, last = one["paused"], one["last"]
        note = f"paused by {paused['by']}: {paused['reason']}" if paused else ""
        following = when(one["next"][0]) if one["next"] and not paused else "-"
        ran = f"{last['state']} {when(last['due_at'])}" if last else "-"
        yield one["name"], one["cron"], one["time_zone"], following, ran, note


async def _apply(client: Client, options: argparse.Namespace) -> int:
    file = campaign_file.read(options.file)
    kept = await client.put(f"/schedules/{part(file.schedule_name)}", file.schedule_body())
    print_answer(options, kept, lambda: _rows([kept]))
    return 0


async def _show(client: Client, options: argparse.Namespace) -> int:
    runs = await client.get(f"/schedules/{part(options.name)}/runs")

    def rows() -> Iterator[Sequence[str]]:
        yield "DUE", "STATE", "CAMPAIGN", "WHY"
        for one in runs:
            yield when(one["due_at"]), one["state"], one["campaign_id"] or "-", one["reason"] or ""

    print_answer(options, runs, rows)
    return 0


async def _pause(client: Client, options: argparse.Namespace) -> int:
    return await _act(client, options, "pause", {"reason": options.reason})


def _changed(action: str) -> Callable[[Client, argparse.Namespace], Awaitable[int]]:
    async def work(client: Client, options: argparse.Namespace) -> int:
        return await _act(client, options, action, {})

    return work


async def _act(client: Client, options: argparse.Namespace, action: str, body: JsonObject) -> int:
    """Do something with a schedule, and show how it stands then, whatever the answer is."""
    path = f"/schedules/{part(options.name)}"
    await client.post(f"{path}/{action}", body)
    schedule = await client.get(path)
    print_answer(options, schedule, lambda: _rows([schedule]))
    return 0


async def _delete(client: Client, options: argparse.Namespace) -> int:
    await client.delete(f"/schedules/{part(options.name)}")
    return 0
