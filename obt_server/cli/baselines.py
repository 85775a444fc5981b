"""``obt-server baselines``: the results that later ones are compared with, through a running server."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

from obt_agent.argument_parser import PlainArgumentParser
from obt_server.cli.api import add_api_command, add_api_group, part, print_answer
from obt_server.cli.options import UsageError, when
from obt_server.client import Client, JsonObject


def add_arguments(parser: PlainArgumentParser) -> None:
    """Add the commands."""
    commands = add_api_group(parser)
    _add_filters(add_api_command(commands, "list", "show pinned results", _list))
    pin = add_api_command(
        commands, "pin", "compare with a result, or with those of a campaign, from now on", _pin
    )
    pin.add_argument("result", metavar="RESULT", nargs="?", help="the id of its job")
    pin.add_argument("--campaign", metavar="ID", help="pin what this campaign measured, one result each")
    _add_filters(pin)
    release = add_api_command(commands, "release", "compare with the last nights again", _release)
    _add_filters(release)
    release.add_argument("--all", action="store_true", help="every pinned result")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", metavar="AGENT", help="of this machine, by id or unique name")
    parser.add_argument("--model", metavar="MODEL", help="of this model")
    parser.add_argument("--plan", metavar="HASH", help="of this plan; the first digits are enough")


async def _list(client: Client, options: argparse.Namespace) -> int:
    await _print(client, options, await _pinned(client, options))
    return 0


async def _pinned(client: Client, options: argparse.Namespace) -> list[JsonObject]:
    """The pinned results that the filters let through."""
    given = {"agent": options.agent, "model": options.model}
    query = urlencode({name: value for name, value in given.items() if value is not None})
    found: list[JsonObject] = await client.get(f"/baselines{'?' if query else ''}{query}")
    return [one for one in found if one["plan_hash"].startswith(options.plan or "")]


async def _pin(client: Client, options: argparse.Namespace) -> int:
    if (options.result is None) == (options.campaign is None):
        raise UsageError("name a result, or a campaign with --campaign")
    if options.result is not None:
        if options.model or options.plan:
            raise UsageError("--model and --plan go with --campaign: a result is of one model and plan")
        query = f"?agent={part(options.agent)}" if options.agent else ""
        job = await client.get(f"/benchmarks/{part(options.result)}{query}")
        wanted = [(job["agent_id"], job["job_id"])]
    else:
        wanted = await _of_campaign(client, options)
    pinned = [
        await client.put(f"/baselines/{part(agent_id)}", {"result": job_id}) for agent_id, job_id in wanted
    ]
    await _print(client, options, pinned)
    return 0


async def _of_campaign(client: Client, options: argparse.Namespace) -> list[tuple[str, str]]:
    """Machine and job of a campaign's results: the first of each machine, model and plan."""
    campaign = await client.get(f"/campaigns/{part(options.campaign)}")
    first: dict[tuple[str, str, str], tuple[str, str]] = {}
    for cell in campaign["cells"]:
        key = cell["agent_id"], cell["model"], cell["plan_hash"]
        if cell["state"] == "done" and _wanted(cell, options):
            first.setdefault(key, (cell["agent_id"], cell["job_id"]))
    if not first:
        raise UsageError(f"campaign {options.campaign} has no such result: look with campaigns show")
    return list(first.values())


def _wanted(cell: JsonObject, options: argparse.Namespace) -> bool:
    return (
        options.agent in (None, cell["agent_id"], cell["agent_name"])
        and options.model in (None, cell["model"])
        and cell["plan_hash"].startswith(options.plan or "")
    )


async def _release(client: Client, options: argparse.Namespace) -> int:
    if not (options.all or options.agent or options.model or options.plan):
        raise UsageError("say which: --agent, --model, --plan, or --all")
    found = await _pinned(client, options)
    if not found:
        raise UsageError("no such result is pinned: look with baselines list")
    for one in found:
        query = urlencode({"model": one["model"], "plan_hash": one["plan_hash"]})
        await client.delete(f"/baselines/{part(one['agent_id'])}?{query}")
    await _print(client, options, found)
    return 0


async def _print(client: Client, options: argparse.Namespace, baselines: Sequence[JsonObject]) -> None:
    # The list has ids, which nobody remembers; of a machine that was removed the id stays.
    agents = [] if options.json else await client.get("/agents")
    names: dict[str, str] = {one["id"]: one["name"] for one in agents}

    def rows() -> Iterator[Sequence[str]]:
        yield "MACHINE", "MODEL", "PLAN", "RESULT", "PINNED", "BY"
        for one in baselines:
            machine = names.get(one["agent_id"]) or str(one["agent_id"])
            pinned = when(one["at"])
            yield machine, one["model"], one["plan_hash"][:12], one["job_id"], pinned, one["by"]

    print_answer(options, baselines, rows)
