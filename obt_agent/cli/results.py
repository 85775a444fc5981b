"""``obt-agent results``: results that wait for the server, and what may be done about them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from obt_agent.argument_parser import JSON_OPTION, PlainArgumentParser, add_options
from obt_agent.cli import exit_codes
from obt_agent.cli.common import load_config, to_stderr
from obt_agent.cli.options import CONFIG_OPTIONS, add_config_options
from obt_agent.daemon.status_file import read_status, status_line
from obt_agent.identity.owner import as_owner
from obt_agent.identity.state_dir import StateDir
from obt_agent.jobs.store.database import JobDatabase
from obt_agent.jobs.store.job_store import DATABASE
from obt_agent.jobs.store.read_only import StoreReading
from obt_agent.jobs.store.rows import StoredJob
from obt_agent.printable import printable
from obt_agent.system.signals import ask_to_reload
from obt_agent.text_output import print_json

# Between two readings of the status file, which the agent writes twice a second at most.
_POLL_S: Final = 0.2
# What is shown of a stored job: the server's own words, and none of the store's.
_SHOWN: Final = (
    *("job_id", "kind", "model", "state", "accepted_at", "started_at", "finished_at"),
    *("bytes", "sha256", "acknowledged", "conflict", "attempts"),
)


def add_arguments(parser: PlainArgumentParser) -> None:
    """Add the command's arguments."""
    parts = parser.add_subparsers(
        dest="part", required=True, metavar="list|show|drop|flush", leading={**CONFIG_OPTIONS, **JSON_OPTION}
    )
    listing = parts.add_parser("list", help="jobs that are open, and results that wait, oldest first")
    add_options(listing, JSON_OPTION)
    show = parts.add_parser("show", help="one job, with its result, as JSON")
    show.add_argument("job_id", metavar="JOB", help="its job_id, as list shows it")
    drop = parts.add_parser("drop", help="forget a result that waits, for good; the agent must be stopped")
    drop.add_argument("job_id", metavar="JOB", help="its job_id, as list shows it")
    drop.add_argument("--yes", action="store_true", help="do not ask")
    flush = parts.add_parser("flush", help="make the running agent dial now, and wait until all is delivered")
    flush.add_argument("--wait", metavar="SECONDS", type=float, default=30.0, help="how long to wait (30)")
    for part in (listing, show, drop, flush):
        add_config_options(part)


def run(args: argparse.Namespace) -> int:
    """Run the part that was asked for."""
    return {"list": _list, "show": _show, "drop": _drop, "flush": _flush}[args.part](args)


def _state_dir(args: argparse.Namespace) -> Path:
    return Path(load_config(args).config.agent.state_dir)


def _list(args: argparse.Namespace) -> int:
    folder = _state_dir(args)
    with as_owner(folder):
        store = StoreReading(folder / DATABASE)
        jobs = store.unsettled()
        store.close()
    if args.json:
        print_json([_facts(job) for job in jobs])
    elif not jobs:
        print("Nothing is open, and nothing waits for the server.")
    else:
        for job in jobs:
            print(printable(_line(job)))
    return exit_codes.OK


def _line(job: StoredJob) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.finished_at or job.accepted_at))
    waits = f"waits, {job.stored_bytes} bytes, {job.attempts} attempts" if job.terminal else "open"
    conflict = ", in conflict with what the server has" if job.conflict else ""
    return f"{when}  {job.job_id}  {job.kind or 'mark'} {job.model or '-'}  {job.state}  {waits}{conflict}"


def _facts(job: StoredJob) -> dict[str, Any]:
    return {name: getattr(job, name) for name in _SHOWN}


def _show(args: argparse.Namespace) -> int:
    folder = _state_dir(args)
    with as_owner(folder):
        store = StoreReading(folder / DATABASE)
        job, result = store.get(args.job_id), store.result(args.job_id)
        store.close()
    if job is None:
        to_stderr(f"No job {args.job_id} is stored; obt-agent results list shows those that are.")
        return exit_codes.FAILED
    print_json({**_facts(job), "result": json.loads(result.text) if result else None})
    return exit_codes.OK


def _drop(args: argparse.Namespace) -> int:
    # Only while no agent runs, which the lock of the state folder sees to: it may be delivering that result.
    folder = _state_dir(args)
    if not args.yes and not _confirmed(args.job_id):
        return exit_codes.FAILED
    with as_owner(folder), StateDir.open(folder):
        if not (folder / DATABASE).is_file():
            to_stderr("There is no job store yet.")
            return exit_codes.FAILED
        store = JobDatabase(folder / DATABASE)
        dropped = store.drop(args.job_id)
        store.close()
    if not dropped:
        to_stderr(f"No result of a job {args.job_id} waits; obt-agent results list shows those that do.")
        return exit_codes.FAILED
    to_stderr(f"The result of {args.job_id} is forgotten. A repeat of its start will not run again.")
    return exit_codes.OK


def _confirmed(job_id: str) -> bool:
    if not sys.stdin.isatty():
        to_stderr("Dropping a result cannot be undone: confirm with --yes.")
        return False
    answer = input(f"Forget the result of {job_id} for good? It was never delivered. [y/N] ")
    return answer.strip().lower() == "y"


def _flush(args: argparse.Namespace) -> int:
    # A reload makes the agent read its configuration again and dial at once; delivery is its own doing.
    folder = _state_dir(args)
    found = read_status(folder)
    if found.holder is None:
        to_stderr("No agent runs: start it (systemctl start obt-agent), and it delivers what waits.")
        return exit_codes.UNAVAILABLE
    # An agent that is connected delivers by itself: there is nothing to hurry.
    if found.status is None or found.status.link.state != "admitted":
        try:
            if not ask_to_reload(found.holder.pid):
                to_stderr("Nothing makes an agent dial at once on this system; it dials again by itself.")
        except PermissionError:
            to_stderr("Only root or the agent's own user may make it dial now: put sudo before the command.")
            return exit_codes.NO_PERMISSION
    return _until_empty(folder, args.wait)


def _until_empty(folder: Path, within_s: float) -> int:
    deadline = time.monotonic() + within_s
    while True:
        status = read_status(folder).status
        if status and status.link.state == "admitted" and status.outbox.entries == 0:
            print("All results are delivered.")
            return exit_codes.OK
        if time.monotonic() >= deadline:
            to_stderr(f"Not yet: {status_line(status) if status else 'the agent says nothing'}.")
            return exit_codes.UNAVAILABLE
        time.sleep(_POLL_S)
