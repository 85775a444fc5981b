"""``obt-server rollouts``: do something with a model on many machines, through a running server."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from obt_agent.argument_parser import PlainArgumentParser
from obt_server.cli.api import (
    add_api_command,
    add_api_group,
    add_id_command,
    counted,
    part,
    print_answer,
    short,
    size,
    until_over,
)
from obt_server.cli.options import duration_up_to, when
from obt_server.client import Client, JsonObject

_ACTIONS: Final = ("pull", "create", "copy", "delete", "load", "unload")
duration = duration_up_to(30)


def add_arguments(parser: PlainArgumentParser) -> None:
    """Add the commands."""
    commands = add_api_group(parser)
    _add_start(commands)
    listed = add_api_command(commands, "list", "show rollouts, the newest first", _list)
    listed.add_argument("--running", action="store_true", help="only those that run")
    add_id_command(commands, "show", "show a rollout's state on each machine", _show)
    for name, text, work in (
        ("cancel", "cancel what has not ended", _cancel),
        ("retry", "begin again where it did not succeed", _retry),
    ):
        command = add_id_command(commands, name, text, work)
        command.add_argument(
            "--agent", metavar="AGENT", action="append", help="only on this machine; may be given again"
        )
    add_id_command(commands, "delete", "forget a rollout that has ended", _delete)


def _add_start(commands: Any) -> None:
    start = add_api_command(commands, "start", "begin one", _start)
    start.add_argument("action", metavar="ACTION", choices=_ACTIONS, help=", ".join(_ACTIONS))
    start.add_argument("model", metavar="MODEL")
    start.add_argument("--agent", metavar="AGENT", action="append", default=[], help="id or unique name")
    start.add_argument("--label", metavar="LABEL", action="append", default=[], help="machines with it")
    start.add_argument("--all", action="store_true", help="every machine")
    start.add_argument("--to", metavar="NAME", help="of a copy: the new name")
    start.add_argument("--from", metavar="MODEL", dest="source", help="of a creation: what it is made from")
    start.add_argument("--system", metavar="TEXT", help="of a creation: its system prompt")
    start.add_argument("--parameter", metavar="NAME=JSON", action="append", default=[], help="of a creation")
    start.add_argument("--quantize", metavar="LEVEL", help="of a creation")
    start.add_argument("--digest", metavar="DIGEST", help="of a pull: the version that it must bring")
    start.add_argument(
        "--parallelism", metavar="N", type=int, default=4, help="machines at once (default: 4)"
    )
    start.add_argument("--offline", choices=("skip", "wait"), default="skip", help="default: skip")
    start.add_argument("--within", metavar="TIME", type=duration, help="skip what is not begun within 1h, 7d")
    start.add_argument("--key", metavar="TEXT", help="names the request: a repeat begins nothing")
    start.add_argument("--preview", action="store_true", help="show what would happen, and begin nothing")
    start.add_argument("--wait", action="store_true", help="until it is over; exit 1 unless all succeeded")


async def _start(client: Client, options: argparse.Namespace) -> int:
    body = _body(options)
    if options.preview:
        targets = await client.post("/rollouts/preview", body)
        print_answer(options, targets, lambda: _preview_rows(targets))
        return 0
    rollout = await client.post("/rollouts", body)
    if options.wait:
        rollout = await until_over(client, "rollout", f"/rollouts/{part(rollout['id'])}")
    print_answer(options, rollout, lambda: _rows(rollout))
    if not options.json:
        print(f"rollout {rollout['id']}: {rollout['state']}")
    return 1 if options.wait and rollout["counts"]["done"] < len(rollout["targets"]) else 0


def _body(options: argparse.Namespace) -> JsonObject:
    body: JsonObject = {
        "action": options.action,
        "model": options.model,
        "destination": options.to,
        "digest": options.digest,
        "targets": {"agents": options.agent, "labels": options.label, "all": options.all},
        "parallelism": options.parallelism,
        "offline": options.offline,
        "until": None if options.within is None else time.time() + options.within,
        "key": options.key,
    }
    if options.source is not None:
        create = {"from": options.source, "system": options.system, "quantize": options.quantize}
        pairs = (one.partition("=") for one in options.parameter)
        create["parameters"] = {name: _value(text) for name, _, text in pairs} or None
        body["create"] = {name: value for name, value in create.items() if value is not None}
    return {name: value for name, value in body.items() if value is not None}


def _value(text: str) -> Any:
    """A parameter's value: JSON, or else the text itself, so that a stop word needs no quotes."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _preview_rows(targets: Sequence[JsonObject]) -> Iterator[Sequence[str]]:
    yield "MACHINE", "WOULD", "SIZE", "FREE", "WHY"
    for one in targets:
        yield (
            one["agent_name"],
            one["would"],
            size(one["bytes"]),
            size(one["free_bytes"]),
            one["reason"] or "",
        )


def _rows(rollout: JsonObject) -> Iterator[Sequence[str]]:
    yield "MACHINE", "STATE", "DONE", "OF", "DIGEST", "WHY"
    for one in rollout["targets"]:
        why = one["reason"] or ""
        # What the owner would have to write is the most useful of all that is known.
        if one["remedy"]:
            why = f"{why} To allow it: {one['remedy']}"
        done, total = size(one["completed_bytes"]), size(one["total_bytes"])
        yield one["agent_name"], one["state"], done, total, short(one["digest_after"]), why


async def _list(client: Client, options: argparse.Namespace) -> int:
    rollouts = await client.get("/rollouts" + ("?state=running" if options.running else ""))

    def rows() -> Iterator[Sequence[str]]:
        yield "ID", "WHEN", "ACTION", "MODEL", "STATE", "MACHINES", "BY"
        for one in rollouts:
            began, by = when(one["created_at"]), one["created_by"]
            yield one["id"], began, one["action"], one["model"], one["state"], counted(one["counts"]), by

    print_answer(options, rollouts, rows)
    return 0


async def _show(client: Client, options: argparse.Namespace) -> int:
    rollout = await client.get(f"/rollouts/{part(options.id)}")
    print_answer(options, rollout, lambda: _rows(rollout))
    return 0


def _on_some(action: str) -> Callable[[Client, argparse.Namespace], Any]:
    async def work(client: Client, options: argparse.Namespace) -> int:
        body = {} if options.agent is None else {"agents": options.agent}
        rollout = await client.post(f"/rollouts/{part(options.id)}/{action}", body)
        print_answer(options, rollout, lambda: _rows(rollout))
        return 0

    return work


_cancel = _on_some("cancel")
_retry = _on_some("retry")


async def _delete(client: Client, options: argparse.Namespace) -> int:
    await client.delete(f"/rollouts/{part(options.id)}")
    return 0
