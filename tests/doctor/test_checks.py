"""The other checks: configuration, state folder, Ollama, hardware, sandbox; and all of them in order."""

import asyncio
import dataclasses
import json
import re
import stat
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from obt_agent.cli import main
from obt_agent.config.load import LoadedConfig, ProcessContext, load
from obt_agent.config.problems import WrongConfig
from obt_agent.config.schema import OllamaConfig
from obt_agent.daemon.status_file import LinkReport, ProviderReport, StatusFile
from obt_agent.doctor import bundle, configuration, machine, ollama, run_checks, sandbox, state
from obt_agent.doctor.findings import CheckReport, Finding, ok
from obt_agent.errors import AgentError
from obt_agent.hardware.inventory import GpuInfo, Inventory, ProviderState
from obt_agent.identity.credentials import Credentials
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_agent.jobs.store.database import JobDatabase
from obt_agent.jobs.store.job_store import DATABASE
from obt_agent.jobs.store.rows import FinalText, NewJob
from obt_agent.ollama.payloads import OllamaState
from obt_standin import StandIn
from obt_standin.script import Script
from tests.doctor.paths import CHECK_GROUPS, Server, check_names, running
from tests.project.paths import ROOT
from tests.service.test_status import a_status

CANARY = "obta_the-canary-that-must-not-get-out-0123456789"


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.level for finding in findings}


def loaded(tmp_path: Path, text: str = "", **flags: str) -> LoadedConfig:
    path = tmp_path / "agent.yaml"
    path.write_text(f"agent:\n  state_dir: {tmp_path / 'state'}\n{text}")
    return load(
        str(path),
        flags={key.replace("__", "."): ("--set", value) for key, value in flags.items()},
        surroundings=ProcessContext(environ={}, terminal=False),
    )


# Configuration.


def test_a_valid_configuration_says_where_it_came_from(tmp_path: Path) -> None:
    given = loaded(tmp_path, "server:\n  url: https://obt.example.org\n")
    (finding,) = configuration.from_loaded(given)
    assert finding.level == "ok"
    assert str(tmp_path / "agent.yaml") in finding.message
    origins = {value.key: value.origin for value in configuration.values(given)}
    assert origins["server.url"].endswith("agent.yaml:4")
    assert origins["ollama.url"].startswith("default")


def test_a_missing_server_and_clear_text_are_reported(tmp_path: Path) -> None:
    text = "server:\n  allow_insecure: true\n"
    assert levels(list(configuration.from_loaded(loaded(tmp_path, text)))) == {
        "config.valid": "ok",
        "config.server": "failure",
        "config.allow_insecure": "warning",
    }


def test_a_notice_of_the_loader_is_a_warning(tmp_path: Path) -> None:
    given = noticed(loaded(tmp_path, "server:\n  url: https://s.example\n"), ("take care",))
    assert levels(list(configuration.from_loaded(given)))["config.notice"] == "warning"


def noticed(given: LoadedConfig, notices: tuple[str, ...]) -> LoadedConfig:
    return LoadedConfig(config=given.config, origins=given.origins, path=None, notices=notices)


def test_every_problem_is_a_failure_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(WrongConfig) as named:
        loaded(tmp_path, "serve: 1\nollama:\n  url: 7://\n")
    findings = list(configuration.from_problems(named.value))
    assert len(findings) == 2
    assert {finding.level for finding in findings} == {"failure"}
    assert "agent.yaml:3" in findings[0].message


# The state folder.


def state_looked(tmp_path: Path, text: str = "") -> tuple[dict[str, Finding], state.StateFindings]:
    findings, known = state.check(loaded(tmp_path, text).config, {})
    return {finding.check: finding for finding in findings}, known


def test_a_folder_that_is_not_there_is_reported_and_not_made(tmp_path: Path) -> None:
    found, known = state_looked(tmp_path)
    assert found["state.folder"].level == "failure"
    assert known.credential is None
    assert not (tmp_path / "state").exists()


