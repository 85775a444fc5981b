"""The launch agent of macOS, by recorded files: launchd itself was never asked."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from obt_agent.argument_parser import PlainArgumentParser
from obt_agent.cli import launch_agent, service
from obt_agent.errors import ConfigError
from obt_agent.identity.secret import Secret
from obt_agent.service import launchd
from obt_agent.service.launchd import LaunchAgent
from obt_agent.service.system import Outcome, ServiceError, System

RECORDED = Path(__file__).with_name("recorded.plist")
# As launchctl prints it, cut after what is read.
RUNNING = """\
gui/501/obt-agent = {
\tactive count = 1
\tpath = /Users/me/Library/LaunchAgents/obt-agent.plist
\ttype = LaunchAgent
\tstate = running

\tprogram = /opt/python
\tlast exit code = 75: EX_TEMPFAIL
}
"""


class Launchctl(System):
    """Takes note of every command; ``answers`` are those of ``launchctl print``."""

    def __init__(self, answer: Outcome | None = None) -> None:
        super().__init__()
        self.commands: list[tuple[str, ...]] = []
        self.texts: list[str] = []
        self.answer = answer or Outcome(113, "", "Could not find service")

    def call(self, command: Sequence[str], *, text: str | None = None, user: str | None = None) -> Outcome:
        assert user is None
        self.commands.append(tuple(command))
        self.texts += [text] if text else []
        return self.answer if command[1] == "print" else Outcome(0, "Enrolled at the server.\n", "")


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LaunchAgent:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/opt/python")
    return LaunchAgent(tmp_path, tmp_path / ".config/obt-agent/agent.yaml", 501)


def given(*words: str) -> argparse.Namespace:
    parser = PlainArgumentParser()
    service.add_arguments(parser)
    return parser.parse_args(words)


def token(_named: str | None) -> Secret:
    return Secret("obtj_one-time-token")


def test_the_file_is_the_recorded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/python")
    home = Path("/Users/me")
    agent = LaunchAgent(home, home / ".config/obt-agent/agent.yaml", 501)
    assert agent.text() == RECORDED.read_text()
    assert str(agent.file) == "/Users/me/Library/LaunchAgents/obt-agent.plist"


def test_installing_configures_enrols_writes_and_starts_in_this_order(
    agent: LaunchAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    launchctl = Launchctl()
    words = given("install", "--server", "https://obt.example.org", "--token-file", "x")
    assert launch_agent.run(words, token, agent, launchctl) == 0
    assert "url: https://obt.example.org" in agent.config.read_text()
    assert agent.file.read_text() == agent.text()
    stop = ("launchctl", "bootout", "gui/501/obt-agent")
    enrol = ("/opt/python", "-I", "-m", "obt_agent", "enroll", "--config", str(agent.config))
    assert launchctl.commands == [
        stop,
        (*enrol, "--token-file", "-"),
        stop,
        ("launchctl", "bootstrap", "gui/501", str(agent.file)),
    ]
    assert launchctl.texts == ["obtj_one-time-token\n"]
    assert "Enrolled at the server." in capsys.readouterr().err


def test_a_dry_run_says_what_it_would_do_and_does_nothing(
    agent: LaunchAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    launchctl = Launchctl()
    words = given("install", "--server", "https://obt.example.org", "--dry-run")
    assert launch_agent.run(words, token, agent, launchctl) == 0
    assert launchctl.commands == []
    assert not agent.file.exists()
    assert f"would write {agent.file}" in capsys.readouterr().err


def test_what_cannot_be_installed_is_refused_before_anything_is_done(agent: LaunchAgent) -> None:
    launchctl = Launchctl()
    with pytest.raises(ConfigError, match="Which server"):
        launch_agent.run(given("install"), token, agent, launchctl)
    server = ("install", "--server", "https://obt.example.org")
    with pytest.raises(ServiceError, match="there is no --wheel"):
        launch_agent.run(given(*server, "--wheel", "x.whl"), token, agent, launchctl)
    with pytest.raises(ConfigError, match="join token is needed"):
        launch_agent.run(given(*server), lambda _: None, agent, launchctl)
    root = LaunchAgent(agent.home, agent.config, 0)
    with pytest.raises(ServiceError, match="without sudo"):
        launch_agent.run(given(*server), token, root, launchctl)
    assert launchctl.commands == []
    assert not agent.file.exists()


def test_a_refused_enrolment_stops_before_the_start(agent: LaunchAgent) -> None:
    class Refusing(Launchctl):
        def call(
            self, command: Sequence[str], *, text: str | None = None, user: str | None = None
        ) -> Outcome:
            super().call(command, text=text, user=user)
            return Outcome(77, "", "the token was used before") if text else Outcome(0, "", "")

    with pytest.raises(ServiceError, match="the token was used before"):
        launch_agent.run(given("install", "--server", "https://x.example"), token, agent, Refusing())
    assert not agent.file.exists()


def test_uninstalling_stops_and_removes_and_leaves_what_is_the_users(
    agent: LaunchAgent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.file.parent.mkdir(parents=True)
    agent.file.write_text("")
    launchctl = Launchctl()
    assert launch_agent.run(given("uninstall"), token, agent, launchctl) == 0
    assert launchctl.commands == [("launchctl", "bootout", "gui/501/obt-agent")]
    assert not agent.file.exists()
    assert str(agent.config) in capsys.readouterr().err


def test_the_state_is_what_launchctl_prints(agent: LaunchAgent) -> None:
    assert launchd.read_state(agent, Launchctl(Outcome(0, RUNNING, ""))) == "running, last exit status 75"
    assert launchd.read_state(agent, Launchctl()) is None
    agent.file.parent.mkdir(parents=True)
    agent.file.write_text("")
    assert launchd.read_state(agent, Launchctl()) == "not loaded"


def test_the_command_shows_state_and_file(agent: LaunchAgent, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch_agent.run(given("status"), token, agent, Launchctl()) == 1
    assert "not installed" in capsys.readouterr().out
    assert launch_agent.run(given("status", "--json"), token, agent, Launchctl()) == 1
    assert json.loads(capsys.readouterr().out) == {"installed": False, "state": None}
    assert launch_agent.run(given("unit"), token, agent, Launchctl()) == 0
    assert capsys.readouterr().out == agent.text()
