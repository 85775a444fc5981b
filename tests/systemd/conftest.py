"""A booted machine for each module of tests."""

import os
import platform
import shutil
from collections.abc import Iterator

import pytest

from tests.systemd.machine import Machine

NEEDED = ("unshare", "nsenter", "apt-get", "dpkg-deb", "systemd-analyze")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say why nothing can be shown here, and fail: a lab that does not boot is no success."""
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if os.geteuid() != 0:
        pytest.exit(
            "make test-systemd boots a systemd in namespaces, which needs root: sudo make test-systemd", 1
        )
    if platform.system() != "Linux" or missing:
        pytest.exit(f"make test-systemd needs Debian or Ubuntu; missing here: {', '.join(missing)}", 1)


@pytest.fixture(scope="session")
def prepared() -> Machine:
    machine = Machine()
    machine.prepare()
    return machine


@pytest.fixture(scope="module")
def machine(prepared: Machine) -> Iterator[Machine]:
    """Booted afresh for the module that asks for it."""
    prepared.boot()
    yield prepared
    prepared.down()