def test_an_enrolled_and_running_agent_is_found_without_its_lock(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as held:
        Credentials(held.folder, None).store_enrolled(Secret(CANARY))
        StatusFile(held.folder).write(a_status(written_at=time.time()))
        found, known = state_looked(tmp_path)
    assert {finding.level for finding in found.values()} == {"ok"}
    assert "agent.link" in found
    assert known.credential is not None
    assert known.credential.secret.reveal() == CANARY
    assert known.status is not None
    assert CANARY not in repr(found)


def test_a_stopped_agent_with_no_credential_is_reported(tmp_path: Path) -> None:
    StateDir.open(tmp_path / "state").close()
    found, _ = state_looked(tmp_path)
    assert found["agent.running"].level == "warning"
    assert found["state.credential"].level == "failure"


def test_an_empty_folder_holds_no_identity(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    found, _ = state_looked(tmp_path)
    assert found["state.identity"].level == "warning"


def test_an_agent_that_hangs_or_is_not_admitted_is_reported(tmp_path: Path) -> None:
    with StateDir.open(tmp_path / "state") as held:
        StatusFile(held.folder).write(a_status(written_at=time.time() - 600))
        assert state_looked(tmp_path)[0]["agent.alive"].level == "failure"
        waiting = LinkReport(state="waiting", server="s", problem="refused")
        StatusFile(held.folder).write(a_status(written_at=time.time(), link=waiting))
        assert state_looked(tmp_path)[0]["agent.link"].level == "warning"


def test_a_token_file_counts_and_a_bad_one_is_reported(tmp_path: Path) -> None:
    StateDir.open(tmp_path / "state").close()
    token = tmp_path / "token"
    token.write_text("a-static-token\n")
    token.chmod(0o600)
    text = f"server:\n  token_file: {token}\n"
    found, known = state_looked(tmp_path, text)
    assert found["state.credential"].message == "from a token file"
    assert known.credential is not None
    token.chmod(0o644)
    found, known = state_looked(tmp_path, text)
    assert (found["state.credential"].level, known.credential) == ("failure", None)
    assert "chmod o=" in found["state.credential"].message
    assert "state.disk" in found, "one look that fails does not keep the others away"


def test_a_folder_of_somebody_elses_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    monkeypatch.setattr("obt_agent.doctor.state.os.access", lambda *_: False)  # root may read every folder
    assert state_looked(tmp_path)[0]["state.folder"].level == "skipped"


def finished_job(folder: Path, job_id: str, ended_at: float) -> None:
    store = JobDatabase(folder / DATABASE)
    job = NewJob(
        job_id=job_id,
        kind="benchmark",
        model="llama3",
        params=b"{}",
        fingerprint="f",
        not_after=None,
        reserve_bytes=10,
    )
    store.accept(job, ended_at)
    store.start(job_id, ended_at)
    store.finish(job_id, "completed", FinalText.of(b'{"figures": 1}'), None, ended_at)
    store.close()


def test_results_that_wait_are_counted_and_old_ones_named(tmp_path: Path) -> None:
    StateDir.open(tmp_path / "state").close()
    finished_job(tmp_path / "state", "new", time.time())
    assert "1 results wait" in state_looked(tmp_path)[0]["store.results"].message
    finished_job(tmp_path / "state", "old", time.time() - 90 * 86_400)
    assert "1 for more than 30 days" in state_looked(tmp_path)[0]["store.old"].message


def test_damaged_stores_that_were_set_aside_are_reported_and_one_that_is_damaged_now(tmp_path: Path) -> None:
    StateDir.open(tmp_path / "state").close()
    store = tmp_path / "state" / "jobs.sqlite"
    store.write_bytes(b"no database" * 1000)
    assert "not a database" in state_looked(tmp_path)[0]["state.folder"].message
    JobDatabase(store).close()
    looked = state_looked(tmp_path)[0]
    assert "1 damaged job stores were set aside" in looked["store.damaged"].message
    assert looked["store.results"].level == "ok"


def test_a_quota_that_is_nearly_used_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StateDir.open(tmp_path / "state").close()
    finished_job(tmp_path / "state", "new", time.time())
    monkeypatch.setattr("obt_agent.doctor.state.StoreReading.reserved_bytes", lambda self: 1 << 40)
    assert state_looked(tmp_path)[0]["store.quota"].level == "warning"


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StateDir.open(tmp_path / "state").close()
    monkeypatch.setattr("obt_agent.doctor.state.shutil.disk_usage", lambda _: Usage())
    assert state_looked(tmp_path)[0]["state.disk"].level == "warning"


class Usage:
    free = 1 << 20


# Ollama, hardware, sandbox.


async def ollama_levels(url: str) -> dict[str, str]:
    async with asyncio.timeout(30):
        return levels([finding async for finding in ollama.check(OllamaConfig(url=url))])


async def test_an_ollama_that_answers_is_reported_with_version_and_models() -> None:
    async with StandIn() as standin:
        assert await ollama_levels(standin.url) == {"ollama.reachable": "ok", "ollama.models": "ok"}


async def test_an_old_ollama_and_one_without_models_are_reported() -> None:
    async with StandIn(Script(version="0.3.1", models=[])) as standin:
        assert await ollama_levels(standin.url) == {
            "ollama.reachable": "ok",
            "ollama.version": "warning",
            "ollama.models": "warning",
        }


async def test_an_ollama_that_is_away_is_a_failure() -> None:
    async with StandIn() as standin:
        url = standin.url
    assert await ollama_levels(url) == {"ollama.reachable": "failure"}


async def test_something_else_than_ollama_is_a_failure() -> None:
    async with running(Server(404)) as server:
        url = server.url.replace("ws://", "http://").removesuffix("/api/v1/agents/connect")
        assert await ollama_levels(url) == {"ollama.answers": "failure"}


def test_what_the_hardware_reports_is_a_finding() -> None:
    gpu = GpuInfo(id="GPU-1", provider="nvidia", index=0, vendor="nvidia", name="RTX 4090")
    inventory = Inventory(
        fingerprint="f",
        collected_at=1.0,
        gpus=(gpu,),
        providers=(
            ProviderState(name="nvidia", status="ok", version="570"),
            ProviderState(name="rapl", status="degraded", reason="only root reads it"),
            ProviderState(name="amd", status="absent"),
            ProviderState(name="intel", status="suspended", reason="suspended"),
            ProviderState(
                name="storage", status="degraded", reason="driver_error: the kernel driver is not loaded"
            ),
        ),
    )
    findings = {finding.check: finding for finding in machine.findings_of(inventory)}
    assert findings["hardware.gpus"].message == "RTX 4090"
    assert findings["hardware.nvidia"].level == "ok"
    assert findings["hardware.rapl"].message == "degraded: only root reads it"
    assert "hardware.amd" not in findings
    assert (findings["hardware.intel"].level, findings["hardware.intel"].message[:6]) == ("ok", "asleep")
    assert findings["hardware.storage"].message == "degraded: the kernel driver is not loaded"
    assert "modprobe" in (findings["hardware.storage"].remedy or "")


@pytest.mark.parametrize(
    ("properties", "level"),
    [
        ({}, "ok"),
        ({"ProtectProc": "invisible"}, "warning"),
        ({"ProcSubset": "pid"}, "warning"),
        ({"PrivateNetwork": "yes"}, "failure"),
        ({"PrivateDevices": "yes"}, "warning"),
        ({"PrivateDevices": "yes", "DeviceAllow": "char-nvidia* rw"}, "ok"),
        ({"NeedDaemonReload": "yes"}, "warning"),
    ],
)
def test_a_sandbox_that_is_too_tight_is_reported(properties: dict[str, str], level: str) -> None:
    (finding,) = sandbox.check({"LoadState": "loaded", **properties}, None)
    assert finding.level == level


LOADED = {"LoadState": "loaded", "UnitFileState": "enabled", "Result": "success"}


@pytest.mark.parametrize(
    ("changed", "level", "words"),
    [
        ({"ActiveState": "active", "NRestarts": "1"}, "ok", "it runs"),
        ({"ActiveState": "active", "NRestarts": "12"}, "warning", "start it again 12 times"),
        (
            {"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "78", "StatusText": "refused"},
            "failure",
            "exit status 78: refused",
        ),
        (
            {"ActiveState": "activating", "Result": "watchdog", "ExecMainStatus": "6"},
            "failure",
            "ended with watchdog",
        ),
    ],
)
def test_the_state_of_the_service_is_reported(changed: dict[str, str], level: str, words: str) -> None:
    found = {one.check: one for one in sandbox.check(LOADED | changed, None)}
    assert found["service.state"].level == level
    assert words in found["service.state"].message
    assert "service.enabled" not in found


def test_a_service_that_does_not_start_with_the_machine_is_reported() -> None:
    found = {one.check: one for one in sandbox.check({**LOADED, "UnitFileState": "disabled"}, None)}
    assert found["service.enabled"].level == "warning"


@pytest.mark.parametrize("unit", [None, {"LoadState": "not-found"}])
def test_without_a_unit_there_is_no_sandbox_to_check(unit: dict[str, str] | None) -> None:
    (finding,) = sandbox.check(unit, None)
    assert finding.level == "skipped"


def test_what_the_running_agent_cannot_read_is_reported() -> None:
    lost = ProviderReport(name="nvidia", status="lost", reason="fell off the bus")
    well = ProviderReport(name="cpu", status="ok")
    findings = list(sandbox.check({"LoadState": "loaded"}, a_status(providers=(lost, well))))
    assert levels(findings) == {"service.unit": "ok", "service.reads": "warning"}
    assert "fell off the bus" in findings[-1].message


def test_a_device_that_came_after_the_start_is_reported(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    unit = {"LoadState": "loaded"}
    late = list(sandbox.check(unit, a_status(started_at=time.time() - 3600), tmp_path))
    assert levels(late)["service.devices"] == "warning"
    assert "/dev/nvidia0" in late[-1].message
    assert "service.devices" not in levels(
        list(sandbox.check(unit, a_status(started_at=time.time() + 60), tmp_path))
    )


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_systemd_is_asked_for_the_units_properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert sandbox.properties() is None
    program(tmp_path / "bin", "systemctl", "echo LoadState=loaded; echo ProcSubset=pid")
    assert sandbox.properties() == {"LoadState": "loaded", "ProcSubset": "pid"}
    program(tmp_path / "bin", "systemctl", "exit 1")
    assert sandbox.properties() is None


# All together.


async def test_a_check_that_breaks_does_not_keep_the_others_away() -> None:
    async def breaks() -> AsyncIterator[Finding]:
        yield ok("a.first", "well")
        raise AgentError("it broke")

    assert levels(await run_checks.collect("a", breaks())) == {"a.first": "ok", "a.failed": "failure"}


async def test_a_check_may_not_take_for_ever() -> None:
    async def hangs() -> AsyncIterator[Finding]:
        yield ok("a.first", "well")
        await asyncio.get_running_loop().create_future()

    assert levels(await run_checks.collect("a", hangs(), within_s=0.05)) == {
        "a.first": "ok",
        "a.timeout": "failure",
    }


def test_a_report_counts_in_words() -> None:
    finding = ok("a", "b")
    report = CheckReport(version="1", findings=(finding, msgspec.structs.replace(finding, level="failure")))
    assert report.counts() == "1 ok, 1 failure"
    assert report.failed


def at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments for a state folder with a credential, and a PATH with no systemd in it."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with StateDir.open(tmp_path / "state") as held:
        Credentials(held.folder, None).store_enrolled(Secret(CANARY))
    (tmp_path / "agent.yaml").write_text("server:\n  url: http://127.0.0.1:9\n")
    return ["--config", str(tmp_path / "agent.yaml"), "--state-dir", str(tmp_path / "state")]


def test_every_check_has_a_place_in_the_documents() -> None:
    """Programs go by their names."""
    document = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text()
    named = {
        name for row in re.findall(r"^\| `[a-z]+\..*", document, re.MULTILINE) for name in row.split("`")
    }
    assert check_names() == {name for name in named if re.fullmatch(rf"(?:{CHECK_GROUPS})\.[a-z_]+", name)}


def test_check_prints_for_a_person_and_for_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = at_work(tmp_path, monkeypatch)
    assert main(["check", *options, "--ollama-url", "http://127.0.0.1:9"]) == 1
    shown = capsys.readouterr().out
    assert "FAILURE  server.tcp" in shown
    assert "-> Check host and port" in shown
    assert "server.url: ws://127.0.0.1:9/api/v1/agents/connect" in shown
    assert main(["check", *options, "--quiet"]) == 1
    assert "ok  " not in capsys.readouterr().out
    assert main(["check", *options, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert {finding["check"] for finding in report["findings"]} >= {
        "config.valid",
        "server.tcp",
        "hardware.gpus",
    }
    assert {value["key"] for value in report["configuration"]} >= {"server.url", "ollama.url"}
    assert CANARY not in json.dumps(report)


def test_check_of_a_machine_without_a_server_skips_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = at_work(tmp_path, monkeypatch)
    (tmp_path / "agent.yaml").write_text("")
    assert main(["check", *options]) == 1
    assert "skipped  server.address" in capsys.readouterr().out


def test_check_by_a_user_who_may_not_read_the_services_configuration_says_who_may(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no fault of the service, and nothing is said of an agent of the user's own."""
    unread = Path("/etc/obt-agent/agent.yaml")
    given = loaded(tmp_path, ollama__url="http://127.0.0.1:9")
    given = dataclasses.replace(given, path=None, unread=unread)
    monkeypatch.setattr("obt_agent.cli.check.load_config", lambda _: given)
    assert main(["check"]) == 1
    named = capsys.readouterr().out
    assert f"{unread} may not be read by this user" in named
    assert "-> sudo obt-agent check" in named
    assert re.findall(r"FAILURE +(\S+)", named) == ["ollama.reachable"]


def test_check_of_a_wrong_configuration_ends_with_78(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.yaml").write_text("serve: 1\n")
    assert main(["check", "--config", str(tmp_path / "agent.yaml")]) == 78
    assert "FAILURE  config.valid" in capsys.readouterr().out


def test_the_bundle_holds_what_helps_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = at_work(tmp_path, monkeypatch)
    token = tmp_path / "token"
    token.write_text("static-canary-token\n")
    token.chmod(0o600)
    leak = f"logged by mistake: {CANARY} static-canary-token Bearer abcdefghijkl"
    program(tmp_path / "bin", "journalctl", f"echo '{leak}'")
    program(tmp_path / "bin", "systemctl", "exit 1")
    path = tmp_path / "bundle.tar.gz"
    words = ["diag", *options, "--set", f"server.token_file={token}", "--output", str(path)]
    with StateDir.open(tmp_path / "state") as held:
        StatusFile(held.folder).write(a_status(ollama=OllamaState(reachable=False)))
        assert main(words) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        texts = {
            member.name.split("/")[-1]: archive.extractfile(member).read().decode()  # type: ignore[union-attr] # all are files
            for member in archive.getmembers()
        }
    assert set(texts) == {
        "check.json",
        "versions.json",
        "hardware.json",
        "status.json",
        "journal.txt",
        "unit.txt",
        "service.txt",
    }
    assert "logged by mistake: *** *** Bearer ***" in texts["journal.txt"]
    everything = "".join(texts.values())
    assert CANARY not in everything
    assert "static-canary-token" not in everything
    assert main(words) == 1, "a bundle that is there is not replaced"


def test_the_bundle_is_made_of_what_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = at_work(tmp_path, monkeypatch)
    program(tmp_path / "bin", "journalctl", "exit 0")
    (tmp_path / "bin" / "journalctl").write_text("no program")
    (tmp_path / "state" / "lock").unlink()
    (tmp_path / "state" / "lock").symlink_to("/dev/null")
    path = tmp_path / "bundle.tar.gz"
    assert main(["diag", *options, "--output", str(path)]) == 0
    with tarfile.open(path) as archive:
        (unit,) = [member for member in archive.getmembers() if member.name.endswith("unit.txt")]
        assert b"There is no systemctl here" in archive.extractfile(unit).read()  # type: ignore[union-attr] # a file


def test_a_wrong_configuration_is_part_of_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which is when a bug report is written."""
    at_work(tmp_path, monkeypatch)
    (tmp_path / "agent.yaml").write_text("serve: 1\n")
    path = tmp_path / "bundle.tar.gz"
    assert main(["diag", "--config", str(tmp_path / "agent.yaml"), "--output", str(path)]) == 0
    assert "serve: unknown key" in capsys.readouterr().err
    with tarfile.open(path) as archive:
        (check,) = [member for member in archive.getmembers() if member.name.endswith("check.json")]
        assert b"serve: unknown key" in archive.extractfile(check).read()  # type: ignore[union-attr] # a file


def test_a_bundle_names_neither_hosts_nor_people_nor_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = at_work(tmp_path, monkeypatch)
    monkeypatch.setenv("SUDO_USER", "maria")
    monkeypatch.setattr("obt_agent.cli.diag.socket.gethostname", lambda: "rack7.corp.example")
    (tmp_path / "agent.yaml").write_text(
        "server: {url: 'https://obt.corp.example', proxy: 'http://me:pw@gate.corp.example:3128'}\n"
        "agent: {name: marias-box}\n"
        "policy: {registries: [registry.ollama.ai, models.corp.example]}\n"
    )
    output = (
        "rack7 obt-agent: link.admitted server=obt.corp.example by 10.1.2.3, then 10.1.2.4 and 10.1.2.3 "
        "fd00::17, marias-box MARIA /home/maria/x /home/other/y models.corp.example/team/m:1 "
        "gate.corp.example"
    )
    program(tmp_path / "bin", "journalctl", f"echo '{output}'")
    program(tmp_path / "bin", "systemctl", "echo 127.0.0.1 ::1 0.0.0.0 12:34:56 llama3.2 1.2.3")
    path = tmp_path / "bundle.tar.gz"
    assert main(["diag", *options, "--ollama-url", "http://127.0.0.1:9", "--output", str(path)]) == 0
    with tarfile.open(path) as archive:
        texts = {
            member.name.split("/")[-1]: archive.extractfile(member).read().decode()  # type: ignore[union-attr] # all are files
            for member in archive.getmembers()
        }
    assert texts["journal.txt"] == (
        "<host> obt-agent: link.admitted server=<server> by <address-1>, then <address-2> and <address-1> "
        "<address-3>, <agent> <user> /home/<user>/x /home/<user>/y <registry>/team/m:1 <proxy>\n"
    )
    assert texts["unit.txt"] == "127.0.0.1 ::1 0.0.0.0 12:34:56 llama3.2 1.2.3\n", "what is no secret stays"
    everything = "".join(texts.values())
    assert [word for word in ("corp.example", "maria", "rack7", "10.1.2") if word in everything] == []


def test_a_name_that_stands_in_every_log_stays() -> None:
    pseudonymizer = bundle.Pseudonymizer(
        {"ollama": "<host>", "pi": "<host>", "127.0.0.1": "<host>", "": "<user>"}
    )
    assert pseudonymizer.replace("ollama on pi at 127.0.0.1") == "ollama on pi at 127.0.0.1"


def test_what_looks_like_a_secret_is_masked_in_a_bundle() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"
    text = bundle.redacted(f'{key} "serial": "X1" https://me:pw@proxy {CANARY}')
    assert "abc" not in text
    assert "X1" not in text
    assert "pw" not in text
    assert CANARY not in text
