"""``make test-cluster``: what is here, then suites with the real thing in place of a file, or of a local bus.

The server's runs on PostgreSQL, and again as one of several, with NATS; that of the bus runs with NATS.
Both on uvloop, as ``obt-server`` itself runs. Between them come ten histories (``histories``).

With ``--all`` the whole suites of the server, the gateway, rollouts and campaigns; else those files of them
that are about what is stored, and with NATS those about agents, so that these take less than four minutes on
two processors; the histories take as long again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.cluster.nats import NatsServer
from tests.cluster.postgresql import PostgreSQL

ROOT: Final = Path(__file__).parents[2]
SUITES: Final = ("tests/server", "tests/gateway", "tests/rollouts", "tests/campaigns")
STORED: Final = (
    *("store", "quota", "retention", "agent_removal", "jobs", "results", "admission", "state"),
    *("tokens", "labels", "odd_values", "paging"),
)


ASKED: Final = (
    *(f"tests/server/test_{name}.py" for name in ("commands", "jobs", "streams")),
    *("tests/gateway/test_access.py", "tests/rollouts/test_durable.py"),
)


def main(arguments: list[str]) -> int:
    """Run all parts; return the status of the first that failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--all", action="store_true", help="the whole suites")
    everything = parser.parse_args(arguments).all
    stored = [
        *(f"tests/server/test_{name}.py" for name in STORED),
        *("tests/rollouts/test_durable.py", "tests/rollouts/test_sets.py", "tests/campaigns/test_plans.py"),
        *("tests/campaigns/test_durable.py", "tests/campaigns/test_schedules.py"),
    ]
    pytest = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile"]
    own = subprocess.run([*pytest, "tests/cluster"], cwd=ROOT, check=False)
    # One after the other and with nothing beside them: they look at how long things take.
    histories = subprocess.run([sys.executable, "-m", "tests.cluster.histories"], cwd=ROOT, check=False)
    with PostgreSQL() as server:
        # Each write is refused once: a transaction that did more than change the database would show it.
        environment = os.environ | {"OBT_TEST_DATABASE": server.address(""), "OBT_TEST_REPEAT": "1"}
        environment["OBT_TEST_LOOP"] = "uvloop"
        marked = [*pytest, "-m", "not lint" if everything else "not slow and not lint"]
        words = [*marked, *(SUITES if everything else stored)]
        suite = subprocess.run(words, cwd=ROOT, env=environment, check=False)
        with NatsServer() as nats:
            environment["OBT_TEST_BUS"] = nats.address
            words = [*marked, *(SUITES if everything else ASKED)]
            fleet = subprocess.run(words, cwd=ROOT, env=environment, check=False)
    with NatsServer() as nats:
        environment = os.environ | {"OBT_TEST_NATS": nats.address}
        bus = subprocess.run([*pytest, "tests/bus"], cwd=ROOT, env=environment, check=False)
    ended = (own, histories, suite, fleet, bus)
    return next((one.returncode for one in ended if one.returncode), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
