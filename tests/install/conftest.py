"""How long each walk took, at the end; and why nothing can be walked here."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.install.roots import RELEASES, Release

NEEDED = ("unshare", "nsenter", "apt-get", "dpkg-deb", "debootstrap", "slirp4netns", "ip", "git")
WALK = "walk"
ALL = "OBT_INSTALL_ALL"
"""The variable that asks for each path on each release: twice the time."""
Walk = Callable[[str, Release], AbstractContextManager[None]]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say why nothing can be shown here, and fail: a walk that was not taken is no success."""
    if os.geteuid() != 0:
        pytest.exit(
            "make test-install boots Debian in namespaces, which needs root: sudo make test-install", 1
        )
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if platform.system() != "Linux" or missing:
        pytest.exit(f"make test-install needs Debian or Ubuntu; missing here: {', '.join(missing)}", 1)


@pytest.fixture
def walk(record_property: Callable[[str, object], None]) -> Walk:
    """Take the time of a path; the table at the end shows it."""

    @contextlib.contextmanager
    def timed(path: str, release: Release) -> Iterator[None]:
        started = time.monotonic()
        yield
        record_property(WALK, [path, str(release), time.monotonic() - started])

    return timed


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Walk a module's paths on its own release, or with ``ALL`` on each in turn."""
    if "release" in metafunc.fixturenames:
        releases = RELEASES if os.environ.get(ALL) else (metafunc.module.RELEASE,)
        metafunc.parametrize("release", releases, ids=[one.name for one in releases], scope="module")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a row for each path that was walked to its end."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    rows = [value for report in reports for name, value in report.user_properties if name == WALK]
    if rows:
        terminalreporter.section("seconds of each path")
    for path, release, seconds in sorted(rows):
        terminalreporter.write_line(f"{path:<84} {release:<10}{seconds:>6.1f}")
