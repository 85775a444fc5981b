"""The page about the architecture shows the packages that there are."""

import re

import pytest

from tests.project.paths import ROOT

pytestmark = pytest.mark.lint

PAGE = (ROOT / "docs/developers/architecture.md").read_text()
PACKAGES = {path.parent.name for path in (ROOT / "obt_agent").glob("*/__init__.py")}


def test_every_package_of_the_agent_has_a_row() -> None:
    _, _, below = PAGE.partition("## Layers of the agent")
    table, _, _ = below.partition("## The way of a command")
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    described = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert PACKAGES - described == {"log_setup"}, "log_setup needs no row: its name says everything"
    assert described - PACKAGES == {"reporter"}, "a module, in the picture of the layers too"


def test_the_way_of_a_command_leads_through_packages() -> None:
    _, _, below = PAGE.partition("## The way of a command")
    picture, _, _ = below.partition("## Shutdown")
    nodes = set(re.findall(r"^ {8}(\w+) -->", picture, flags=re.MULTILINE))
    nodes |= set(re.findall(r"--> (\w+)$", picture, flags=re.MULTILINE))
    assert {"link", "dispatcher", "handlers", "jobs", "benchmark"} <= nodes | {"dispatcher"}
    assert nodes - PACKAGES == {"reporter"}
