"""Installing and removing, on a machine that is a folder, with a system that records what it is asked."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from obt_agent.daemon.status_file import LinkReport, StatusFile
from obt_agent.errors import Busy, ConfigError
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_agent.service import environment, install, interpreter, state, uninstall
from obt_agent.service.environment import MARK
from obt_agent.service.install import InstallOptions
from obt_agent.service.interpreter import Interpreter
from obt_agent.service.lock import hold_lock, interruptible
from obt_agent.service.paths import ServicePaths, here
from obt_agent.service.system import NotRoot, Outcome, ServiceError, System
from tests.service.paths import FakeSystem, machine
from tests.service.test_status import a_status

URL = "https://obt.example.org"
TOKEN = Secret("obtj_one-time-token-of-the-test")


def options(**changes: object) -> InstallOptions:
    given = {"server": URL, "token": lambda: TOKEN, **changes}
    return InstallOptions(**given)  # type: ignore[arg-type] # the fields have many types


def run(plan: install.InstallPlan) -> list[str]:
    descriptions = []
    for step in plan.steps():
        descriptions.append(step.description)
        step.run()
    return descriptions


def plan(paths: ServicePaths, system: System, **changes: object) -> install.InstallPlan:
    return install.plan(options(**changes), paths, system, user=0)


def test_without_systemd_nothing_can_be_installed(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="systemd does not run here"):
        install.check_machine(machine(tmp_path, systemd=False), user=0)


def test_only_root_may_install(tmp_path: Path) -> None:
    with pytest.raises(NotRoot, match="put sudo before the command"):
        install.check_machine(machine(tmp_path), user=1000)


def test_a_packages_program_is_configured_enrolled_and_started(tmp_path: Path) -> None:
    paths, system = machine(tmp_path, packaged=True), FakeSystem()
    run(plan(paths, system))
    assert "url: 'https://obt.example.org'" in paths.config.read_text()
    assert paths.config.stat().st_mode & 0o777 == 0o640
    (enroll,) = [command for command in system.asked if "enroll" in command]
    assert enroll[0] == str(paths.program)
    assert system.users == ["obt-agent"]
    assert system.output == [TOKEN.reveal() + "\n"]
    assert ["systemctl", "restart", "obt-agent.service"] in system.asked
    assert not paths.unit.exists()


def test_the_token_is_never_among_the_arguments(tmp_path: Path) -> None:
    system = FakeSystem()
    run(plan(machine(tmp_path, packaged=True), system))
    assert TOKEN.reveal() not in str(system.asked)


def test_everything_is_decided_before_anything_is_changed(tmp_path: Path) -> None:
    paths, system = machine(tmp_path, packaged=True), FakeSystem()
    before = sorted(tmp_path.rglob("*"))
    steps = plan(paths, system).steps()
    assert [step.description.split()[0] for step in steps] == ["write", "stop", "enable"]
    assert sorted(tmp_path.rglob("*")) == before
    assert system.asked == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"server": "obt.example.org"}, "has no scheme"),
        ({"server": "ftp://obt.example.org"}, "scheme"),
        ({"server": "http://obt.example.org"}, "not encrypted"),
        ({"server": None}, "Which server"),
        ({"token": lambda: None}, "A join token is needed"),
        ({"ollama": "ftp://here"}, "ollama.url"),
    ],
)
def test_what_is_missing_or_wrong_is_reported_and_changes_nothing(
    tmp_path: Path, given: dict[str, object], words: str
) -> None:
    paths, system = machine(tmp_path, packaged=True), FakeSystem()
    with pytest.raises(ConfigError) as failed:
        plan(paths, system, **given)
    assert words in failed.value.message
    assert system.asked == []
    assert not paths.config.exists()


def test_a_second_installation_keeps_the_configuration_and_does_not_enrol_again(tmp_path: Path) -> None:
    paths, system = machine(tmp_path, packaged=True), FakeSystem()
    run(plan(paths, system))
    paths.config.write_text(paths.config.read_text() + "# mine\n")
    before = paths.config.read_text()
    paths.state.mkdir(parents=True)
    (paths.state / "credential.json").write_text("{}")
    again = FakeSystem()
    descriptions = run(plan(paths, again, token=lambda: pytest.fail("no token is needed")))
    assert descriptions == ["enable and start the service"]
    assert paths.config.read_text() == before
    descriptions = run(plan(paths, again, server=None, enroll_again=True, start=False))
    assert len(descriptions) == 1


def test_another_server_is_not_written_over_the_owners(tmp_path: Path) -> None:
    paths = machine(tmp_path, packaged=True)
    run(plan(paths, FakeSystem()))
    with pytest.raises(ServiceError, match="names another server"):
        plan(paths, FakeSystem(), server="https://other.example.org")


def test_a_packages_empty_configuration_gets_the_server(tmp_path: Path) -> None:
    paths = machine(tmp_path, packaged=True)
    paths.config.parent.mkdir(parents=True)
    paths.config.write_text("# from the package\npolicy:\n  max_streams: 3\n")
    run(plan(paths, FakeSystem()))
    assert paths.config.read_text().startswith("# from the package\npolicy:\n  max_streams: 3\n\nserver:")


def test_a_wrong_configuration_that_is_there_is_reported(tmp_path: Path) -> None:
    paths = machine(tmp_path, packaged=True)
    paths.config.parent.mkdir(parents=True)
    paths.config.write_text("serve: 1\n")
    with pytest.raises(ConfigError, match="unknown key"):
        plan(paths, FakeSystem())


@pytest.mark.parametrize("given", [{"join": True}, {"enroll_again": True}])
def test_a_join_token_takes_the_place_of_a_static_one(tmp_path: Path, given: dict[str, bool]) -> None:
    """Left in the credstore, it would win: to the agent it is newer than the credential."""
    paths, system = machine(tmp_path, packaged=True), FakeSystem()
    run(plan(paths, system, static_token=Secret("static-token")))
    descriptions = run(plan(paths, system, **given))
    assert any(f"in place of {paths.token}" in words for words in descriptions)
    assert system.output == [TOKEN.reveal() + "\n"]
    assert not paths.token.exists()


def test_a_static_token_stays_when_enrolling_fails_and_when_no_join_token_is_given(tmp_path: Path) -> None:
    paths = machine(tmp_path, packaged=True)
    run(plan(paths, FakeSystem(), static_token=Secret("static-token")))
    run(plan(paths, FakeSystem(), token=lambda: pytest.fail("no token is needed")))
    system = FakeSystem(**{"enroll --config": Outcome(77, "", "The server refused the join token.")})
    with pytest.raises(ServiceError, match="refused the join token"):
        run(plan(paths, system, join=True))
    assert paths.token.read_text() == "static-token\n"


def test_a_static_token_goes_where_systemd_looks_for_it(tmp_path: Path) -> None:
    paths, system = machine(tmp_path, packaged=True), FakeSystem()
    run(plan(paths, system, static_token=Secret("static-token")))
    assert paths.token.read_text() == "static-token\n"
    assert paths.token.stat().st_mode & 0o777 == 0o600
    assert not [command for command in system.asked if "enroll" in command]


def test_a_failed_enrolment_says_why_and_starts_nothing(tmp_path: Path) -> None:
    system = FakeSystem(**{"enroll --config": Outcome(77, "", "The server refused the join token.")})
    with pytest.raises(ServiceError, match="refused the join token"):
        run(plan(machine(tmp_path, packaged=True), system))
    assert ["systemctl", "restart", "obt-agent.service"] not in system.asked


def test_a_service_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    system = FakeSystem(systemctl_restart=Outcome(1, "", ""), journalctl=Outcome(0, "it said this", ""))
    with pytest.raises(ServiceError, match="it said this"):
        run(plan(machine(tmp_path, packaged=True), system))


def test_without_a_package_unit_user_folders_and_environment_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, system = machine(tmp_path), FakeSystem()
    made = []
    monkeypatch.setattr(environment, "make", lambda *given: made.append(given))
    monkeypatch.setattr(interpreter, "choose", lambda *_, **__: Interpreter(Path("/p"), (3, 11), "3.11.2"))
    descriptions = run(plan(paths, system))
    assert descriptions[0] == f"make {paths.prefix} with Python 3.11.2"
    assert made[0][0] == paths.prefix
    assert paths.launcher.readlink() == paths.program
    assert paths.unit.exists()
    assert ["systemd-sysusers", str(paths.sysusers)] in system.asked
    assert ["systemctl", "daemon-reload"] in system.asked
    paths.launcher.unlink()
    paths.launcher.write_text("somebody else's program")
    run(plan(paths, system))
    assert paths.launcher.read_text() == "somebody else's program"


def test_the_program_does_not_replace_the_environment_that_it_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = machine(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(paths.prefix))
    assert plan(paths, FakeSystem()).python is None


class Failing(FakeSystem):
    """Its service runs until it is restarted with the new unit, and then does not start."""

    def __init__(self, paths: ServicePaths, **answers: Outcome) -> None:
        super().__init__(**answers)
        self.paths = paths

    def call(self, command: Sequence[str], *, text: str | None = None, user: str | None = None) -> Outcome:
        super().call(command, text=text, user=user)
        if command[:2] == ["systemctl", "restart"] and (self.paths.prefix / "new").exists():
            return Outcome(1, "", "failed")
        return next(
            (found for key, found in self.answers.items() if key in " ".join(command)), Outcome(0, "", "")
        )


def upgradable(paths: ServicePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed version with a unit of its own, and a new one that is made without its minute's work."""

    def make(prefix: Path, *_: object) -> None:
        prefix.rename(prefix.with_name("obt-agent.old"))
        prefix.mkdir()
        for name in (MARK, "new"):
            (prefix / name).touch()

    monkeypatch.setattr(environment, "make", make)
    paths.prefix.mkdir(parents=True)
    (paths.prefix / MARK).touch()
    paths.unit.parent.mkdir(parents=True)
    paths.unit.write_text("[Service]\nExecStart=/the/version/before\n")


