"""``obt-server sets``: models that machines with certain labels are to have, through a running server."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from obt_agent.argument_parser import PlainArgumentParser
from obt_server.cli.api import add_api_command, add_api_group, part, print_answer, short, size
from obt_server.client import Client, JsonObject


def add_arguments(parser: PlainArgumentParser) -> None:
    """Add the commands."""
    commands = add_api_group(parser)
    add_api_command(commands, "list", "show all sets", _list)
    _add_put(commands)
    for name, text, work in (
        ("drift", "show how the machines of a set differ from it", _drift),
        ("preview", "show what converging would do", _preview),
        ("converge", "make the machines of a set like it", _converge),
        ("delete", "forget a set; no machine changes", _delete),
    ):
        command = add_api_command(commands, name, text, work)
        command.add_argument("name", metavar="NAME")
        if name in ("preview", "converge"):
            command.add_argument(
                "--update", action="store_true", help="also pull newer versions that other machines have"
            )


def _add_put(commands: Any) -> None:
    put = add_api_command(commands, "put", "keep a set, in place of one of the same name", _put)
    put.add_argument("name", metavar="NAME")
    put.add_argument(
        "--model", metavar="MODEL[@DIGEST]", action="append", required=True, help="may be given again"
    )
    put.add_argument(
        "--label",
        metavar="LABEL",
        action="append",
        required=True,
        help="machines with it; may be given again",
    )
    put.add_argument("--prune", action="store_true", help="delete other models of these machines")
    put.add_argument("--automatic", action="store_true", help="converge by itself")
    put.add_argument("--quiet-hours", metavar="HOURS", help="when it does not, like 22:00-07:00")
    put.add_argument("--time-zone", metavar="ZONE", help="of these hours, like Europe/Berlin")


async def _put(client: Client, options: argparse.Namespace) -> int:
    models = []
    for one in options.model:
        name, _, digest = one.partition("@")
        models.append({"name": name, "digest": digest or None})
    body: JsonObject = {
        "models": models,
        "labels": options.label,
        "prune": options.prune,
        "converge": "automatic" if options.automatic else "manual",
        "quiet_hours": options.quiet_hours,
        "time_zone": options.time_zone,
    }
    kept = await client.put(f"/model-sets/{part(options.name)}", body)
    print_answer(options, kept, lambda: _rows([kept]))
    return 0


def _rows(sets: Sequence[JsonObject]) -> Iterator[Sequence[str]]:
    yield "NAME", "LABELS", "CONVERGES", "PRUNES", "MODELS"
    for one in sets:
        models = ", ".join(
            model["name"] + (f"@{short(model['digest'])}" if model.get("digest") else "")
            for model in one["models"]
        )
        yield one["name"], ", ".join(one["labels"]), one["converge"], "yes" if one["prune"] else "no", models


async def _list(client: Client, options: argparse.Namespace) -> int:
    sets = await client.get("/model-sets")
    print_answer(options, sets, lambda: _rows(sets))
    return 0


async def _drift(client: Client, options: argparse.Namespace) -> int:
    report = await client.get(f"/model-sets/{part(options.name)}/drift")

    def rows() -> Iterator[Sequence[str]]:
        yield "MACHINE", "MISSING", "DIFFERENT", "EXTRA", "CONFLICTS"
        for one in report["agents"]:
            lists = (one["missing"], [other["name"] for other in one["different"]], one["extra"])
            conflicts = [
                f"{conflict['name']} ({', '.join(conflict['sets'])})" for conflict in one["conflicts"]
            ]
            yield one["agent_name"], *(", ".join(names) or "-" for names in (*lists, conflicts))

    print_answer(options, report, rows)
    # As diff does: a program asks whether there is a difference.
    return 0 if report["in_sync"] else 1


async def _preview(client: Client, options: argparse.Namespace) -> int:
    steps = await client.post(f"/model-sets/{part(options.name)}/preview", {"update": options.update})

    def rows() -> Iterator[Sequence[str]]:
        yield "MACHINE", "ACTION", "MODEL", "SIZE", "FREE", "NOTE"
        for one in steps:
            sizes = size(one["bytes"]), size(one["free_bytes"])
            yield one["agent_name"], one["action"], one["model"], *sizes, one["reason"] or ""

    print_answer(options, steps, rows)
    return 0


async def _converge(client: Client, options: argparse.Namespace) -> int:
    begun = await client.post(f"/model-sets/{part(options.name)}/converge", {"update": options.update})

    def rows() -> Iterator[Sequence[str]]:
        yield "ROLLOUT", "ACTION", "MODEL", "MACHINES"
        for one in begun:
            yield one["id"], one["action"], one["model"], str(sum(one["counts"].values()))

    print_answer(options, begun, rows)
    return 0


async def _delete(client: Client, options: argparse.Namespace) -> int:
    await client.delete(f"/model-sets/{part(options.name)}")
    return 0
