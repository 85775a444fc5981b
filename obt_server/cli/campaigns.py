"""``obt-server campaigns``: the same measurement on many machines, from a file, through a running server.

Exit status of ``run --wait`` and of ``verdicts``: 0 all cells have results and none is slower than its
baseline; 1 one is slower; 2 wrong usage, a file with a mistake, or refused by the server; 3 none is slower,
and a cell has no result; 4 the server does not answer.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from obt_agent.argument_parser import PlainArgumentParser
from obt_agent.printable import printable
from obt_server.campaign_storage import ENDED_CELLS
from obt_server.cli import campaign_file, campaign_report
from obt_server.cli.api import (
    AGAIN_AFTER_S,
    add_api_command,
    add_api_group,
    add_id_command,
    counted,
    part,
    print_answer,
    size,
    table,
    until_over,
)
from obt_server.cli.options import UsageError, duration_up_to, when
from obt_server.client import Client, JsonObject

# The same as docs/examples/nightly.yaml.
EXAMPLE: Final = Path(__file__).parents[1] / "demo" / "nightly.yaml"
# The verdicts come a moment after the last cell's end: they are worked out from all of them.
VERDICTS_WITHIN_S: Final = 30.0


def add_arguments(parser: PlainArgumentParser) -> None:
    """Add the commands."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = add_api_group(parser)
    _add_run(commands)
    listed = add_api_command(commands, "list", "show campaigns, the newest first", _list)
    listed.add_argument("--running", action="store_true", help="only those that run")
    listed.add_argument("--schedule", metavar="NAME", help="only those of a schedule")
    _add_reports(add_id_command(commands, "show", "show a campaign's cells and verdicts", _show))
    _add_reports(add_id_command(commands, "verdicts", "the same, and exit as run --wait does", _verdicts))
    matrix = add_id_command(commands, "matrix", "show models and plans by machines, by any metric", _matrix)
    matrix.add_argument("--metric", metavar="NAME", default="headline", help="default: the campaign's own")
    matrix.add_argument(
        "--point", metavar="LABEL", help="a point of the plans' sweep; the first unless given"
    )
    matrix.add_argument("--against", metavar="ID", help="another campaign, in place of the baselines")
    cancel = add_id_command(commands, "cancel", "cancel what has not ended", _on_some("cancel"))
    rerun = add_id_command(commands, "rerun", "measure again what has no result", _on_some("rerun"))
    rerun.add_argument(
        "--flagged", action="store_true", help="what has warnings that another run may not have"
    )
    for one in (cancel, rerun):
        one.add_argument("--cell", metavar="CELL", action="append", help="only this one; may be given again")
    add = add_id_command(commands, "add", "measure the same on more machines", _add)
    add.add_argument("--agent", metavar="AGENT", action="append", default=[], help="id or unique name")
    add.add_argument("--label", metavar="LABEL", action="append", default=[], help="machines with it")
    add.add_argument("--all", action="store_true", help="every machine")
    add_id_command(commands, "delete", "forget a campaign that has ended", _delete)
    for command in commands.choices.values():
        command.set_defaults(no_answer_status=campaign_report.NO_ANSWER)


def _add_run(commands: Any) -> None:
    run = add_api_command(commands, "run", "begin a campaign from a file", _run)
    run.add_argument("file", metavar="FILE", type=Path, help="YAML, as in docs/examples/nightly.yaml")
    run.add_argument("--preview", action="store_true", help="show what would happen, and begin nothing")
    run.add_argument("--wait", action="store_true", help="until it is over; the exit status says how it went")
    run.add_argument(
        "--within", metavar="TIME", type=duration_up_to(30), help="skip what is not begun within 90m, 8h"
    )
    run.add_argument("--key", metavar="TEXT", help="names the request: a repeat begins nothing")
    _add_reports(run)


def _add_reports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--junit", metavar="FILE", type=Path, help="write JUnit XML there")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write a page in Markdown there")