RUNNING = Outcome(0, "ActiveState=active\n", "")


def test_an_upgrade_that_does_not_start_gives_way_to_the_version_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = machine(tmp_path)
    upgradable(paths, monkeypatch)
    system = Failing(paths, **{"systemctl show": RUNNING, "journalctl": Outcome(0, "key unknown", "")})
    with pytest.raises(ServiceError, match=r"the version before it runs again\. Its log:\nkey unknown"):
        run(plan(paths, system))
    assert not (paths.prefix / "new").exists()
    assert "/the/version/before" in paths.unit.read_text()
    assert system.asked[-3:] == [
        ["systemctl", "daemon-reload"],
        ["systemctl", "reset-failed", "obt-agent.service"],
        ["systemctl", "restart", "obt-agent.service"],
    ]
    assert sorted(path.name for path in paths.prefix.parent.iterdir()) == ["obt-agent"]


def test_a_version_before_that_did_not_run_is_not_gone_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = machine(tmp_path)
    upgradable(paths, monkeypatch)
    with pytest.raises(ServiceError, match=r"does not start\. Its log"):
        run(plan(paths, Failing(paths)))
    assert (paths.prefix / "new").exists()


@pytest.mark.parametrize("start", [True, False])
def test_an_upgrade_that_starts_or_need_not_leaves_one_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, start: bool
) -> None:
    paths = machine(tmp_path)
    upgradable(paths, monkeypatch)
    run(plan(paths, FakeSystem(), start=start))
    assert (paths.prefix / "new").exists()
    assert sorted(path.name for path in paths.prefix.parent.iterdir()) == ["obt-agent"]


