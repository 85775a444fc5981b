"""A server and its agent on one machine, by the words of README and of the guide to the service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from obt_standin.script import Script
from tests.install import steps
from tests.install.blocks import commands, words
from tests.install.conftest import Walk
from tests.install.roots import TRIXIE, Release, Root
from tests.install.terminal import Terminal

pytestmark = pytest.mark.timeout(1200)

RELEASE = TRIXIE
"""Where make test-install walks this without ALL=1."""

URL = f"https://{steps.NAME}:8881"


@dataclass
class Desk:
    """Somebody's machine, with a terminal for what goes on and one for the rest."""

    root: Root
    server: Terminal
    terminal: Terminal
    password: str = ""

    def machines(self) -> list[str]:
        """Who is there, of the machines that the server knows."""
        shown = json.loads(steps.sign_in(self.root, URL, self.password, f"{steps.HOME}/cert.pem"))
        assert shown["page"]
        return [agent["presence"] for agent in shown["agents"]]


@pytest.fixture(scope="module")
def desk(release: Release) -> Iterator[Desk]:
    with Root(release, "one") as root:
        root.run(f"echo 127.0.0.1 {steps.NAME} >> /etc/hosts && apt-get -qq update")
        user = root.add_user()
        with Terminal(root, user) as server, Terminal(root, user) as terminal:
            steps.clone(terminal)
            terminal.run("cd ..")
            server.run("cd ~")
            yield Desk(root, server, terminal)


def test_readme_connects_a_machine_to_a_server(desk: Desk, release: Release, walk: Walk) -> None:
    install_server, run_server = commands(steps.README, steps.CONNECT)
    make_environment, get_agent, install_agent = commands(steps.README, steps.CONNECT, block=1)
    with walk("README, Connect a machine to a server: both on one machine", release):
        steps.venv_package(desk.terminal)
        steps.certificate(desk.terminal)
        desk.server.run(install_server, within_s=300)
        desk.password = steps.serve(desk.server, run_server)
        for line in (make_environment, get_agent):
            desk.terminal.run(line, within_s=300)
        steps.start_ollama(desk.root, f"{steps.HOME}/obt/bin/python", Script())
        token = steps.join_token(desk.terminal)
        assert "admitted by" in steps.with_token(desk.terminal, install_agent, token)
    assert desk.machines() == ["online"]


def test_the_commands_of_the_table_look_after_it(desk: Desk) -> None:
    for command in ("status", "check", "service uninstall"):
        assert f"`sudo obt-agent {command}`" in words(steps.README, steps.CONNECT)
    assert "admitted by obt.example.org" in desk.terminal.run("sudo obt-agent status")
    assert "the credential is accepted" in desk.terminal.run("sudo obt-agent check")
    desk.terminal.run("sudo obt-agent service uninstall")
    assert desk.root.call("command -v obt-agent; ls -d /opt/obt-agent").out == ""


def test_pipx_installs_the_service(desk: Desk, release: Release, walk: Walk) -> None:
    get_agent, install = commands(steps.GUIDE, "Install", block=1)
    assert "sudo apt install pipx" in words(steps.GUIDE, "Install")
    with walk("guide to the service, Install: with pipx", release):
        desk.terminal.run(f"sudo {steps.YES} pipx", within_s=300)
        desk.terminal.run(get_agent, within_s=300)
        steps.token_file(desk.terminal)
        assert "admitted by" in desk.terminal.run(install, within_s=180)
    assert "online" in desk.machines()
    desk.terminal.run("sudo obt-agent service uninstall")
    desk.terminal.run("pipx uninstall obt-agent")


def test_uv_installs_the_service(desk: Desk, release: Release, walk: Walk) -> None:
    get_agent, install = commands(steps.GUIDE, "Install", block=1)
    # On Debian uv itself comes from the index.
    desk.terminal.run("pipx install uv && PATH=~/.local/bin:$PATH", within_s=300)
    with walk("guide to the service, Install: with uv", release):
        desk.terminal.run(get_agent.partition("# or: ")[2], within_s=300)
        steps.token_file(desk.terminal)
        assert "admitted by" in desk.terminal.run(install, within_s=180)
    assert "online" in desk.machines()
    desk.terminal.run("sudo obt-agent service uninstall")
    desk.terminal.run("uv tool uninstall obt-agent")


def test_a_user_without_root_has_a_service_of_their_own(desk: Desk, release: Release, walk: Walk) -> None:
    lines = commands(steps.GUIDE, "Without root")
    assert "The last one needs polkit" in words(steps.GUIDE, "Without root")
    desk.root.run("DEBIAN_FRONTEND=noninteractive apt-get -qq install polkitd 2>&1", timeout_s=120)
    with walk("guide to the service, Without root: pipx and a user's unit", release):
        for line in lines:
            if "enroll" in line:
                steps.with_token(desk.terminal, line, steps.join_token(desk.terminal))
            else:
                desk.terminal.run(line, within_s=300)
        shown = "systemctl --user show obt-agent --property StatusText | grep 'admitted by'"
        desk.terminal.run(f"until {shown}; do sleep 0.2; done", within_s=60)
    assert "admitted by" in desk.terminal.run("obt-agent status")
    assert "online" in desk.machines()
    desk.terminal.run("systemctl --user disable --now obt-agent")
