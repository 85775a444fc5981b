"""The Debian package of the server: installed, upgraded, opened to others, purged, on one machine."""

import json
from pathlib import Path

import pytest
import trustme

from tests.install.blocks import commands
from tests.systemd.machine import Machine
from tests.systemd.packages import build, changed, lint
from tests.systemd.site import FILES, UNATTENDED, USERS

pytestmark = pytest.mark.timeout(1800)

OPTIONS = "/etc/obt-server/options.env"
REPLICAS, REPLICA = "/etc/obt-server/replicas.env", "obt-server@8882"
GUIDE = "docs/how-to/several-servers.md"
STATE = "/var/lib/obt-server"
GET = """
import ssl, sys, urllib.request
url, *authority = sys.argv[1:]
context = ssl.create_default_context(cafile=authority[0]) if authority else None
urllib.request.urlopen(url, timeout=20, context=context)
"""
SIGN_IN = """
import json, urllib.request
body = json.dumps({"password": open("/var/lib/obt-server/first-password").read().strip()}).encode()
request = urllib.request.Request("http://127.0.0.1:8881/api/v1/session", data=body)
request.add_header("Content-Type", "application/json")
request.add_header("Origin", "http://127.0.0.1:8881")
print(urllib.request.urlopen(request, timeout=20).read().decode())
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("obt-server", tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def server(machine: Machine, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The machine, with the package installed."""
    machine.put(package, "/root/server.deb")
    later = changed(package, tmp_path_factory.mktemp("deb") / "later.deb", "99.0", with_other_defaults)
    machine.put(later, "/root/later.deb")
    # systemd makes it for the first timer that remembers when it was due.
    machine.run("mkdir --parents /var/lib/systemd/timers")
    machine.write("/root/files-before", machine.run(FILES))
    machine.write("/root/users-before", machine.run(USERS))
    machine.run(f"{UNATTENDED} /root/server.deb <&-", timeout_s=120)
    return machine


def with_other_defaults(tree: Path) -> None:
    """As a later release may have."""
    with (tree / "usr/share/obt-server/options.env").open("a") as text:
        text.write("\n# another default\n")


def answers(machine: Machine, url: str, *more: str) -> None:
    """Wait until the server answers there."""
    machine.until(f"python3 -c '{GET}' {url} {' '.join(more)} 2>&1", timeout_s=60)


def test_lintian_has_nothing_to_say(package: Path) -> None:
    assert lint(package) == ""


def test_it_runs_on_this_machine_alone_as_a_user_of_its_own(server: Machine) -> None:
    answers(server, "http://127.0.0.1:8881/")
    assert server.unit("obt-server", "ActiveState", "UnitFileState", "User") == {
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "User": "obt-server",
    }
    assert server.unit("obt-server-backup.timer", "ActiveState") == {"ActiveState": "active"}
    assert server.run(f"stat -c '%U %a' {STATE} {STATE}/obt.sqlite3") == "obt-server 700\nobt-server 600\n"


def test_the_first_password_lies_in_a_file_and_not_in_the_journal(server: Machine) -> None:
    file = f"{STATE}/first-password"
    # It is written when the server listens already.
    server.until(f"test -e {file}")
    assert server.run(f"stat -c '%U %a' {file}") == "obt-server 600\n"
    assert json.loads(server.run("python3 -", text=SIGN_IN))["name"] == "admin"
    journal = server.run("journalctl -u obt-server --output cat")
    assert f"sign in as admin with the password in {file}" in journal
    assert server.run(f"cat {file}").strip() not in journal


def test_commands_of_root_are_of_the_service_s_database_and_user(server: Machine) -> None:
    token = server.run("obt-server tokens join --note here").strip()
    assert token
    assert "here" in server.run("obt-server tokens list")
    assert server.run(f"find {STATE} ! -user obt-server") == ""
    assert server.call("test -e /root/.local").code == 1


def test_commands_of_root_are_of_the_database_of_the_units_that_are_enabled(server: Machine) -> None:
    """Else they change a file that nobody serves any more, and say that it was done."""
    server.run(f"systemctl disable --now obt-server && systemctl enable {REPLICA}")
    refused = server.call("obt-server tokens list")
    assert (refused.code, "postgresql:///obt" in refused.err) == (1, True), refused
    server.run(f"systemctl disable {REPLICA} && systemctl enable --now obt-server")
    assert "here" in server.run("obt-server tokens list")
    # Enabled, and not what runs.
    server.run(f"systemctl enable {REPLICA} && obt-server tokens list | grep here")
    server.run(f"systemctl disable {REPLICA}")
    answers(server, "http://127.0.0.1:8881/")


def test_the_running_service_is_hardly_exposed(server: Machine) -> None:
    server.run("systemd-analyze security --threshold=20 obt-server.service")


