"""A server and its agent on one machine, by the words of README and of the guide to the service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.install import steps
from tests.install.blocks import commands, words
from tests.install.conftest import Walk
from tests.install.roots import Release, Root
from tests.install.terminal import Terminal

pytestmark = pytest.mark.timeout(1200)

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
        steps.venv_package(desk.root, desk.terminal)
        steps.certificate(desk.terminal)
        desk.server.run(install_server, within_s=300)
        desk.password = steps.serve(desk.server, run_server)
        for line in (make_environment, get_agent):
            desk.terminal.run(line, within_s=300)
        steps.start_ollama(desk.root, f"{steps.HOME}/obt/bin/python")
        token = steps.join_token(desk.terminal)
        assert "admitted by" in steps.install_service(desk.terminal, install_agent, token)
    assert desk.machines() == ["online"]


def test_the_commands_of_the_table_look_after_it(desk: Desk) -> None:
    for command in ("status", "check", "service uninstall"):
        assert f"`sudo obt-agent {command}`" in words(steps.README, steps.CONNECT)
    assert "admitted by obt.example.org" in desk.terminal.run("sudo obt-agent status")
    assert "the credential is accepted" in desk.terminal.run("sudo obt-agent check")
    desk.terminal.run("sudo obt-agent service uninstall")
    assert desk.root.call("command -v obt-agent; ls -d /opt/obt-agent").out == ""
