"""The Debian packages of server and agent on one machine: installed, upgraded, purged, with nobody to answer.

What befalls them on the way (an upgrade that fails, a service that was installed otherwise, older packages
with a conffile) is shown by ``tests/systemd``; here are the guides' words, apt, and both releases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.install import steps
from tests.install.blocks import commands, words
from tests.install.conftest import Walk
from tests.install.roots import TRIXIE, Release, Root
from tests.install.terminal import Terminal
from tests.systemd.packages import build, changed
from tests.systemd.site import FILES, USERS

pytestmark = pytest.mark.timeout(1200)

RELEASE = TRIXIE
"""Where make test-install walks this without ALL=1."""

NAMES = ("obt-server", "obt-agent")
APT = "sudo DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet"
"""What ``sudo apt install`` is with nobody there: ``<&-`` behind it, so that a question fails."""
OPTIONS, CONFIG = "/etc/obt-server/options.env", "/etc/obt-agent/agent.yaml"
KEPT = (
    f"sudo sh -c 'cat {OPTIONS} {CONFIG} /var/lib/obt-agent/identity.json /var/lib/obt-agent/credential.json'"
)
DEFAULTS = {"obt-server": "usr/share/obt-server/options.env", "obt-agent": "usr/share/obt-agent/agent.yaml"}
"""What the configuration is made from."""


@dataclass
class Desk:
    """A machine with the packages of its release in ``dist``, and later ones in ``later``."""

    root: Root
    terminal: Terminal
    files: str
    """What lay on the machine before, and who its users were."""


def later(package: Path, file: Path) -> Path:
    """The same package as a later release, with other defaults."""

    def more(tree: Path) -> None:
        with (tree / DEFAULTS[file.name.partition("_")[0]]).open("a") as text:
            text.write("\n# another default\n")

    return changed(package, file, "99.0", more)


@pytest.fixture(scope="module")
def desk(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp(release.name)
    built = {name: build(name, folder, PYTHON_VERSION=release.python) for name in NAMES}
    with Root(release, "package", checkout=False) as root:
        root.run(f"echo 127.0.0.1 {steps.NAME} >> /etc/hosts && apt-get -qq update")
        user = root.add_user()
        root.run(f"install -d -o {user} {steps.HOME}/dist {steps.HOME}/later")
        for name, package in built.items():
            root.put(package, f"{steps.HOME}/dist/{package.name}")
            root.put(later(package, folder / f"{name}_99.0_all.deb"), f"{steps.HOME}/later/{name}_99.0.deb")
        # systemd makes it for the first timer that remembers when it was due; the group comes with udev.
        root.run("mkdir --parents /var/lib/systemd/timers && groupadd --system render")
        with Terminal(root, user) as terminal:
            # The first package of all leaves apt's logs behind.
            terminal.run(f"{APT} less <&-")
            yield Desk(root, terminal, root.run(f"{FILES}; {USERS}"))


def unattended(line: str) -> str:
    """The line of a guide, as it runs with nobody there."""
    assert "sudo apt install " in line
    return line.replace("sudo apt install", APT) + " <&-"


def test_the_server_s_package_runs_at_once(desk: Desk, release: Release, walk: Walk) -> None:
    _, install, show_password = commands(steps.SERVER_GUIDE, "As a service")
    with walk("guide to the server, As a service: apt install of the package", release):
        desk.terminal.run(unattended(install), within_s=300)
        desk.root.until("test -s /var/lib/obt-server/first-password")
        password = desk.terminal.run(show_password).splitlines()[-2]
        steps.sign_in(desk.root, "http://127.0.0.1:8881", password)


def test_it_serves_others_with_a_certificate(desk: Desk) -> None:
    steps.certificate(desk.terminal)
    desk.terminal.run("sudo mv cert.pem key.pem /etc/obt-server/tls/")
    # The line that the file itself suggests.
    desk.terminal.run(f"sudo sed -i 's/^#\\(OPTIONS=.*--tls-cert\\)/\\1/' {OPTIONS}")
    desk.terminal.run("sudo systemctl restart obt-server")
    password = desk.terminal.run("sudo cat /var/lib/obt-server/first-password").splitlines()[-2]
    steps.until_port(desk.root, 8881)
    steps.sign_in(desk.root, f"https://{steps.NAME}:8881", password, "/etc/obt-server/tls/cert.pem")


def test_the_agent_s_package_is_admitted(desk: Desk, release: Release, walk: Walk) -> None:
    _, install, service = commands(steps.GUIDE, "Debian package")
    with walk("guide to the service, Debian package: apt install of the agent, admitted", release):
        desk.terminal.run(unattended(install), within_s=300)
        token = desk.terminal.run("sudo obt-server tokens join").splitlines()[-2]
        desk.terminal.run(f"echo {token} > join.txt && chmod 600 join.txt")
        assert "admitted by" in desk.terminal.run(service, within_s=120)


def test_an_upgrade_keeps_what_was_changed_and_asks_nothing(desk: Desk, release: Release, walk: Walk) -> None:
    for file in (OPTIONS, CONFIG):
        desk.terminal.run(f"echo '# mine' | sudo tee -a {file}")
    before = desk.terminal.run(KEPT)
    with walk("upgrade of both packages after an enrolment and a change of both configurations", release):
        desk.terminal.run(f"{APT} ./later/*.deb <&-", within_s=300)
        desk.terminal.run(
            "until sudo obt-agent status | grep 'admitted by'; do sleep 0.2; done", within_s=120
        )
    assert desk.terminal.run(KEPT) == before
    versions = desk.root.run("dpkg-query --show --showformat '${Version} ${Status}\\n' obt-agent obt-server")
    assert versions == "99.0 install ok installed\n" * 2


def test_a_purge_leaves_nothing(desk: Desk, release: Release, walk: Walk) -> None:
    assert "`apt purge` removes them" in words(steps.GUIDE, "Debian package")
    desk.terminal.run("rm -f join.txt")
    with walk("purge of both packages", release):
        purge = "sudo DEBIAN_FRONTEND=noninteractive apt-get purge --yes --quiet obt-agent obt-server <&-"
        desk.terminal.run(purge, within_s=300)
    left = set(desk.root.run(f"{FILES}; {USERS}").splitlines()) - set(desk.files.splitlines())
    assert left == set()