def test_an_installation_that_changes_nothing_restarts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, system = machine(tmp_path), FakeSystem(**{"systemctl show": RUNNING})
    restart = ["systemctl", "restart", "obt-agent.service"]
    monkeypatch.setattr(environment, "make", lambda *_: False)
    run(plan(paths, system))
    assert restart in system.asked, "it runs, and what was just written is newer than it"
    with state_of(paths) as held:
        (paths.state / "credential.json").write_text("{}")
        StatusFile(held.folder).write(a_status(started_at=time.time()))
        system.asked.clear()
        run(plan(paths, system))
        assert restart not in system.asked
        assert ["systemctl", "stop", "obt-agent.service"] not in system.asked
        # Changed after its start, by whomever.
        os.utime(paths.config, (time.time() + 60, time.time() + 60))
        run(plan(paths, system))
        assert restart in system.asked


def test_a_service_that_ran_runs_on_when_enrolling_it_again_fails(tmp_path: Path) -> None:
    paths = machine(tmp_path, packaged=True)
    refused = Outcome(77, "", "The server refused the join token.")
    system = FakeSystem(**{"enroll --config": refused, "systemctl show": RUNNING})
    with pytest.raises(ServiceError, match="the service runs as before"):
        run(plan(paths, system, enroll_again=True))
    assert system.asked[-1] == ["systemctl", "start", "obt-agent.service"]


