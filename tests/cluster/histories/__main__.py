"""``python -m tests.cluster.histories``: seeded histories of several server processes, one after the other.

Each prints its seed and its faults, so that it can be run again: ``--count 1 --seed N``. The log of one that
failed, and of all its programs, is kept. Needs root, for networks of its own; without it this says so, and
fails where OBT_HISTORIES is ``required``. Exits 1 when anything failed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.cluster.histories import journal, network
from tests.cluster.histories.history import History, run_history
from tests.cluster.histories.schedule import LONG, SHORT, Pace
from tests.cluster.histories.setting import Size, running


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.histories", description=__doc__)
    parser.add_argument("--count", type=int, default=10, metavar="N", help="how many; 10 unless given")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the first one")
    parser.add_argument("--long", action="store_true", help="faults of up to 40 s, a minute or two each")
    parser.add_argument("--replicas", type=int, default=3, help="with 1 there is no bus")
    parser.add_argument("--light", type=int, default=300, help="agents that are no processes")
    parser.add_argument("--real", type=int, default=5, help="agents that are")
    parser.add_argument("--keep", type=Path, help="where logs of failed histories go")
    parser.add_argument("--keep-all", action="store_true", help="logs of the others, too")
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> int:
    """All of them; the number of those that failed."""
    size = Size(arguments.replicas, arguments.light, arguments.real)
    pace = LONG if arguments.long else SHORT
    keep = arguments.keep or Path(tempfile.mkdtemp(prefix="obt-histories-kept-"))
    seeds = list(range(arguments.seed, arguments.seed + arguments.count))
    failed = 0
    while seeds:
        # After a failure with everything anew: what went wrong must not be the next one's.
        with tempfile.TemporaryDirectory(prefix="obt-histories-") as name:
            kept = keep / f"from-{seeds[0]}"
            try:
                failed += await _until_one_fails(
                    Path(name), size, pace, seeds, keep, every=arguments.keep_all
                )
            except BaseException:
                # One that could not be begun, or was given up, has logs to read as well.
                _keep_logs(Path(name), kept)
                raise
    _say(f"{arguments.count} histories, {failed} failed")
    return failed


async def _until_one_fails(
    folder: Path, size: Size, pace: Pace, seeds: list[int], keep: Path, *, every: bool
) -> int:
    """Histories in one setting, taken from the seeds; return how many failed, one at most."""
    async with running(folder, size, random.Random(seeds[0])) as setting:
        while seeds:
            await setting.balance()
            history = await run_history(setting, seeds.pop(0), pace)
            _tell(history)
            if history.problems:
                _keep(history, folder, keep / f"seed-{history.seed}")
                return 1
            if every:
                _keep(history, folder, keep / f"seed-{history.seed}")
    return 0


def _tell(history: History) -> None:
    kinds = {
        kind.__name__: 0 for kind in (journal.Called, journal.Streamed, journal.Accepted, journal.Admitted)
    }
    for entry in history.log:
        if type(entry).__name__ in kinds:
            kinds[type(entry).__name__] += 1
    counted = ", ".join(f"{count} {name.lower()}" for name, count in kinds.items())
    _say(f"seed {history.seed}: {history.took_s:.0f} s; {counted}; {len(history.problems)} problems")
    for fault in history.faults:
        _say(f"    {fault}")
    for problem in history.problems[:20]:
        _say(f"    FAILED: {problem[:400]}")


def _keep(history: History, folder: Path, kept: Path) -> None:
    """Copy what the programs said, and what was seen of them."""
    _keep_logs(folder, kept)
    journal.write(history.log, kept / "journal.jsonl")
    (kept / "problems.txt").write_text("\n".join(history.problems) + "\n")


def _keep_logs(folder: Path, kept: Path) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    for log in folder.glob("*.log"):
        shutil.copy(log, kept)
    _say(f"    its logs: {kept}")


def main() -> int:
    """Run what the arguments say."""
    arguments = _arguments()
    if reason := network.why_not():
        _say(f"no histories here: {reason}")
        return 1 if os.environ.get("OBT_HISTORIES") == "required" else 0
    network.enter()
    return 1 if asyncio.run(_run(arguments)) else 0


if __name__ == "__main__":
    sys.exit(main())
