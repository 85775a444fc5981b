"""The template unit of replicas: valid, and as confined as the unit of a single server."""

import re
from pathlib import Path

import pytest

from obt_server.cli import main
from obt_server.config.load import SERVER
from tests.systemd.payload import ROOT
from tests.systemd.test_unit import analyze

UNITS = ROOT / "deploy" / "systemd"
TEMPLATE, SINGLE = "obt-server@.service", "obt-server.service"
PROGRAM = "/usr/lib/obt-server/bin/obt-server"
OF_REPLICAS = {"Environment", "EnvironmentFile", "ExecStart", "TimeoutStopSec"}
"""What a replica has otherwise: where its settings come from, and a longer end."""
THRESHOLD = "20"
"""Ten times the exposure that is borne, as of the single server's unit."""


def service(name: str) -> dict[str, list[str]]:
    """The directives of a unit's section [Service]; some come several times."""
    text = (UNITS / name).read_text()
    section = re.split(r"^\[", text, flags=re.MULTILINE)
    (found,) = [one for one in section if one.startswith("Service]")]
    directives: dict[str, list[str]] = {}
    for line in found.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            directives.setdefault(key, []).append(value)
    return directives


def test_systemd_finds_nothing_to_say_about_the_template(tmp_path: Path) -> None:
    program = tmp_path / "obt-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (UNITS / TEMPLATE).read_text().replace(PROGRAM, str(program))
    unit = tmp_path / TEMPLATE.replace("@", "@8881")
    unit.write_text(text)
    done = analyze("verify", "--recursive-errors=no", "--man=no", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_replica_is_as_confined_as_a_single_server() -> None:
    template, single = service(TEMPLATE), service(SINGLE)
    assert {
        key for key in template.keys() | single.keys() if template.get(key) != single.get(key)
    } == OF_REPLICAS
    done = analyze("security", "--offline=true", f"--threshold={THRESHOLD}", UNITS / TEMPLATE)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", [TEMPLATE, SINGLE])
@pytest.mark.parametrize(
    ("words", "port"), [(["run", "--no-such-option"], ""), (["run"], "eighty")], ids=["option", "variable"]
)
def test_what_no_later_start_can_use_is_not_started_again(
    name: str, words: list[str], port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OBT_SERVER_LISTEN_PORT", port)
    try:
        status = main(words)
    except SystemExit as ended:
        status = int(str(ended.code))
    (ending,) = service(name)["RestartPreventExitStatus"]
    assert str(status) in ending.split()


def test_it_has_time_for_its_notice_and_all_that_comes_after() -> None:
    template = service(TEMPLATE)
    (notice,) = [one for one in template["Environment"] if "DRAIN_NOTICE_S" in one]
    # What was asked, agents that read slowly, and open streams have 5 s each.
    (within,) = template["TimeoutStopSec"]
    assert float(within.removesuffix("s")) >= float(notice.partition("=")[2]) + 3 * 5


def test_the_settings_that_it_suggests_are_settings() -> None:
    lines = (UNITS / "replicas.env").read_text().splitlines()
    suggested = {found[1] for line in lines if (found := re.match(r"#?([A-Z_]+)=", line))}
    assert suggested <= SERVER.variables.keys() | SERVER.short_names.keys() | {"OPTIONS"}
    assert "OBT_SERVER_DATABASE" in suggested, "what the launcher of the package looks for"
