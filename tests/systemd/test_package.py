"""The Debian package: installed, configured, upgraded, removed, purged, in this order and on one machine."""

import subprocess
from pathlib import Path

import pytest

from tests.systemd.machine import Machine
from tests.systemd.payload import ROOT
from tests.systemd.site import FILES, SERVER, USERS, Site
from tests.systemd.test_service import GET_AGENT, INSTALL, MAKE_ENVIRONMENT

pytestmark = pytest.mark.timeout(1800)


def build() -> Path:
    made = subprocess.run(
        [ROOT / "scripts" / "make-deb"], capture_output=True, text=True, timeout=500, check=False, cwd=ROOT
    )
    assert made.returncode == 0, made.stderr
    return ROOT / made.stdout.strip().splitlines()[-1]


def next_version(package: Path, folder: Path) -> Path:
    """The same package with a later version and another default configuration, as a release would have."""
    tree, later = folder / "tree", folder / "later.deb"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True, timeout=120)
    control = tree / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("Version: ", "Version: 99."))
    subprocess.run(
        ["dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, later],
        check=True,
        timeout=120,
        capture_output=True,
    )
    return later


@pytest.fixture(scope="module")
def site(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(machine)
    site.start_server()
    site.start_ollama()
    site.join_token()
    site.api_token()
    package = build()
    machine.put(package, "/root/agent.deb")
    machine.put(next_version(package, tmp_path_factory.mktemp("deb")), "/root/later.deb")
    site.note_files()
    return site


def test_installing_makes_user_and_unit_and_starts_nothing_without_a_server(site: Site) -> None:
    output = site.machine.run("dpkg -i /root/agent.deb", timeout_s=120)
    assert "service install --server URL" in output
    assert site.agent("ActiveState", "UnitFileState", "FragmentPath") == {
        "ActiveState": "inactive",
        "UnitFileState": "enabled",
        "FragmentPath": "/lib/systemd/system/obt-agent.service",
    }
    groups = site.machine.run("id -nG obt-agent").split()
    assert {"render", "video"} <= set(groups)
    assert site.machine.run("stat -c '%U:%G %a' /etc/obt-agent/agent.yaml") == "root:obt-agent 640\n"


def test_one_more_command_and_it_is_admitted(site: Site) -> None:
    install = f"obt-agent service install --server {SERVER} --token-file /root/join"
    output = site.machine.call(install, timeout_s=120)
    assert output.code == 0, output
    assert "make /" not in output.err, "a package's program is not made again"
    site.until_line("admitted by 127.0.0.1:8881, 3 models")
    assert "/usr/lib/obt-agent/bin/obt-agent run" in site.machine.run("systemctl show obt-agent -p ExecStart")


def test_uninstall_leaves_a_package_to_its_manager(site: Site) -> None:
    output = site.machine.call("obt-agent service uninstall")
    assert output.code == 1
    assert "apt purge obt-agent" in output.err
    site.until_line("admitted by 127.0.0.1:8881, 3 models")


def test_an_upgrade_keeps_configuration_and_state_and_restarts(site: Site) -> None:
    machine = site.machine
    machine.run("echo '# mine' >> /etc/obt-agent/agent.yaml")
    kept = "cat /etc/obt-agent/agent.yaml /var/lib/obt-agent/identity.json /var/lib/obt-agent/credential.json"
    before, pid = machine.run(kept), site.agent("MainPID")
    machine.run("dpkg -i /root/later.deb", timeout_s=120)
    assert machine.run(kept) == before
    assert "Version: 99." in machine.run("dpkg -s obt-agent")
    site.until_line("admitted by 127.0.0.1:8881, 3 models")
    assert site.agent("MainPID") != pid


def test_removing_stops_it_and_keeps_configuration_and_state(site: Site) -> None:
    machine = site.machine
    machine.run("dpkg -r obt-agent", timeout_s=120)
    assert machine.call("systemctl is-active obt-agent").out.strip() != "active"
    machine.run("test -e /var/lib/obt-agent/credential.json -a -e /etc/obt-agent/agent.yaml")
    assert machine.call("command -v obt-agent").code == 1


def test_purging_leaves_nothing(site: Site) -> None:
    machine = site.machine
    machine.run("dpkg -P obt-agent", timeout_s=120)
    assert machine.run(f"({FILES}) | diff /root/files-before - || true") == ""
    assert machine.run(f"({USERS}) | diff /root/users-before - || true") == ""
    assert machine.call("systemctl list-unit-files 'obt-agent*' --no-legend").out == ""


def test_a_service_that_was_installed_otherwise_is_not_taken_over_unasked(site: Site) -> None:
    machine = site.machine
    site.join_token()
    for command in (MAKE_ENVIRONMENT, GET_AGENT, f"{INSTALL} --token-file /root/join"):
        machine.run(command, timeout_s=120)
    done = machine.call("dpkg -i /root/agent.deb", timeout_s=120)
    assert done.code != 0
    assert "sudo obt-agent service uninstall --keep-state" in done.err
    state = machine.call("dpkg-query --show --showformat '${Status}' obt-agent").out
    assert not state or state.endswith(" not-installed")
    assert machine.call("test -e /usr/lib/obt-agent").code == 1
    site.until_line("admitted by 127.0.0.1:8881, 3 models")


def test_a_package_goes_on_with_what_such_a_service_kept(site: Site) -> None:
    machine = site.machine
    kept = "cat /etc/obt-agent/agent.yaml /var/lib/obt-agent/identity.json /var/lib/obt-agent/credential.json"
    before = machine.run(kept)
    machine.run("obt-agent service uninstall --keep-state")
    machine.run("dpkg --force-confold -i /root/agent.deb", timeout_s=120)
    site.until_line("admitted by 127.0.0.1:8881, 3 models")
    assert machine.run(kept) == before
    machine.run("dpkg -P obt-agent", timeout_s=120)
