"""``python -m tests.faults``: every fault in every state, kills at every step, random histories.

Noticed and admitted are seconds, from the fault's begin and from its end; ``held`` is a slow link that was
rightly kept. Exits 1 when anything failed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
import traceback
from pathlib import Path

import structlog

from obt_agent.link.session import LinkSession
from obt_server.hub.session import AgentSession
from tests.faults import fuzz, matrix
from tests.faults.catalogue import FAULTS
from tests.faults.cells import CELLS
from tests.faults.histories import History, run_histories
from tests.faults.kills import KILLS, run_kill
from tests.faults.states import STATES
from tests.faults.timing import REAL, SHORT

PARTS = ("matrix", "kills", "histories", "fuzz")
ERROR = 40
"""Faults of ours are looked for in the log; what the faults made the agent say is not shown."""


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all unless named")
    parser.add_argument(
        "--real-deadlines", action="store_true", help="the protocol's own: hours, not minutes"
    )
    parser.add_argument("--state", action="append", choices=STATES, help="only cells of this state")
    parser.add_argument("--fault", action="append", help="only cells of faults with this in their name")
    parser.add_argument("--histories", type=int, default=500, metavar="N", help="how many; 500 unless given")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="S", help="of the first history; 1 unless given"
    )
    parser.add_argument(
        "--examples", type=int, default=1000, metavar="N", help="sets of hostile frames a side"
    )
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return arguments


async def _matrix(arguments: argparse.Namespace) -> bool:
    timing = REAL if arguments.real_deadlines else SHORT
    cells = [
        (state, fault)
        for state, fault in CELLS
        if (not arguments.state or state in arguments.state)
        and (not arguments.fault or any(part in fault.name for part in arguments.fault))
    ]
    _say(f"{len(cells)} cells of {len(FAULTS)} faults and {len(STATES)} states; silence allowed: "
         f"{timing.timings.silence_s:g} s, noticed within {timing.notice_s:g} s")  # fmt: skip
    _say(matrix.row(matrix.HEADINGS))
    outcomes = []
    async for outcome in matrix.run_matrix(cells, timing):
        outcomes.append(outcome)
        _say(matrix.shown(outcome))
    failed = [outcome for outcome in outcomes if outcome.problems]
    total = [outcome.ledger for outcome in outcomes]
    _say(
        f"{len(outcomes)} cells, {len(failed)} failed; jobs accepted {sum(one.accepted for one in total)}, "
        f"finals acknowledged {sum(one.finals for one in total)}, "
        f"twice {sum(one.duplicates for one in total)}"
    )
    return not failed and _nothing_left()


def _nothing_left() -> bool:
    """Sessions of both sides are gone from memory: a fault leaves nothing behind."""
    gc.collect()
    left = sum(isinstance(one, LinkSession | AgentSession) for one in gc.get_objects())
    _say(f"sessions left in memory: {left}")
    return left == 0


async def _histories(arguments: argparse.Namespace) -> bool:
    done: list[History] = []
    async for history in run_histories(arguments.histories, arguments.seed):
        done.append(history)
        for problem in history.problems:
            _say(f"    FAILED: seed {history.seed}: {problem}")
        if len(done) % 50 == 0:
            _say(_counted(done))
    _say(_counted(done))
    return not any(history.problems for history in done)


def _counted(done: list[History]) -> str:
    ledgers = [history.ledger for history in done]
    return (
        f"{len(done)} histories: {sum(one.deaths for one in done)} deaths, "
        f"{sum(one.cuts for one in done)} cuts; "
        f"jobs accepted {sum(one.accepted for one in ledgers)}, "
        f"finals acknowledged {sum(one.finals for one in ledgers)}, lost {sum(one.lost for one in ledgers)}, "
        f"twice {sum(one.duplicates for one in ledgers)}"
    )


async def _kills(_: argparse.Namespace) -> bool:
    good = True
    with tempfile.TemporaryDirectory(prefix="obt-kills-") as folder:
        for number, kill in enumerate(KILLS):
            directory = Path(folder) / str(number)
            directory.mkdir()
            ledger, problems = await run_kill(kill, directory)
            good &= not problems
            _say(f"SIGKILL {kill.title:44} jobs {ledger.accepted}, acknowledged {ledger.finals}, "
                 f"twice {ledger.duplicates}")  # fmt: skip
            for problem in problems:
                _say(f"    FAILED: {problem}")
    return good


async def _fuzz(arguments: argparse.Namespace) -> bool:
    good = True
    with tempfile.TemporaryDirectory(prefix="obt-fuzz-") as folder:
        for name, work in (
            ("an agent", lambda: fuzz.fuzz_agent(arguments.examples)),
            ("a server", lambda: fuzz.fuzz_server(arguments.examples, Path(folder))),
        ):
            try:
                await asyncio.to_thread(work)
            except Exception:  # noqa: BLE001 - hypothesis tells the smallest set of frames in a note
                good = False
                _say(f"    FAILED: {name}: {traceback.format_exc()}")
            _say(f"{arguments.examples} sets of hostile frames at {name}")
    return good


async def _run(arguments: argparse.Namespace) -> bool:
    parts = {"matrix": _matrix, "histories": _histories, "kills": _kills, "fuzz": _fuzz}
    good = True
    for name in arguments.parts or PARTS:
        good &= await parts[name](arguments)
    return good


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; the process's exit status."""
    arguments = _arguments(argv)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(ERROR),
        logger_factory=structlog.ReturnLoggerFactory(),
    )
    started = time.monotonic()
    good = asyncio.run(_run(arguments))
    _say(f"{'all as promised' if good else 'FAILED'}, {time.monotonic() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
