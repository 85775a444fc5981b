"""The machine with Docker, started once; and why there can be none here."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator

import pytest

from tests.containers.machine import DockerMachine
from tests.install.conftest import NEEDED


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say why nothing can be shown here, and fail: what was not tried is no success."""
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if os.geteuid() != 0 or platform.system() != "Linux" or missing:
        pytest.exit(
            "make test-containers runs Docker in namespaces, which needs root on Debian or Ubuntu, and "
            f"{', '.join(missing) or 'nothing else'}",
            1,
        )


@pytest.fixture(scope="session")
def machine() -> Iterator[DockerMachine]:
    with DockerMachine() as machine:
        machine.start()
        yield machine
        # Their layers would stay in the folder that outlives the machine.
        machine.run("docker rm --force --volumes $(docker ps --all --quiet)")