async def _run(client: Client, options: argparse.Namespace) -> int:
    body = campaign_file.read(options.file).body(within_s=options.within, key=options.key)
    if options.preview:
        preview = await client.post("/campaigns/preview", body)
        print_answer(options, preview, lambda: _preview_rows(preview))
        return 0
    if not options.wait and (options.junit or options.markdown):
        raise UsageError("--junit and --markdown say how it went: they go with --wait")
    campaign = await client.post("/campaigns", body)
    if not options.wait:
        _show_cells(options, campaign, campaign_report.measured(campaign, ()))
        return 0
    # On standard error: standard output is the result's.
    print(f"campaign {campaign['id']}: {len(campaign['cells'])} cells", file=sys.stderr, flush=True)
    lines = _CellLines(campaign)
    return await _report(client, options, await _until_judged(client, campaign["id"], lines.say))


async def _until_judged(
    client: Client,
    campaign_id: str,
    on_cells: Callable[[JsonObject, list[JsonObject]], None] = lambda _counts, _cells: None,
) -> JsonObject:
    """Wait until a campaign is over, and its results are compared with their baselines.

    ``on_cells`` hears of cells that have begun, or changed, and how many there are in each state.
    """

    def found(campaign: JsonObject) -> None:
        # Those that wait may be thousands, of which there is nothing to tell.
        begun = [cell for cell in campaign["cells"] if cell["state"] != "waiting"]
        on_cells(campaign["counts"], begun)

    def changed(news: JsonObject) -> None:
        on_cells(news["counts"], news["changed"])

    path = f"/campaigns/{part(campaign_id)}"
    campaign = await until_over(client, "campaign", path, on_news=changed, on_found=found)
    deadline = time.monotonic() + VERDICTS_WITHIN_S
    while campaign["verdicts"] is None and campaign["counts"].get("done") and time.monotonic() < deadline:
        await asyncio.sleep(AGAIN_AFTER_S)
        campaign = await client.get(path)
    return campaign


async def run_example(client: Client) -> list[str]:
    """Run the demonstration's campaign to its end; return what there is to say, as lines.

    Raises:
        ApiError, aiohttp.ClientError, TimeoutError: the server refused, or went away.
    """
    campaign = await client.post("/campaigns", campaign_file.read(EXAMPLE).body())
    campaign = await _until_judged(client, campaign["id"])
    verdicts = await client.get(f"/campaigns/{part(campaign['id'])}/verdicts")
    found = campaign_report.measured(campaign, verdicts)
    return [campaign_report.headline(campaign, found), *table(campaign_report.rows(campaign, found))]


class _CellLines:
    """Says on standard error what a campaign's cells do: a line for each change of a state."""

    def __init__(self, campaign: JsonObject) -> None:
        self._labels = {plan["hash"]: plan["label"] for plan in campaign["plans"]}
        # What was said of each cell, so that nothing is said twice.
        self._said: dict[str, str] = {}
        # By cell, the attempt that was said to have ended.
        self._ended: dict[str, int] = {}

    def say(self, counts: JsonObject, cells: list[JsonObject]) -> None:
        """Tell of those of which this was not told yet."""
        ended = sum(count for state, count in counts.items() if state in ENDED_CELLS)
        for cell in cells:
            # News that is older than what was read besides it.
            if cell["state"] not in ENDED_CELLS and cell["attempt"] <= self._ended.get(cell["id"], 0):
                continue
            if cell["state"] in ENDED_CELLS:
                self._ended[cell["id"]] = cell["attempt"]
            words = _cell_words(cell, self._labels[cell["plan_hash"]])
            if self._said.get(cell["id"]) != words:
                self._said[cell["id"]] = words
                clock = time.strftime("%H:%M:%S")
                line = f"{clock} [{ended}/{sum(counts.values())}] {words}"
                print(printable(line), file=sys.stderr, flush=True)


def _cell_words(cell: JsonObject, plan: str) -> str:
    words = f"{cell['agent_name']}, {cell['model']}, {plan}: {cell['state']}"
    if cell["state"] == "done" and cell["value"] is not None:
        return f"{words} {cell['value']:.4g}"
    if cell["state"] == "pulling" and cell["progress"] is not None:
        # In steps: it moves twice a second, and each is a line.
        tenth = int(cell["progress"] * 10) * 10
        return f"{words} ({tenth} % of {size(cell['total_bytes'])})"
    why = cell["reason"] or cell["waiting_for"]
    return f"{words} ({why})" if why else words


