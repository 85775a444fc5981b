"""A server on one machine and an agent on another, of another Debian, by the words of the tutorial."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.install import steps
from tests.install.blocks import commands, words
from tests.install.conftest import Walk
from tests.install.roots import RELEASES, TRIXIE, USER, Release, Root, cable
from tests.install.terminal import Terminal

pytestmark = pytest.mark.timeout(1200)

RELEASE = TRIXIE
"""Where make test-install walks this without ALL=1."""

URL = f"https://{steps.NAME}:8881"
CONFIG = "/etc/obt-agent/agent.yaml"


@dataclass
class Site:
    """The two machines; each has a network of its own, and a cable lies between them."""

    server: Root
    runs: Terminal
    """Where the server runs."""
    console: Terminal
    """Beside it."""
    machine: Root
    gpu: Terminal


@pytest.fixture(scope="module")
def site(release: Release) -> Iterator[Site]:
    (other,) = [candidate for candidate in RELEASES if candidate != release]
    with Root(other, "server") as server, Root(release, "machine") as machine:
        address, _ = cable(server, machine)
        for root in (server, machine):
            root.run(f"echo {address} {steps.NAME} >> /etc/hosts && apt-get -qq update")
            root.add_user()
        with (
            Terminal(server, USER) as runs,
            Terminal(server, USER) as console,
            Terminal(machine, USER) as gpu,
        ):
            steps.clone(console)
            steps.clone(gpu)
            for terminal in (console, gpu):
                terminal.run("cd ..")
            yield Site(server, runs, console, machine, gpu)


def test_the_tutorial_connects_a_machine(site: Site, release: Release, walk: Walk) -> None:
    install_server, run_server = commands(steps.TUTORIAL, "On the server")
    make_environment, get_agent, install_agent = commands(steps.TUTORIAL, "On the machine with the GPU")
    with walk("tutorial, Connect a machine: the server on another, with a certificate of its own", release):
        steps.venv_package(site.console)
        site.console.run(install_server, within_s=300)
        steps.certificate(site.console)
        password = steps.serve(site.runs, run_server)
        steps.venv_package(site.gpu)
        for line in (make_environment, get_agent):
            site.gpu.run(line, within_s=300)
        said = steps.with_token(site.gpu, install_agent, steps.join_token(site.console))
        assert f"admitted by {steps.NAME}" in said
    shown = json.loads(steps.sign_in(site.server, URL, password, f"{steps.HOME}/cert.pem"))
    assert [agent["presence"] for agent in shown["agents"]] == ["online"]


def test_the_agent_goes_by_the_key_that_the_token_named(site: Site) -> None:
    copies = site.machine.run("find /etc /home -name cert.pem -o -name key.pem")
    assert copies == ""
    key = site.console.run(
        "openssl x509 -in cert.pem -noout -pubkey | openssl pkey -pubin -outform DER | "
        "openssl dgst -sha256 -binary | basenc --base64url"
    ).splitlines()[-2]
    assert f"sha256-{key.rstrip('=')}" in site.gpu.run("sudo obt-agent status")


def test_the_limits_of_the_tutorial_are_taken(site: Site) -> None:
    text = "\n".join(commands(steps.TUTORIAL, "Set limits", language="yaml"))
    site.machine.run(f"cat > {CONFIG}", text=text)
    assert "`sudo systemctl reload obt-agent`" in words(steps.TUTORIAL, "Set limits")
    site.gpu.run("sudo systemctl reload obt-agent")
    site.machine.until("journalctl --output cat --unit obt-agent OBT_EVENT=config.reloaded | grep .")
    site.machine.until("obt-agent status | grep 'admitted by'")


def test_uninstalling_leaves_nothing(site: Site) -> None:
    site.gpu.run("sudo obt-agent service uninstall")
    assert site.machine.call("ls -d /opt/obt-agent /etc/obt-agent /var/lib/obt-agent; id obt-agent").out == ""
