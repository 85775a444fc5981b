"""``obt-agent status``, ``results`` and ``service``, as a person types them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from obt_agent.cli import main
from obt_agent.cli.status import lines
from obt_agent.daemon.status_file import Clocks, LinkReport, ProviderReport, Status, StatusFile
from obt_agent.errors import ConfigError
from obt_agent.identity.folder import FolderError
from obt_agent.identity.owner import as_owner
from obt_agent.identity.state_dir import StateDir
from obt_agent.jobs.store.database import JobDatabase
from obt_agent.jobs.store.job_store import DATABASE
from obt_agent.jobs.store.read_only import StoreReading
from obt_agent.ollama.payloads import OllamaState
from obt_agent.printable import printable
from obt_agent.protocol.admission import OutboxCounts
from obt_agent.protocol.jobs import JobProgress
from obt_agent.service import paths
from obt_agent.service.system import Outcome
from tests.doctor.test_checks import finished_job
from tests.service.paths import FakeSystem, machine
from tests.service.test_status import a_status, running

WAITING = LinkReport(state="waiting", server="s", problem="connection refused")
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[StateDir]:
    """A state folder that an agent holds."""
    with StateDir.open(tmp_path / "state") as state:
        yield state


def options(tmp_path: Path) -> list[str]:
    (tmp_path / "agent.yaml").touch()
    return ["--config", str(tmp_path / "agent.yaml"), "--state-dir", str(tmp_path / "state")]


# status


@pytest.mark.parametrize(("state", "service"), [("loaded", True), ("not-found", False)])
def test_status_of_an_agent_of_ones_own_that_does_not_run_names_the_systems_service(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, state: str, *, service: bool
) -> None:
    output = Outcome(0, f"LoadState={state}\nActiveState=active\nSubState=running", "")
    arranged(monkeypatch, machine(tmp_path / "root"), FakeSystem(systemctl_show=output))
    assert main(["status", *options(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert "Start it: obt-agent run" in shown
    assert ("The system's own service is active (running): sudo obt-agent status" in shown) == service


REFUSED = "The server refused the credential. Enrol this agent anew."


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("LoadState=not-found", ["sudo obt-agent service install --server URL"]),
        (
            "LoadState=loaded\nActiveState=inactive\nResult=success",
            ["Start it: sudo systemctl start obt-agent"],
        ),
        (
            f"LoadState=loaded\nActiveState=failed\nResult=exit-code\nExecMainStatus=78\nStatusText={REFUSED}",
            [REFUSED, "exit status 78", "does not start it again", "sudo systemctl restart obt-agent"],
        ),
        (
            "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=watchdog\nExecMainStatus=6",
            ["watchdog", "starts it again in a few seconds", "journalctl -u obt-agent"],
        ),
        (
            "LoadState=loaded\nActiveState=failed\nResult=exit-code\nExecMainStatus=217\nStatusText=admitted",
            ["exit status 217: systemd could not become the user: it is missing (User=)"],
        ),
        (
            "LoadState=loaded\nActiveState=failed\nResult=exit-code\nExecMainStatus=226",
            ["exit status 226: systemd could not make a file system namespace"],
        ),
        (
            "LoadState=loaded\nActiveState=failed\nResult=exit-code\nExecMainStatus=234",
            ["exit status 234: systemd could not set up what the unit asks for"],
        ),
        (
            "LoadState=loaded\nActiveState=failed\nResult=oom-kill\nExecMainStatus=9",
            ["It ended with oom-kill, SIGKILL"],
        ),
        (
            "LoadState=loaded\nActiveState=failed\nResult=timeout",
            ["Start it: sudo systemctl start", "journalctl"],
        ),
    ],
)
def test_status_of_a_service_that_ended_says_why_and_what_to_do(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, output: str, words: list[str]
) -> None:
    where = machine(tmp_path)
    arranged(monkeypatch, where, FakeSystem(systemctl_show=Outcome(0, output, "")))
    (tmp_path / "agent.yaml").touch()
    given = ["--config", str(tmp_path / "agent.yaml"), "--state-dir", str(where.state)]
    assert main(["status", *given]) == 1
    shown = capsys.readouterr().err
    assert [word for word in words if word not in shown] == []


def test_status_where_no_systemd_runs_says_so(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = machine(tmp_path, systemd=False)
    arranged(monkeypatch, where, FakeSystem())
    (tmp_path / "agent.yaml").touch()
    assert main(["status", "--config", str(tmp_path / "agent.yaml"), "--state-dir", str(where.state)]) == 1
    assert "systemd does not run here" in capsys.readouterr().err


def test_status_of_an_agent_that_has_written_no_status_yet(
    tmp_path: Path, held: StateDir, capsys: Captured
) -> None:
    assert main(["status", *options(tmp_path)]) == 69
    assert "no status yet" in capsys.readouterr().err


def test_status_of_an_admitted_agent(tmp_path: Path, held: StateDir, capsys: Captured) -> None:
    StatusFile(held.folder).write(a_status())
    assert main(["status", *options(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("admitted by obt.example.org, 3 models\n")
    assert main(["status", "--json", *options(tmp_path)]) == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=Status) == a_status()


def test_status_of_an_agent_without_a_link(tmp_path: Path, held: StateDir, capsys: Captured) -> None:
    StatusFile(held.folder).write(a_status(link=WAITING))
    assert main(["status", *options(tmp_path)]) == 69
    assert "waiting: connection refused" in capsys.readouterr().out


def test_a_health_check_gets_no_words_and_one_of_two_answers(
    tmp_path: Path, held: StateDir, capsys: Captured
) -> None:
    well = a_status(written_at=time.time())
    hanging = a_status(written_at=time.time() - 60)
    for status, code in ((None, 1), (well, 0), (hanging, 1), (a_status(link=WAITING), 1)):
        if status is not None:
            StatusFile(held.folder).write(status)
        assert main(["status", "--quiet", *options(tmp_path)]) == code
    words = ["status", "--quiet", "--config", str(tmp_path / "agent.yaml")]
    assert main([*words, "--state-dir", str(tmp_path / "none")]) == 1
    (tmp_path / "agent.yaml").write_text("serve: 1\n")
    assert main(words) == 1
    assert capsys.readouterr() == ("", "")


def test_every_fact_of_a_status_is_shown() -> None:
    output = "\n".join(
        lines(
            a_status(
                link=LinkReport(state="admitted", server="s", since=0.0, pins=("sha256-x", "sha256-y")),
                loaded=("llama3",),
                jobs=(running(JobProgress(phase="iteration")), running(None)),
                providers=(ProviderReport(name="nvidia", status="lost", reason="fell off the bus"),),
                loop_lag_ms=3.0,
                written_at=100_000.0,
            ),
            now=Clocks(wall=200_000.0, uptime=0.0, tick=0.0),
        )
    )
    for words in (
        "loaded: llama3",
        "pinned   sha256-x, sha256-y",
        "j1: benchmark of llama3, running, iteration",
        "nvidia: lost (fell off the bus)",
        "3 ms late",
        "written 1 d 3 h ago: the agent may hang",
        "up 2 d 7 h",
    ):
        assert words in output
    away = a_status(
        ollama=OllamaState(reachable=False), link=LinkReport(state="admitted", server="s", since=1e6)
    )
    output = "\n".join(lines(away, now=Clocks(wall=1e6 + 59, uptime=0.0, tick=0.0)))
    assert "does not answer: no reason known" in output
    assert "admitted for 59 s" in output


@pytest.mark.parametrize("step_s", [86_400.0, 0.0, -86_400.0])
def test_a_clock_that_is_set_moves_neither_age_nor_duration(step_s: float) -> None:
    """A machine without a clock of its own starts in another year, until it has heard of the time."""
    status = a_status(
        started_at=1e9,
        started_uptime_s=100.0,
        written_at=1e9 + 3600,
        written_tick_s=3_000.0,
        link=LinkReport(state="admitted", server="s", since=1e9 + 60, since_uptime_s=160.0),
    )
    output = "\n".join(lines(status, Clocks(wall=1e9 + 3600 + step_s, uptime=3_700.0, tick=3_005.0)))
    assert "up 1 h 0 min" in output
    assert "admitted for 59 min 0 s" in output
    assert "may hang" not in output


# results


def test_an_outbox_is_listed_and_shown_while_its_owner_runs(
    tmp_path: Path, held: StateDir, capsys: Captured
) -> None:
    assert main(["results", "list", *options(tmp_path)]) == 78
    finished_job(held.path, "waits", time.time())
    owner = JobDatabase(held.path / DATABASE)
    assert main(["results", "list", *options(tmp_path)]) == 0
    assert "waits  benchmark llama3  completed  waits, 14 bytes" in capsys.readouterr().out
    assert main(["results", "list", "--json", *options(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["job_id"] == "waits"
    assert main(["results", "show", "waits", *options(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["result"] == {"figures": 1}
    assert main(["results", "show", "none", *options(tmp_path)]) == 1
    owner.drop("waits")
    owner.close()
    assert main(["results", "list", *options(tmp_path)]) == 0
    assert "Nothing is open" in capsys.readouterr().out


def test_looking_at_a_store_that_is_damaged_or_of_another_version_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    path.write_bytes(b"this is no database, but long enough to be looked at as one" * 20)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="cannot be read"):
        StoreReading(path)
    assert path.read_bytes() == before
    path.unlink()
    store = JobDatabase(path)
    for version, words in ((1, "earlier version"), (999, "later version")):
        store._db.execute(f"PRAGMA user_version = {version}")  # noqa: SLF001 - what another version would have left
        with pytest.raises(ConfigError, match=words):
            StoreReading(path)
    store.close()


def test_a_result_is_not_dropped_under_a_running_agent(
    tmp_path: Path, held: StateDir, capsys: Captured
) -> None:
    finished_job(held.path, "waits", time.time())
    assert main(["results", "drop", "waits", "--yes", *options(tmp_path)]) == 75
    assert "is in use by" in capsys.readouterr().err


def test_a_result_is_dropped_once_it_is_confirmed(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    StateDir.open(tmp_path / "state").close()
    drop = ["results", "drop", "waits", *options(tmp_path)]
    assert main([*drop, "--yes"]) == 1
    assert "no job store" in capsys.readouterr().err
    finished_job(tmp_path / "state", "waits", time.time())
    assert main(drop) == 1
    assert "confirm with --yes" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    for answer, code in (("n", 1), ("y", 0), ("y", 1)):
        monkeypatch.setattr("builtins.input", lambda _, shown=answer: shown)
        assert main(drop) == code


def test_flush_without_an_agent_says_what_to_do(tmp_path: Path, capsys: Captured) -> None:
    assert main(["results", "flush", *options(tmp_path)]) == 69
    assert "systemctl start obt-agent" in capsys.readouterr().err


def test_flush_of_an_admitted_agent_waits_until_all_is_delivered(
    tmp_path: Path, held: StateDir, capsys: Captured
) -> None:
    StatusFile(held.folder).write(a_status())
    assert main(["results", "flush", *options(tmp_path)]) == 0
    StatusFile(held.folder).write(a_status(outbox=OutboxCounts(entries=1, bytes=5)))
    assert main(["results", "flush", "--wait", "0.3", *options(tmp_path)]) == 69
    assert "1 result to deliver" in capsys.readouterr().err


def test_flush_makes_an_agent_without_a_link_dial_now(tmp_path: Path, held: StateDir) -> None:
    StatusFile(held.folder).write(a_status(link=WAITING))
    heard: list[int] = []

    def on_hangup(number: int, _frame: object) -> None:
        heard.append(number)
        StatusFile(held.folder).write(a_status())

    before = signal.signal(signal.SIGHUP, on_hangup)
    try:
        assert main(["results", "flush", "--wait", "20", *options(tmp_path)]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert heard == [signal.SIGHUP]


def test_flush_by_somebody_else_says_who_may(
    tmp_path: Path, held: StateDir, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    assert main(["results", "flush", *options(tmp_path)]) == 77
    assert "sudo" in capsys.readouterr().err


def test_a_folder_that_may_not_be_entered_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", forbidden)
    with pytest.raises(FolderError, match="put sudo before"), as_owner(tmp_path):
        pytest.fail("it was entered")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can take the rights of another user")
def test_what_root_looks_at_stays_its_owners(passable_path: Path) -> None:
    """In a process of its own: the rights are the process's."""
    folder = passable_path / "state"
    StateDir.open(folder).close()
    finished_job(folder, "waits", time.time())
    for path in [folder, *folder.iterdir()]:
        os.chown(path, 1, 1)
    words = [sys.executable, "-m", "obt_agent", "results", "list", *options(passable_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert {path.stat().st_uid for path in folder.iterdir()} == {1}


# service


def arranged(
    monkeypatch: pytest.MonkeyPatch, where: paths.ServicePaths, system: FakeSystem, user: int = 0
) -> None:
    monkeypatch.setattr(paths, "here", lambda: where)
    monkeypatch.setattr("obt_agent.service.system.System", lambda: system)
    monkeypatch.setattr(os, "geteuid", lambda: user)


def token_file(tmp_path: Path) -> str:
    path = tmp_path / "join"
    path.write_text("obtj_one-time-token\n")
    path.chmod(0o600)
    return str(path)


INSTALL = ["service", "install", "--server", "https://obt.example.org"]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    where, system = machine(tmp_path / "root", packaged=True), FakeSystem()
    arranged(monkeypatch, where, system)
    assert main([*INSTALL, "--token-file", token_file(tmp_path), "--dry-run"]) == 0
    assert "would enable and start the service" in capsys.readouterr().err
    assert system.asked == []
    assert not where.config.exists()


def test_installing_ends_with_how_the_agent_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    where, system = machine(tmp_path / "root", packaged=True), FakeSystem()
    arranged(monkeypatch, where, system)
    given = [*INSTALL, "--token-file", token_file(tmp_path)]
    assert main([*given, "--no-start"]) == 0
    assert main([*given, "--wait", "0.1"]) == 69
    assert "has written no status yet" in capsys.readouterr().err
    where.state.parent.mkdir(parents=True)
    with StateDir.open(where.state) as held:
        StatusFile(held.folder).write(a_status())
        assert main(given) == 0
        StatusFile(held.folder).write(a_status(link=WAITING, ollama=OllamaState(reachable=False)))
        assert main([*given, "--wait", "0.1"]) == 69
    output = capsys.readouterr().err
    assert "Ollama does not answer; the agent waits for it" in output
    assert "sudo obt-agent check" in output


def test_a_token_comes_from_a_prompt_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    where, system = machine(tmp_path / "root", packaged=True), FakeSystem()
    arranged(monkeypatch, where, system)
    assert main([*INSTALL, "--no-start"]) == 78
    assert "A join token is needed" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda _: "obtj_typed-token")
    assert main([*INSTALL, "--no-start"]) == 0
    read, write = os.pipe()
    os.write(write, b"obtj_piped-token\n")
    os.close(write)
    with os.fdopen(read) as piped:
        monkeypatch.setattr(sys, "stdin", piped)
        assert main([*INSTALL, "--no-start", "--token-file", "-"]) == 0
    assert system.output == ["obtj_typed-token\n", "obtj_piped-token\n"]
    static = ["--static-token-file", token_file(tmp_path), "--wheel", "none.whl"]
    assert main([*INSTALL, "--no-start", *static]) == 0
    assert where.token.read_text() == "obtj_one-time-token\n"


class Interrupting(FakeSystem):
    """Ctrl-C comes while it starts the service."""

    def call(self, command: Sequence[str], *, text: str | None = None, user: str | None = None) -> Outcome:
        if "enable" in command:
            raise KeyboardInterrupt
        return super().call(command, text=text, user=user)


def test_an_interrupted_installation_says_that_it_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    arranged(monkeypatch, machine(tmp_path / "root", packaged=True), Interrupting())
    assert main([*INSTALL, "--token-file", token_file(tmp_path)]) == 130
    assert "Give the same command again" in capsys.readouterr().err


def test_a_join_token_that_is_not_needed_is_left_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    where, system = machine(tmp_path / "root", packaged=True), FakeSystem()
    arranged(monkeypatch, where, system)
    where.state.mkdir(parents=True)
    (where.state / "credential.json").touch()
    assert main([*INSTALL, "--no-start", "--token-file", token_file(tmp_path)]) == 0
    assert "--enroll-again enrols it anew" in capsys.readouterr().err
    assert system.output == []


def test_uninstalling_a_package_is_refused_and_another_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    arranged(monkeypatch, machine(tmp_path, packaged=True), FakeSystem())
    assert main(["service", "uninstall"]) == 1
    assert "apt purge" in capsys.readouterr().err
    arranged(monkeypatch, machine(tmp_path), FakeSystem())
    assert main(["service", "uninstall"]) == 0
    arranged(monkeypatch, machine(tmp_path), FakeSystem(), user=1000)
    assert main(["service", "uninstall"]) == 77
    assert "put sudo before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "code", "words"),
    [
        ("LoadState=not-found\nActiveState=inactive", 1, "is not installed"),
        (
            "LoadState=loaded\nActiveState=active\nSubState=running\nStatusText=admitted",
            0,
            "status  admitted",
        ),
        ("LoadState=loaded\nActiveState=failed\nResult=exit-code\nExecMainStatus=78", 1, "exit status 78"),
        ("LoadState=loaded\nActiveState=failed\nResult=exit-code\nExecMainStatus=217", 1, "become the user"),
    ],
)
def test_the_services_state_is_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    output: str,
    code: int,
    words: str,
) -> None:
    arranged(monkeypatch, machine(tmp_path), FakeSystem(systemctl_show=Outcome(0, output, "")))
    assert main(["service", "status"]) == code
    shown = capsys.readouterr()
    assert words in shown.out + shown.err


def test_the_unit_files_are_printed(capsys: Captured) -> None:
    assert main(["service", "unit"]) == 0
    assert "User=obt-agent" in capsys.readouterr().out
    assert main(["service", "unit", "--user"]) == 0
    assert "WantedBy=default.target" in capsys.readouterr().out


def test_what_a_server_chose_cannot_move_the_cursor_of_a_terminal() -> None:
    assert printable("job \x1b[2J\u202e: é") == "job \\x1b[2J\\u202e: é"
