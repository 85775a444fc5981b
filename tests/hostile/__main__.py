"""``make hostile``: everything that a peer can say, against a real agent and a real server.

Each side is attacked for SECONDS (600): half of them within 512 MiB, half within 1 GiB, held by a memory
cgroup where this machine lends one, else by RLIMIT_DATA; the table says which. Honest neighbours work
beside it: of a server, an agent and an operator; of an agent, a server that has its turn after each
hostile one. Exit status 1 when a side ended or was out of memory or met an error that it did not foresee,
when an honest operation's p99 was ten times its quiet value or more, or when something honest does not
work afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from tests.hostile.against_agent import against_agent
from tests.hostile.against_server import Outcome, against_server
from tests.hostile.memory_limit import MIB

SIDES: Final[dict[str, Callable[[Path, float, int, int], Coroutine[Any, Any, Outcome]]]] = {
    "agent": against_agent,
    "server": against_server,
}
LIMITS: Final = (512 * MIB, 1024 * MIB)


def table(outcome: Outcome) -> str:
    """Return what was sent, what honest neighbours waited, and how it ended."""
    lines = ["| sent | times |", "|---|--:|"]
    lines += [f"| {kind} | {count} |" for kind, count in sorted(outcome.counts.items())]
    lines += ["", *outcome.waits.table(), ""]
    lines += [f"failed: {failure}" for failure in outcome.waits.failures[:20]]
    lines += [f"BROKEN: {promise}" for promise in outcome.broken]
    peak, limit = outcome.peak_bytes / MIB, outcome.limit_bytes / MIB
    end = "broken" if outcome.broken else "all as promised"
    lines.append(f"{outcome.side}: peak {peak:.0f} of {limit:.0f} MiB ({outcome.held_by}), {end}")
    return "\n".join(lines)


def main() -> int:
    """Attack both sides within each limit; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="for each side (600)")
    parser.add_argument("--side", choices=SIDES, action="append", help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    broken = False
    for side in given.side or SIDES:
        for limit in LIMITS:
            load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
            sys.stdout.write(f"\n== {side} within {limit // MIB} MiB; load before {load}\n")
            with tempfile.TemporaryDirectory() as folder:
                outcome = asyncio.run(
                    SIDES[side](Path(folder), given.seconds / len(LIMITS), limit, given.seed)
                )
            sys.stdout.write(table(outcome) + "\n")
            sys.stdout.flush()
            broken |= bool(outcome.broken)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
