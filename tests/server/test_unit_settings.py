"""What the units give the server, as the commands of the machine read it."""

import re
from pathlib import Path

import pytest

from obt_server.cli import unit_settings
from obt_server.config.load import SERVER
from tests.project.paths import ROOT

UNITS = ROOT / "deploy" / "systemd"
ENABLED, RUNNING = "etc/systemd/system/multi-user.target.wants", "run/systemd/units"
NAMED = "postgresql+psycopg://obt@db.example.org/obt?sslmode=verify-full"


def machine(root: Path, *, enabled: str = "", running: str = "", **files: str) -> Path:
    """The root of a machine with units, by their names, and files of settings, by theirs."""
    for folder, names in ((ENABLED, enabled.split()), (RUNNING, running.split())):
        (root / folder).mkdir(parents=True)
        for name in names:
            # Both lead to nothing here, as those of systemd that say which run.
            start = "invocation:" if folder == RUNNING else ""
            (root / folder / f"{start}{name}.service").symlink_to("nowhere")
    for name, text in files.items():
        file = root / "etc/obt-server" / f"{name.replace('_', '-')}.env"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A=1\n# B=2\n;C=3\n\nno name\nD = 4 \n", {"A": "1", "D": "4"}),
        ("A=x'y\" # z\n", {"A": "x'y\" # z"}),
        ('A=\'b $c \\d\' \nB="e \\"f\\" \\g \\$h"', {"A": "b $c \\d", "B": 'e "f" \\g $h'}),
        ("A='one\ntwo'three\nB=", {"A": "one\ntwothree", "B": ""}),
        ("A=one \\\n  two\\ \nB=a\\b\r\nA=later", {"A": "later", "B": "ab"}),
        ("A=one \\\n  two\\ \n", {"A": "one   two "}),
    ],
)
def test_files_are_read_as_systemd_reads_them(text: str, found: dict[str, str]) -> None:
    assert unit_settings.variables(text) == found


def test_what_units_say_before_their_files_is_known() -> None:
    said = re.compile(r"^Environment=OBT_SERVER_DATABASE=(.*)$", flags=re.MULTILINE)
    assert said.findall((UNITS / "obt-server@.service").read_text()) == [unit_settings.REPLICAS_DATABASE]
    (single,) = said.findall((UNITS / "obt-server.service").read_text())
    assert single.replace("%S", "/var/lib") == unit_settings.SINGLE_DATABASE


def test_replicas_without_the_line_use_what_their_unit_says(tmp_path: Path) -> None:
    text = (UNITS / "replicas.env").read_text()
    root = machine(tmp_path, enabled="obt-server@8882 obt-server@10000", replicas=text)
    assert unit_settings.database(root) == unit_settings.REPLICAS_DATABASE
    (root / "etc/obt-server/replicas.env").unlink()
    assert unit_settings.database(root) == unit_settings.REPLICAS_DATABASE


def test_the_later_file_wins_and_a_single_server_beside_replicas_does_not(tmp_path: Path) -> None:
    files = {"replicas": "OBT_SERVER_DATABASE=none\n", "replica_8882": f'OBT_SERVER_DATABASE="{NAMED}"\n'}
    root = machine(tmp_path, enabled="obt-server obt-server@8882 obt-server@10000", **files)
    assert unit_settings.database(root) == NAMED


def test_a_single_server_has_its_own_whatever_stands_there_for_replicas(tmp_path: Path) -> None:
    root = machine(tmp_path, enabled="obt-server obt-server-backup", replicas=f"OBT_SERVER_DATABASE={NAMED}")
    assert unit_settings.database(root) == unit_settings.SINGLE_DATABASE
    (root / "etc/obt-server/options.env").write_text("OBT_SERVER_DATABASE=/srv/obt.sqlite3\n")
    assert unit_settings.database(root) == "/srv/obt.sqlite3"


