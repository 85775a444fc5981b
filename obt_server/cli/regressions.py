"""``obt-server regressions``: what became slower, and who knows of it, through a running server."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

from obt_agent.argument_parser import PlainArgumentParser
from obt_server.cli.api import add_api_command, add_api_group, print_answer
from obt_server.cli.options import positive, when
from obt_server.client import Client, JsonObject


def add_arguments(parser: PlainArgumentParser) -> None:
    """Add the commands."""
    commands = add_api_group(parser)
    listed = add_api_command(commands, "list", "show what became slower, the newest first", _list)
    listed.add_argument("--agent", metavar="AGENT", help="on this machine")
    listed.add_argument("--all", action="store_true", help="acknowledged ones too")
    listed.add_argument(
        "--limit", metavar="N", type=positive, default=100, help="so many (default: %(default)s)"
    )
    acknowledge = add_api_command(
        commands,
        "acknowledge",
        "say that somebody knows: what is still slower is compared with its new speed from then on",
        _acknowledge,
    )
    reopen = add_api_command(commands, "reopen", "take that back", _reopen)
    for command in (acknowledge, reopen):
        command.add_argument("id", metavar="ID", type=positive, nargs="+")
    acknowledge.add_argument("--note", metavar="TEXT", help="why, for others to read")


async def _list(client: Client, options: argparse.Namespace) -> int:
    given = {"agent": options.agent, "state": None if options.all else "open", "limit": options.limit}
    query = urlencode({name: value for name, value in given.items() if value is not None})
    found = await client.get(f"/regressions?{query}")
    print_answer(options, found, lambda: _rows(found))
    return 0


def _rows(regressions: Sequence[JsonObject]) -> Iterator[Sequence[str]]:
    yield "ID", "MACHINE", "MODEL", "PLAN", "METRIC", "CHANGE", "SINCE", "NOTE"
    for one in regressions:
        plan = one["plan_hash"][:12] if one["point"] is None else f"{one['plan_hash'][:12]} {one['point']}"
        change = "-" if one["ratio"] is None else f"{(one['ratio'] - 1) * 100:+.1f} %"
        since = when((one["since"] or one)["at"])
        machine, model, metric = one["agent_name"], one["model"], one["metric"]
        yield str(one["id"]), machine, model, plan, metric, change, since, _note(one)


def _note(one: JsonObject) -> str:
    notes = [f"back since {when(one['back_since']['at'])}"] if one["back_since"] else []
    known = one["acknowledged"]
    if known:
        notes.append(f"acknowledged by {known['by']}{': ' if known['note'] else ''}{known['note'] or ''}")
    return "; ".join(notes)


async def _acknowledge(client: Client, options: argparse.Namespace) -> int:
    body = {} if options.note is None else {"note": options.note}
    found = [await client.post(f"/regressions/{one}/acknowledge", body) for one in options.id]
    print_answer(options, found, lambda: _rows(found))
    return 0


async def _reopen(client: Client, options: argparse.Namespace) -> int:
    for one in options.id:
        await client.delete(f"/regressions/{one}/acknowledge")
    return 0