def test_a_replica_runs_beside_it_and_is_restarted_as_the_guide_says(server: Machine) -> None:
    """On a database of its own, without PostgreSQL: it is the unit and its package that are tried."""
    settings = server.run(f"cat {REPLICAS}")
    other = f"{STATE}/replicas.sqlite3"
    # As on several machines: commands of root have to find it at its own address.
    added = f"OBT_SERVER_DATABASE={other}\nOBT_SERVER_LISTEN_HOST=127.0.0.2\n"
    server.write(REPLICAS, f"{settings}\n{added}", mode="640")
    server.run(f"systemctl enable --now {REPLICA}", timeout_s=90)
    answers(server, "http://127.0.0.2:8882/readyz")
    assert server.run(f"stat -c '%U %a' {other}") == "obt-server 600\n"
    # Commands of root are of the replicas' database now.
    server.run("obt-server tokens join --note there")
    assert "there" in server.run(f"obt-server tokens list --database {other}")
    pid = server.unit(REPLICA, "MainPID")
    loop = "\n".join(commands(GUIDE, "Upgrade without an interruption", block=1))
    assert "8881 8882 8883" in loop
    server.run(loop.replace("8881 8882 8883", "8882"), timeout_s=120)
    assert server.unit(REPLICA, "MainPID") != pid
    ended = server.run(f"journalctl -u {REPLICA} --output cat")
    assert "server.stop_noticed" in ended


def test_upgrades_ask_nothing_and_keep_options_and_state(server: Machine) -> None:
    server.run(f"echo '# mine' >> {OPTIONS}")
    kept = f"cat {OPTIONS}; obt-server tokens list"
    before, pid = server.run(kept), server.unit("obt-server", "MainPID")
    replica = server.unit(REPLICA, "MainPID")
    server.run(f"{UNATTENDED} /root/later.deb <&-", timeout_s=120)
    assert server.run(kept) == before
    assert server.unit("obt-server", "MainPID") != pid
    answers(server, "http://127.0.0.1:8881/")
    assert server.unit(REPLICA, "MainPID") != replica
    assert server.unit(REPLICA, "ActiveState") == {"ActiveState": "active"}


def test_an_upgrade_stops_at_the_first_replica_that_is_not_ready(server: Machine) -> None:
    """As with a release that wants a newer schema, of which no replica would be ready any more."""
    own, behind = "/etc/obt-server/replica-8882.env", "obt-server@8883"
    server.run(f"systemctl start {behind}")
    answers(server, "http://127.0.0.2:8883/readyz")
    pid = server.unit(behind, "MainPID")
    server.write(own, "OBT_SERVER_LOG_LEVEL=no-such-level\n")
    said = server.run(f"{UNATTENDED} /root/later.deb <&- 2>&1", timeout_s=200)
    assert f"{REPLICA}.service is not ready after its restart" in said
    assert "obt-server migrate" in said
    assert server.unit(behind, "MainPID") == pid, "it answers meanwhile"
    # Wrong settings are not tried again and again.
    assert server.unit(REPLICA, "ActiveState") == {"ActiveState": "failed"}
    server.run(f"rm {own} && systemctl restart {REPLICA} && systemctl stop {behind}")
    answers(server, "http://127.0.0.2:8882/readyz")


def test_it_serves_with_a_key_that_its_user_cannot_read(server: Machine) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    chain = "".join(part.bytes().decode() for part in issued.cert_chain_pems)
    server.write("/root/ca.pem", authority.cert_pem.bytes().decode())
    server.write("/etc/obt-server/tls/cert.pem", chain, mode="600")
    server.write("/etc/obt-server/tls/key.pem", issued.private_key_pem.bytes().decode(), mode="600")
    # The line that the file itself suggests.
    (line,) = [line for line in server.run(f"cat {OPTIONS}").splitlines() if "--tls-cert" in line]
    server.write(OPTIONS, line.lstrip("#").replace("obt.example.org", "127.0.0.1") + "\n", mode="640")
    server.run("systemctl restart obt-server")
    answers(server, "https://127.0.0.1:8881/", "/root/ca.pem")
    assert server.call("runuser -u obt-server -- cat /etc/obt-server/tls/key.pem").code != 0


def test_purging_leaves_nothing(server: Machine) -> None:
    server.run("dpkg --remove obt-server", timeout_s=120)
    assert server.call("systemctl is-active obt-server").out.strip() != "active"
    server.run(f"test -e {STATE}/obt.sqlite3 -a -e {OPTIONS}")
    server.run("dpkg --purge obt-server", timeout_s=120)
    assert server.run(f"({FILES}) | diff /root/files-before - || true") == ""
    assert server.run(f"({USERS}) | diff /root/users-before - || true") == ""
    assert server.call("systemctl list-unit-files 'obt-server*' --no-legend").out == ""
