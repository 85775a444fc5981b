"""``obt-server models``: what machines have, and what changed there, from a running server."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

from obt_agent.argument_parser import PlainArgumentParser
from obt_server.cli.api import add_api_command, add_api_group, print_answer, short, size
from obt_server.cli.options import when
from obt_server.client import Client, JsonObject


def add_arguments(parser: PlainArgumentParser) -> None:
    """Add the commands."""
    commands = add_api_group(parser)
    listed = add_api_command(commands, "list", "show every model and the machines that have it", _list)
    listed.add_argument("--drifted", action="store_true", help="only models of which machines differ")
    changes = add_api_command(commands, "changes", "show what changed, and who did it", _changes)
    changes.add_argument("--agent", metavar="AGENT", help="of one machine")
    changes.add_argument("--model", metavar="MODEL", help="of one model")
    changes.add_argument("--limit", metavar="N", type=int, default=50, help="so many (default: %(default)s)")


async def _list(client: Client, options: argparse.Namespace) -> int:
    matrix = await client.get("/models/matrix")
    if options.drifted:
        matrix["models"] = [model for model in matrix["models"] if model["drifted"]]
    print_answer(options, matrix, lambda: _rows(matrix))
    return 0


def _rows(matrix: JsonObject) -> Iterator[Sequence[str]]:
    names = {agent["id"]: agent["name"] for agent in matrix["agents"]}
    yield "MODEL", "SIZE", "MACHINE", "DIGEST", "NOTE"
    for model in matrix["models"]:
        for cell in model["cells"]:
            notes = [word for word, holds in (("loaded", cell["loaded"]), ("drift", cell["drift"])) if holds]
            machine = names.get(cell["agent_id"], cell["agent_id"])
            yield model["name"], size(cell["size_bytes"]), machine, short(cell["digest"]), ", ".join(notes)


async def _changes(client: Client, options: argparse.Namespace) -> int:
    query = {"agent": options.agent, "name": options.model, "limit": options.limit}
    given = urlencode({key: value for key, value in query.items() if value is not None})
    changes = await client.get(f"/models/changes?{given}")

    def rows() -> Iterator[Sequence[str]]:
        yield "WHEN", "MACHINE", "MODEL", "BEFORE", "AFTER", "BY"
        for one in changes:
            by = one["by"]
            # The narrowest cause that is known; none: somebody at the machine.
            who = by["set"] and f"set {by['set']}"
            who = who or by["operator"] or "at the machine"
            before, after = short(one["digest_before"]), short(one["digest_after"])
            yield when(one["at"]), one["agent_name"], one["name"], before, after, who

    print_answer(options, changes, rows)
    return 0
