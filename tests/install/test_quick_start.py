"""README's first block and what it measures next, on a machine that has Python, make and git alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from obt_standin.script import Model, Script
from tests.install import steps
from tests.install.blocks import commands, words
from tests.install.conftest import Walk
from tests.install.roots import BOOKWORM, CHECKOUT, Release, Root
from tests.install.terminal import CTRL_C, Terminal

pytestmark = pytest.mark.timeout(1200)

RELEASE = BOOKWORM
"""Where make test-install walks this without ALL=1."""

MODEL = "llama3.2:1b"
"""What README has pulled."""
OLLAMA = Script(models=[Model(name=MODEL)], prefill_tps=20_000, decode_tps=500)
UNTIL_COLLECTED = "PYTEST='.venv/bin/python -m pytest -q --collect-only'"
"""The ten minutes of ``make test`` are another check's: here it makes the environment and finds the tests."""


@dataclass
class Desk:
    """A newcomer's machine."""

    root: Root
    terminal: Terminal
    is_root: bool

    @property
    def home(self) -> str:
        """Where the newcomer begins."""
        return "/root" if self.is_root else steps.HOME


@pytest.fixture(scope="module")
def desk(release: Release) -> Iterator[Desk]:
    """One newcomer is root, as in a container; the other has to be told to call sudo."""
    with Root(release, "fresh") as root:
        root.run("apt-get -qq update")
        user = root.add_user()
        is_root = release is not BOOKWORM
        with Terminal(root, "root" if is_root else user) as terminal:
            yield Desk(root, terminal, is_root)


def make(desk: Desk, line: str, *, within_s: float) -> None:
    """Run a target; what it lacks root for and names, the newcomer installs."""
    if not desk.is_root:
        said = desk.terminal.run(line, status=2, within_s=within_s)
        (remedy,) = [each.strip() for each in said.splitlines() if each.startswith("    apt-get update && ")]
        desk.terminal.run(f"sudo sh -c '{remedy}'", within_s=300)
    desk.terminal.type(f"{line}\n")


def test_make_demo_shows_four_machines(desk: Desk, release: Release, walk: Walk) -> None:
    get, demo, _ = commands(steps.README, "Quick start")
    who = "root" if desk.is_root else "a user with sudo"
    with walk(f"README, Quick start: make demo until it answers, as {who}", release):
        desk.terminal.run(get.replace("URL", CHECKOUT))
        make(desk, demo, within_s=60)
        shown = desk.terminal.expect(
            r"Open (http://\S+)/ and sign in as admin with the password (\S+)", within_s=300
        )
        url, password = shown.groups()
        answer = json.loads(steps.sign_in(desk.root, url, password))
        assert answer["page"]
    desk.terminal.type(CTRL_C)
    # The shell's status for a target that Ctrl-C ended.
    desk.terminal.ends(status=130, what=demo)


def test_measuring_this_machine_needs_no_server(desk: Desk, release: Release, walk: Walk) -> None:
    assert f"`ollama pull {MODEL}`" in words(steps.README, "Measure this machine")
    models, bench, sweep, hardware = commands(steps.README, "Measure this machine")
    steps.start_ollama(desk.root, f"{desk.home}/obt-agent/.venv/bin/python", OLLAMA)
    with walk("README, Measure this machine: models, a benchmark, a sweep of six, the hardware", release):
        assert MODEL in desk.terminal.run(models)
        assert re.search(r"decode.*\d", desk.terminal.run(bench, within_s=300), re.IGNORECASE)
        table = desk.terminal.run(sweep, within_s=300)
        assert len([line for line in table.splitlines() if line.startswith("|")]) > 6
        desk.terminal.type(f"{hardware}\n")
        # Words of the line's own comment would do before there is any picture.
        desk.terminal.expect(r"\d GiB", within_s=60)
        desk.terminal.type(CTRL_C)
        desk.terminal.ends(status=130, what=hardware)


def test_make_test_makes_its_environment_and_finds_the_tests(
    desk: Desk, release: Release, walk: Walk
) -> None:
    *_, test = commands(steps.README, "Quick start")
    with walk("README, Quick start: make test up to its first test file", release):
        make(desk, test.replace("make test", f"make test {UNTIL_COLLECTED}"), within_s=60)
        desk.terminal.ends(what=test, within_s=600)
        first = ".venv/bin/python -m pytest -q tests/test_timer_grid.py"
        assert " passed" in desk.terminal.run(first, within_s=300)
