"""``make test-cluster``: what is here, then the server's suite with PostgreSQL in place of SQLite.

With ``--all`` the whole suites of the server, rollouts and campaigns; else those files of them that are about
what is stored, so that all of it takes less than four minutes on two processors.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.cluster.postgresql import PostgreSQL

ROOT: Final = Path(__file__).parents[2]
SUITES: Final = ("tests/server", "tests/rollouts", "tests/campaigns")
STORED: Final = (
    *("store", "quota", "retention", "jobs", "results", "admission", "state", "tokens", "labels"),
)


def main(arguments: list[str]) -> int:
    """Run both parts; return the status of the first that failed."""
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
    with PostgreSQL() as server:
        # Each write is refused once: a transaction that did more than change the database would show it.
        environment = os.environ | {"OBT_TEST_DATABASE": server.address(""), "OBT_TEST_REPEAT": "1"}
        words = [*pytest, "-m", "not lint" if everything else "not slow and not lint"]
        words += SUITES if everything else stored
        suite = subprocess.run(words, cwd=ROOT, env=environment, check=False)
    return own.returncode or suite.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