# One at a time.


def test_two_that_change_the_service_do_not_work_at_once(tmp_path: Path) -> None:
    """Nor beside what a killed one left running."""
    paths, system = machine(tmp_path), System()
    with hold_lock(paths) as lock:
        with pytest.raises(Busy, match="at work"), hold_lock(paths):
            pytest.fail("two at once")
        left = subprocess.Popen(["sleep", "600"], pass_fds=(lock,))
    try:
        with pytest.raises(Busy, match="at work"), hold_lock(paths):
            pytest.fail("beside a child of one that is gone")
    finally:
        left.kill()
        left.wait()
    with hold_lock(paths) as lock:
        system.inherited = (lock,)
        assert system.call(["sh", "-c", f"test -e /proc/self/fd/{lock}"]).code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_as_ctrl_c_does(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


# What comes after the start.


def state_of(paths: ServicePaths) -> StateDir:
    paths.state.parent.mkdir(parents=True)
    return StateDir.open(paths.state)


def test_the_wait_ends_with_the_admission(tmp_path: Path) -> None:
    paths = machine(tmp_path)
    with state_of(paths) as held:
        StatusFile(held.folder).write(a_status())
        assert install.wait_admitted(paths, FakeSystem(), 5.0) == a_status()


def test_the_wait_is_bounded_and_gives_what_is_known(tmp_path: Path) -> None:
    paths = machine(tmp_path)
    waiting = a_status(link=LinkReport(state="waiting", server="s"))
    assert install.wait_admitted(paths, FakeSystem(), 0.05) is None
    with state_of(paths) as held:
        StatusFile(held.folder).write(waiting)
        assert install.wait_admitted(paths, FakeSystem(), 0.05) == waiting


def test_a_service_that_ends_meanwhile_shows_its_log(tmp_path: Path) -> None:
    system = FakeSystem(
        systemctl_show=Outcome(0, "ActiveState=failed\n", ""), journalctl=Outcome(0, "revoked", "")
    )
    with pytest.raises(ServiceError, match="revoked"):
        install.wait_admitted(machine(tmp_path), system, 5.0)


# Removing.


def furnished(tmp_path: Path) -> ServicePaths:
    paths = machine(tmp_path)
    for path in (paths.unit, paths.sysusers, paths.tmpfiles, paths.config, paths.token):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for folder in (paths.prefix, paths.state, paths.locks, paths.overrides):
        folder.mkdir(parents=True)
    (paths.prefix / MARK).write_text("")
    paths.launcher.parent.mkdir(parents=True)
    paths.launcher.symlink_to(paths.program)
    return paths


def act(step: install.InstallStep) -> None:
    step.run()


def left(paths: ServicePaths) -> list[str]:
    files = (path for path in paths.root.rglob("*") if path.is_symlink() or path.is_file())
    return sorted(str(path.relative_to(paths.root)) for path in files)


def test_uninstalling_removes_everything_and_can_be_repeated(tmp_path: Path) -> None:
    paths, system = furnished(tmp_path), FakeSystem()
    for _ in range(2):
        for step in uninstall.steps(paths, system, keep_state=False):
            step.run()
    assert left(paths) == []
    assert not paths.state.exists()
    assert ["userdel", "obt-agent"] in system.asked


def test_the_state_can_be_kept(tmp_path: Path) -> None:
    paths, system = furnished(tmp_path), FakeSystem()
    for step in uninstall.steps(paths, system, keep_state=True):
        step.run()
    assert left(paths) == ["etc/credstore/obt-token", "etc/obt-agent/agent.yaml"]
    assert paths.state.exists()
    assert ["userdel", "obt-agent"] not in system.asked


def test_a_user_that_is_not_there_is_not_removed(tmp_path: Path) -> None:
    system = FakeSystem(getent=Outcome(2, "", ""))
    for step in uninstall.steps(furnished(tmp_path), system, keep_state=False):
        step.run()
    assert not [command for command in system.asked if command[0] in {"userdel", "groupdel"}]


def test_a_package_is_left_to_its_manager(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="apt purge obt-agent"):
        list(uninstall.steps(machine(tmp_path, packaged=True), FakeSystem(), keep_state=False))


def test_somebody_elses_launcher_and_what_cannot_be_removed_are_reported(tmp_path: Path) -> None:
    paths = furnished(tmp_path)
    paths.launcher.unlink()
    paths.launcher.write_text("somebody else's")
    (paths.overrides).rmdir()
    paths.overrides.write_text("a file where a folder should be")
    steps = list(uninstall.steps(paths, FakeSystem(), keep_state=False))
    with pytest.raises(ServiceError, match="cannot be removed"):
        list(map(act, steps))
    paths.overrides.unlink()
    for step in uninstall.steps(paths, FakeSystem(), keep_state=False):
        step.run()
    assert paths.launcher.read_text() == "somebody else's"


# Asking systemd.


def test_systemd_is_asked_for_the_service(tmp_path: Path) -> None:
    output = "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\n"
    output += "NRestarts=2\n"
    found = state.read_state(machine(tmp_path), FakeSystem(systemctl_show=Outcome(0, output, "")))
    assert (found.installed, found.runs, found.enabled, found.restarts) == (True, True, True, 2)
    with pytest.raises(ServiceError, match="no service"):
        state.read_state(machine(tmp_path / "other", systemd=False), FakeSystem())


def test_a_command_of_the_system_that_fails_is_reported_in_its_words() -> None:
    system = System()
    with pytest.raises(ServiceError, match="no such thing"):
        system.run(["sh", "-c", "echo no such thing >&2; exit 3"])
    with pytest.raises(ServiceError, match="There is no no-such-program"):
        system.call(["no-such-program"])
    assert system.call(["cat"], text="given").out == "given"
    assert system.call(["cat"]).out == ""


def test_a_command_of_the_system_may_not_take_for_ever() -> None:
    with pytest.raises(ServiceError, match="did not end within"):
        System(timeout_s=0.1).call(["sleep", "60"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_command_can_run_as_another_user_with_none_of_our_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    output = System().call(["sh", "-c", "id -un; id -G; env"], user="daemon")
    assert output.out.splitlines()[0] == "daemon"
    assert "A_SECRET" not in output.out


def test_where_the_program_lies_decides_who_owns_it() -> None:
    paths = here()
    assert not paths.packaged
    assert str(paths.prefix) == "/opt/obt-agent"