async def _report(client: Client, options: argparse.Namespace, campaign: JsonObject) -> int:
    """Print a campaign with its verdicts, write what was asked for, and return the exit status."""
    verdicts = await client.get(f"/campaigns/{part(campaign['id'])}/verdicts")
    found = campaign_report.measured(campaign, verdicts)
    if options.junit is not None:
        options.junit.write_bytes(campaign_report.junit(campaign, found))
    if options.markdown is not None:
        options.markdown.write_text(campaign_report.markdown(campaign, found), "utf-8")
    _show_cells(options, {**campaign, "verdicts_of_cells": verdicts}, found)
    if not options.json:
        print(printable(campaign_report.headline(campaign, found)))
    return campaign_report.exit_status(found)


def _show_cells(
    options: argparse.Namespace, campaign: JsonObject, found: Sequence[campaign_report.MeasuredGroup]
) -> None:
    print_answer(options, campaign, lambda: campaign_report.rows(campaign, found))
    if not options.json:
        print(f"campaign {campaign['id']}: {campaign['state']}")


def _preview_rows(preview: JsonObject) -> Iterator[Sequence[str]]:
    yield "MACHINE", "MODEL", "PLAN", "WOULD", "ABOUT", "WHY"
    for one in preview["cells"]:
        why = one["reason"] or ""
        if one["remedy"]:
            why = f"{why} To allow it: {one['remedy']}"
        yield one["agent_name"], one["model"], one["plan"], one["would"], _about(one["estimate_s"]), why
    yield "all", "", "", "", _about(preview["estimate_s"]), "machines side by side"


def _about(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"  # noqa: PLR2004 -- a minute and a half


async def _list(client: Client, options: argparse.Namespace) -> int:
    query = [("state", "running")] if options.running else []
    query += [("schedule", options.schedule)] if options.schedule else []
    campaigns = await client.get(
        "/campaigns" + ("?" if query else "") + "&".join(f"{k}={part(v)}" for k, v in query)
    )

    def rows() -> Iterator[Sequence[str]]:
        yield "ID", "WHEN", "NAME", "STATE", "CELLS", "SLOWER", "BY"
        for one in campaigns:
            slower = "-" if one["verdicts"] is None else str(one["verdicts"]["slower"])
            began, name = when(one["created_at"]), one["name"] or one["schedule"] or ""
            yield one["id"], began, name, one["state"], counted(one["counts"]), slower, one["created_by"]

    print_answer(options, campaigns, rows)
    return 0


async def _show(client: Client, options: argparse.Namespace) -> int:
    await _verdicts(client, options)
    return 0


async def _verdicts(client: Client, options: argparse.Namespace) -> int:
    return await _report(client, options, await client.get(f"/campaigns/{part(options.id)}"))


def _on_some(action: str) -> Callable[[Client, argparse.Namespace], Awaitable[int]]:
    async def work(client: Client, options: argparse.Namespace) -> int:
        body: JsonObject = {} if options.cell is None else {"cells": options.cell}
        if action == "rerun" and options.cell is None:
            body["only"] = "flagged" if options.flagged else "failed"
        campaign = await client.post(f"/campaigns/{part(options.id)}/{action}", body)
        _show_cells(options, campaign, campaign_report.measured(campaign, ()))
        return 0

    return work


async def _add(client: Client, options: argparse.Namespace) -> int:
    targets = {"agents": options.agent, "labels": options.label, "all": options.all}
    if not any(targets.values()):
        raise UsageError("name machines: --agent, --label or --all")
    campaign = await client.post(f"/campaigns/{part(options.id)}/machines", {"targets": targets})
    _show_cells(options, campaign, campaign_report.measured(campaign, ()))
    return 0


async def _matrix(client: Client, options: argparse.Namespace) -> int:
    given = {"metric": options.metric, "point": options.point, "against": options.against}
    query = urlencode({name: value for name, value in given.items() if value is not None})
    matrix = await client.get(f"/campaigns/{part(options.id)}/matrix?{query}")
    print_answer(options, matrix, lambda: campaign_report.matrix_rows(matrix))
    if not options.json and options.point is None and matrix["sweep"]:
        shown = (
            f"{one['label']} ({one['slower']} slower)" if one["slower"] else one["label"]
            for one in matrix["sweep"]
        )
        print(f"Each plan's first point is shown; --point names another: {', '.join(shown)}")
    return 0


async def _delete(client: Client, options: argparse.Namespace) -> int:
    await client.delete(f"/campaigns/{part(options.id)}")
    return 0