def test_units_that_run_count_before_those_that_are_enabled(tmp_path: Path) -> None:
    back = machine(tmp_path / "back", enabled="obt-server@8881", running="obt-server ssh")
    assert unit_settings.database(back) == unit_settings.SINGLE_DATABASE
    tried = machine(tmp_path / "tried", enabled="obt-server", running="obt-server@8881")
    assert unit_settings.database(tried) == unit_settings.REPLICAS_DATABASE


def test_without_a_unit_it_is_what_replicas_will_have_or_the_single_servers(tmp_path: Path) -> None:
    none = machine(tmp_path / "none", replicas=(UNITS / "replicas.env").read_text())
    assert unit_settings.database(none) == unit_settings.SINGLE_DATABASE
    root = machine(tmp_path / "named", enabled="ssh", replicas=f"OBT_SERVER_DATABASE={NAMED}\n")
    assert unit_settings.database(root) == NAMED


def test_status_asks_a_replica_where_its_files_say_that_it_listens(tmp_path: Path) -> None:
    """``OBT_SERVER_LISTEN_PORT=8882 obt-server status``, as the guide restarts one after the other."""
    root = machine(
        tmp_path,
        enabled="obt-server@8881 obt-server@8882",
        replicas=f"OBT_SERVER_DATABASE={NAMED}\nOBT_SERVER_LISTEN_HOST=192.0.2.11\nOPTIONS=--behind-proxy\n",
        replica_8882="OBT_SERVER_LISTEN_HOST='192.0.2.12'\n",
    )
    common = {"OBT_SERVER_DATABASE": NAMED}
    asked = unit_settings.given("status", {"OBT_SERVER_LISTEN_PORT": "8882"}, root)
    assert asked == {
        **common,
        "OBT_SERVER_LISTEN_HOST": "192.0.2.12",
        "OBT_SERVER_LISTEN_PORT": "8882",
    }
    # Without a port, the first.
    assert unit_settings.given("status", {}, root) == {
        **common,
        "OBT_SERVER_LISTEN_HOST": "192.0.2.11",
        "OBT_SERVER_LISTEN_PORT": "8881",
    }
    assert unit_settings.given("tokens", {}, root) == common, "other commands dial nobody"


def test_status_asks_a_single_server_as_its_options_say(tmp_path: Path) -> None:
    options = "--host 0.0.0.0 --port=443 --database /srv/a.sqlite3 --tls-self-signed --allowed-host a.example"
    root = machine(tmp_path, enabled="obt-server", options=f"OPTIONS=--gateway\nOPTIONS={options}\n")
    assert unit_settings.given("status", {"OBT_SERVER_LISTEN_PORT": "8881"}, root) == {
        "OBT_SERVER_DATABASE": "/srv/a.sqlite3",
        "OBT_SERVER_LISTEN_HOST": "0.0.0.0",  # noqa: S104 - nothing listens here
        "OBT_SERVER_LISTEN_PORT": "443",
        "OBT_SERVER_LISTEN_TLS_SELF_SIGNED": "true",
    }
    assert unit_settings.given("tokens", {}, root) == {"OBT_SERVER_DATABASE": "/srv/a.sqlite3"}


def test_status_without_a_unit_asks_the_replica_of_the_port_that_somebody_names(tmp_path: Path) -> None:
    root = machine(tmp_path, replicas="OBT_SERVER_LISTEN_HOST=192.0.2.11\n")
    found = unit_settings.given("status", {"OBT_SERVER_LISTEN_PORT": "9000"}, root)
    assert found["OBT_SERVER_LISTEN_HOST"] == "192.0.2.11"
    assert unit_settings.given("status", {}, root) == {"OBT_SERVER_DATABASE": unit_settings.SINGLE_DATABASE}


def test_the_variables_of_options_are_those_of_the_settings() -> None:
    given = unit_settings._OF_OPTION.values()  # noqa: SLF001 - what the server would have to know
    assert set(given) <= SERVER.variables.keys() | SERVER.short_names.keys()
