import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from obt_agent.config import environment
from obt_agent.config.load import ProcessContext, load
from obt_agent.config.origins import SourceReading
from obt_agent.config.problems import WrongConfig
from tests.config.process_context import around, problems, written


def person(folder: Path, environ: dict[str, str] | None = None) -> ProcessContext:
    """Somebody at a terminal who owns the files of this test."""
    here = around(folder, environ, terminal=True)
    return ProcessContext(
        environ=here.environ,
        working_dir=folder,
        terminal=True,
        user=folder.stat().st_uid or 4242,
        pid=here.pid,
        host_name=here.host_name,
    )


def own(path: str | Path, user: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, user, -1)


def with_dotenv(folder: Path, text: str, environ: dict[str, str] | None = None) -> ProcessContext:
    found = person(folder, environ)
    own(written(folder, text, ".env"), found.user)
    return found


def test_a_person_at_a_terminal_has_the_dotenv_read_and_its_lines_named(tmp_path: Path) -> None:
    text = "# mine\nOTHER=1\nexport OBT_SERVER_URL='https://obt.example.org'\nCLIENT_ID=box # desk\n"
    found = load(written(tmp_path, ""), surroundings=with_dotenv(tmp_path, text))
    assert found.config.server.url == "wss://obt.example.org/api/v1/agents/connect"
    assert str(found.origins["server.url"]) == f"{tmp_path}/.env:3"
    assert found.config.agent.name == "box"
    assert found.dotenv == tmp_path / ".env"


def test_the_environment_beats_the_dotenv_and_that_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "agent: {name: file}\nollama: {url: 'http://file:1'}")
    surroundings = with_dotenv(
        tmp_path, "CLIENT_ID=dotenv\nOLLAMA_URL=http://dotenv:1\n", {"CLIENT_ID": "env"}
    )
    config = load(path, surroundings=surroundings).config
    assert (config.agent.name, config.ollama.url) == ("env", "http://dotenv:1")


@pytest.mark.parametrize(
    ("environ", "terminal", "user", "read"),
    [
        ({}, True, 1000, True),
        ({}, False, 1000, False),
        ({}, True, 0, False),
        ({"NOTIFY_SOCKET": "/run/x"}, True, 1000, False),
        ({"INVOCATION_ID": "a"}, True, 1000, False),
        ({"INVOCATION_ID": "a", "SYSTEMD_EXEC_PID": "100"}, True, 1000, False),
        ({"INVOCATION_ID": "a", "SYSTEMD_EXEC_PID": "7"}, True, 1000, True),
    ],
)
def test_neither_root_nor_a_service_nor_a_pipe_reads_a_dotenv(
    environ: dict[str, str], terminal: bool, user: int, read: bool
) -> None:
    assert environment.may_read_dotenv(environ, terminal=terminal, user=user, pid=100) is read


def test_nothing_of_a_dotenv_is_used_without_a_terminal(tmp_path: Path) -> None:
    written(tmp_path, "CLIENT_ID=dotenv", ".env")
    found = load(written(tmp_path, ""), surroundings=around(tmp_path))
    assert (found.config.agent.name, found.dotenv) == ("gpu-box", None)


def test_a_dotenv_cannot_widen_the_policy(tmp_path: Path) -> None:
    surroundings = with_dotenv(tmp_path, "A=1\nOBT_AGENT_POLICY_ALLOW_CHANGES=pull_model\n")
    with pytest.raises(WrongConfig) as caught:
        load(written(tmp_path, ""), surroundings=surroundings)
    (problem,) = caught.value.problems
    assert (problem.where, problem.key) == (f"{tmp_path}/.env:2", "OBT_AGENT_POLICY_ALLOW_CHANGES")
    assert problem.text == "the policy cannot be set in a .env file; write it into the configuration file"


def test_a_wrong_line_of_a_dotenv_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongConfig, match=r'\.env:2: HEARTBEAT_INTERVAL: found "x", expected seconds'):
        load(written(tmp_path, ""), surroundings=with_dotenv(tmp_path, "\nHEARTBEAT_INTERVAL=x"))


@pytest.mark.parametrize("fault", ["written by others", "of somebody else", "a folder", "too long"])
def test_a_dotenv_that_is_not_the_persons_own_is_left_aside_and_said(tmp_path: Path, fault: str) -> None:
    path, user = tmp_path / ".env", 4242
    if fault == "a folder":
        path.mkdir()
    else:
        path.write_text("CLIENT_ID=x\n" + ("#" * 70_000 if fault == "too long" else ""))
        own(path, user)
        path.chmod(0o666 if fault == "written by others" else 0o600)
    reading = environment.from_dotenv(path, path.stat().st_uid + (fault == "of somebody else"))
    assert reading.settings == ()
    assert f"{path} is left aside" in reading.notices[0]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("CLIENT_ID=a b", "a b"),
        ("CLIENT_ID = a", "a"),
        ('CLIENT_ID="a # b" # c', "a # b"),
        ("CLIENT_ID='a", "'a"),
        ("CLIENT_ID=a#b", "a#b"),
        ("CLIENT_ID=", None),
        ("CLIENT_ID", None),
        ("#CLIENT_ID=a", None),
    ],
)
def test_lines_of_a_dotenv_are_read_as_shells_write_them(
    tmp_path: Path, line: str, value: str | None
) -> None:
    path = Path(written(tmp_path, line, ".env"))
    values = [setting.value for setting in environment.from_dotenv(path, path.stat().st_uid).settings]
    assert values == ([] if value is None else [value])


def test_a_process_without_terminals_is_not_at_one() -> None:
    code = "import os; from obt_agent.config import environment as e; os.close(2); print(e.at_a_terminal())"
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_without_a_dotenv_nothing_is_read_and_nothing_is_said(tmp_path: Path) -> None:
    assert environment.from_dotenv(tmp_path / ".env", 4242) == SourceReading()


def test_a_name_that_is_no_utf_8_is_refused_in_words_and_a_host_name_made_fit(tmp_path: Path) -> None:
    """Such bytes become surrogates, which no frame can hold: the agent would end at every hello."""
    found = problems(tmp_path, "", {"CLIENT_ID": "box\udcff"})
    assert len(found) == 1
    assert "not UTF-8" in found[0]
    assert "not UTF-8" in problems(tmp_path, 'agent: {name: "a\\uD800b"}')[0]
    here = dataclasses.replace(around(tmp_path), host_name="box\udcff")
    assert load(written(tmp_path, ""), surroundings=here).config.agent.name == "box?"
