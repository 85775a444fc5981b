import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from obt_agent import __version__, errors
from obt_agent.cli import COMMANDS, exit_codes, main, version
from obt_agent.identity.folder import open_folder
from obt_agent.identity.lock import IdentityInUse
from tests.cli.program import Ended

Command = Callable[..., Ended]


def test_help_names_every_command_and_every_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert not [name for name in COMMANDS if f"    {name}" not in output]
    assert not [
        code for code, meaning in exit_codes.MEANINGS.items() if f"{code:>3}  {meaning}" not in output
    ]


def test_without_a_command_help_is_printed_and_the_status_is_that_of_a_wrong_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == exit_codes.USAGE
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_takes_a_configuration(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith(f"usage: obt-agent {name}")
    if name in {"run", "enroll", "check", "models", "bench"}:
        assert "--config FILE" in output


def test_a_command_imports_nothing_that_it_does_not_use() -> None:
    code = (
        "import sys; from obt_agent.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: pass\n"
        "print(*sorted({'yaml', 'rich', 'structlog', 'aiohttp', 'websockets', 'msgspec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, imported = done.stdout.splitlines()
    assert version.startswith(f"obt-agent {__version__}")
    assert imported == ""


def test_the_daemon_imports_nothing_that_an_idle_agent_does_not_use() -> None:
    code = (
        "import sys; from obt_agent.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'obt_agent.daemon' in sys.modules\n"
        "heavy = {'rich', 'greenlet', 'pynvml', 'difflib', 'getpass', 'aiohttp.web', 'python_socks'}\n"
        "print(*sorted((heavy | {'obt_agent.benchmark.run'}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_version_names_the_libraries(command: Command) -> None:
    ended = command("version", "--json")
    assert ended.code == 0
    assert f'"obt-agent": "{__version__}"' in ended.out
    assert '"websockets": "' in ended.out
    plain = command("version")
    assert plain.out.startswith("obt-agent")


def test_a_wrong_command_line_is_2(command: Command) -> None:
    ended = command("runn")
    assert (ended.code, ended.out) == (exit_codes.USAGE, "")
    assert "there is no command 'runn'; did you mean run?" in ended.err


def test_a_wrong_configuration_is_78_in_every_command_that_reads_one(
    tmp_path: Path, command: Command
) -> None:
    (tmp_path / "a.yaml").write_text("server: {heartbeat_interval_s: soon}\n")
    for words in (["run"], ["models"], ["config", "show"]):
        ended = command(*words, "--config", "a.yaml")
        assert (ended.code, ended.out) == (exit_codes.CONFIG, "")
        assert f'{tmp_path}/a.yaml:1: server.heartbeat_interval_s: found "soon"' in ended.err


def test_run_without_a_server_says_what_to_write(tmp_path: Path, command: Command) -> None:
    (tmp_path / "a.yaml").write_text("")
    ended = command("run", "--config", "a.yaml")
    assert ended.code == exit_codes.CONFIG
    assert "server.url: is not set; name the server, for example server.url: https://" in ended.err


async def test_a_reader_that_has_had_enough_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    command = f"({sys.executable} -m obt_agent config show --config a.yaml; echo $? >code) | true; cat code"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
    assert "Traceback" not in done.stderr


def test_a_fault_of_the_program_is_70_and_its_secrets_are_masked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_args: object) -> int:
        raise RuntimeError("Bearer canary-1234")

    monkeypatch.setattr(version, "run", fail)
    assert main(["version"]) == exit_codes.SOFTWARE
    output = capsys.readouterr().err
    assert "RuntimeError: Bearer ***" in output
    assert "please report it" in output
    assert "canary" not in output


@pytest.mark.parametrize("error", [KeyboardInterrupt(), errors.ConfigError("no")])
def test_what_ends_a_command_decides_its_status(
    error: BaseException, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_args: object) -> int:
        raise error

    monkeypatch.setattr(version, "run", fail)
    config = isinstance(error, errors.ConfigError)
    assert main(["version"]) == (exit_codes.CONFIG if config else exit_codes.INTERRUPTED)
    assert capsys.readouterr().err == ("obt-agent: no\n" if config else "")


def test_each_kind_of_error_has_its_status(tmp_path: Path) -> None:
    expected = {
        errors.ConfigError("x"): 78,
        errors.NotPermitted("x"): 77,
        errors.AdmissionRefused("x", retryable=False): 77,
        errors.AdmissionRefused("x"): 69,
        errors.OllamaUnavailable("x"): 69,
        errors.Busy("x"): 75,
        IdentityInUse(open_folder(tmp_path), None): 75,
        errors.ModelNotFound("x"): 1,
    }
    assert {exit_codes.of(error): code for error, code in expected.items()} == {
        code: code for code in expected.values()
    }
