"""The Debian package of the agent: installed, configured, upgraded, removed, purged, on one machine.

As unattended upgrades do it: no question can be answered, and dpkg is given no ``--force`` option.
"""

import subprocess
from pathlib import Path

import pytest

from tests.systemd.machine import Machine
from tests.systemd.packages import build, changed, lint
from tests.systemd.site import FILES, SERVER, UNATTENDED, USERS, Site
from tests.systemd.test_service import GET_AGENT, INSTALL, MAKE_ENVIRONMENT

pytestmark = pytest.mark.timeout(1800)

CONFIG = "/etc/obt-agent/agent.yaml"
KEPT = f"cat {CONFIG} /var/lib/obt-agent/identity.json /var/lib/obt-agent/credential.json"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("obt-agent", tmp_path_factory.mktemp("dist"))


def with_conffile(tree: Path) -> None:
    """As packages were before the configuration was made by their postinst."""
    config, control = tree / CONFIG.lstrip("/"), tree / "DEBIAN"
    config.parent.mkdir(parents=True)
    config.write_text((tree / "usr/share/obt-agent/agent.yaml").read_text())
    config.chmod(0o640)
    (control / "conffiles").write_text(f"{CONFIG}\n")
    (control / "preinst").unlink()
    postinst = control / "postinst"
    user = "systemd-sysusers obt-agent.conf\n"
    postinst.write_text(
        postinst.read_text().replace(user, f"{user}chgrp obt-agent /etc/obt-agent {CONFIG}\n")
    )


def refusing(tree: Path) -> None:
    """A package whose installation fails after its preinst has done its work."""
    with (tree / "DEBIAN" / "preinst").open("a") as script:
        script.write("exit 1\n")


def with_other_defaults(tree: Path) -> None:
    """As a later release may have."""
    with (tree / "usr/share/obt-agent/agent.yaml").open("a") as text:
        text.write("\n# another default\n")


@pytest.fixture(scope="module")
def site(machine: Machine, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(machine)
    site.start_server()
    site.start_ollama()
    site.join_token()
    site.api_token()
    folder = tmp_path_factory.mktemp("deb")
    machine.put(package, "/root/agent.deb")
    machine.put(changed(package, folder / "older.deb", "0.0.1", with_conffile), "/root/older.deb")
    machine.put(changed(package, folder / "refusing.deb", "99.0", refusing), "/root/refusing.deb")
    machine.put(changed(package, folder / "later.deb", "99.1", with_other_defaults), "/root/later.deb")
    site.note_files()
    return site


def test_lintian_has_nothing_to_say(package: Path) -> None:
    assert lint(package) == ""


def test_a_second_build_gives_the_same_bytes(package: Path, tmp_path: Path) -> None:
    """Elsewhere, at another time, by somebody with other habits."""
    again = build("obt-agent", tmp_path, umask=0o077, TZ="Pacific/Auckland", LC_ALL="C.UTF-8")
    assert again.name == package.name
    assert again.read_bytes() == package.read_bytes()


def test_nothing_but_the_program_and_what_it_needs_is_in_it(package: Path) -> None:
    listed = subprocess.run(
        ["dpkg-deb", "--contents", package], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    files = [line.split(None, 5)[5].removeprefix("./") for line in listed.splitlines()]
    modules = {
        name.partition("/site-packages/")[2]
        for name in files
        if name.endswith(".py") and "/site-packages/" in name
    }
    assert {name for name in modules if "/" not in name} == {"pynvml.py", "typing_extensions.py"}
    assert [name for name in files if name.endswith((".pyc", "direct_url.json", "/__pycache__/"))] == []
    assert "etc/" not in files, "what dpkg would ask about"


def test_installing_makes_user_and_unit_and_starts_nothing_without_a_server(site: Site) -> None:
    output = site.machine.run(f"{UNATTENDED} /root/older.deb <&-", timeout_s=120)
    assert "service install --server URL" in output
    assert site.agent("ActiveState", "UnitFileState") == {
        "ActiveState": "inactive",
        "UnitFileState": "enabled",
    }
    groups = site.machine.run("id -nG obt-agent").split()
    assert {"render", "video"} <= set(groups)
    assert site.machine.run(f"stat -c '%U:%G %a' {CONFIG}") == "root:obt-agent 640\n"


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


def test_an_upgrade_that_fails_leaves_everything_as_it_was(site: Site) -> None:
    machine = site.machine
    machine.run(f"echo '# mine' >> {CONFIG}")
    before, pid = machine.run(KEPT), site.agent("MainPID")
    assert machine.call(f"{UNATTENDED} /root/refusing.deb <&-", timeout_s=120).code != 0
    assert machine.run(KEPT) == before
    assert site.agent("MainPID") == pid
    assert machine.run("dpkg-query --show --showformat '${Status}' obt-agent") == "install ok installed"


def test_an_upgrade_takes_a_changed_conffile_over_without_a_question(site: Site) -> None:
    machine = site.machine
    before, pid = machine.run(KEPT), site.agent("MainPID")
    machine.run(f"{UNATTENDED} /root/agent.deb <&-", timeout_s=120)
    assert machine.run(KEPT) == before
    assert machine.run(f"stat -c '%U:%G %a' {CONFIG}") == "root:obt-agent 640\n"
    assert machine.run("dpkg-query --show --showformat '${Conffiles}' obt-agent") == ""
    site.until_line("admitted by 127.0.0.1:8881, 3 models")
    assert site.agent("MainPID") != pid


def test_the_next_upgrade_keeps_configuration_and_state_and_what_was_disabled(site: Site) -> None:
    machine = site.machine
    machine.run("systemctl disable obt-agent")
    before = machine.run(KEPT)
    machine.run(f"{UNATTENDED} /root/later.deb <&-", timeout_s=120)
    assert machine.run(KEPT) == before
    assert "Version: 99.1" in machine.run("dpkg -s obt-agent")
    site.until_line("admitted by 127.0.0.1:8881, 3 models")
    assert site.agent("UnitFileState") == {"UnitFileState": "disabled"}
    machine.run("systemctl enable obt-agent")


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
    done = machine.call(f"{UNATTENDED} /root/agent.deb <&-", timeout_s=120)
    assert done.code != 0
    assert "sudo obt-agent service uninstall --keep-state" in done.err
    state = machine.call("dpkg-query --show --showformat '${Status}' obt-agent").out
    assert not state or state.endswith(" not-installed")
    assert machine.call("test -e /usr/lib/obt-agent").code == 1
    site.until_line("admitted by 127.0.0.1:8881, 3 models")


def test_a_package_goes_on_with_what_such_a_service_kept(site: Site) -> None:
    machine = site.machine
    before = machine.run(KEPT)
    machine.run("obt-agent service uninstall --keep-state")
    machine.run(f"{UNATTENDED} /root/agent.deb <&-", timeout_s=120)
    site.until_line("admitted by 127.0.0.1:8881, 3 models")
    assert machine.run(KEPT) == before
    machine.run("dpkg -P obt-agent", timeout_s=120)
