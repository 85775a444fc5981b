import argparse
from pathlib import Path

import pytest
import structlog

from obt_agent.cli import config, enroll
from obt_agent.cli.common import load_config
from obt_agent.cli.options import add_config_options
from obt_agent.config import load as loader
from obt_agent.config.load import ProcessContext
from tests.config.process_context import around, written


@pytest.fixture
def args(tmp_path: Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_config_options(parser)
    return parser.parse_args(
        ["--config", written(tmp_path, ""), "--set", "policy.max_jobs=3", "--name", "box"]
    )


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProcessContext:
    """Somebody at a terminal who is not root, in this folder."""
    dotenv = Path(written(tmp_path, "OLLAMA_URL=gpu-box\n", ".env"))
    here = around(tmp_path, terminal=True)
    found = ProcessContext(
        environ=here.environ, working_dir=tmp_path, terminal=True, user=4242, pid=1, host_name="x"
    )
    monkeypatch.setattr(loader, "ProcessContext", lambda: found)
    owned = dotenv.stat().st_uid
    monkeypatch.setattr("obt_agent.config.environment._own", lambda status, user: status.st_uid == owned)
    return found


def test_flags_and_settings_reach_the_configuration(args: argparse.Namespace) -> None:
    loaded = load_config(args, log=False)
    assert (loaded.config.agent.name, loaded.config.policy.max_jobs) == ("box", 3)
    assert str(loaded.origins["agent.name"]) == "flag --name"
    assert str(loaded.origins["policy.max_jobs"]) == "flag --set"


def test_what_the_reader_should_know_goes_to_standard_error(
    args: argparse.Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(args.config).chmod(0o666)
    load_config(args, log=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"Note: {args.config} can be changed by every user")


@pytest.mark.parametrize(("level", "expected"), [(None, False), ("info", True)])
def test_commands_log_to_standard_error_so_that_results_stay_clean(
    args: argparse.Namespace, capsys: pytest.CaptureFixture[str], level: str | None, expected: bool
) -> None:
    setattr(args, "key:log.level", level)
    load_config(args)
    structlog.get_logger("x").info("some.event")
    out, err = capsys.readouterr()
    assert out == ""
    assert ("some.event" in err) is expected


def test_a_dotenv_that_was_used_is_named(
    args: argparse.Namespace, person: ProcessContext, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_config(args, log=False).config.ollama.url == "http://gpu-box:11434"
    assert f"Note: some values come from {person.working_dir}/.env" in capsys.readouterr().err


def test_the_next_step_is_the_service_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: argparse.Namespace
) -> None:
    (tmp_path / "obt-agent.service").write_text("")
    monkeypatch.setattr(enroll, "_UNITS", (tmp_path,))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    args.url = "https://x"
    loaded = load_config(args, log=False)
    assert enroll._next_step(args, loaded, written=False) == "systemctl restart obt-agent"  # noqa: SLF001 - what it prints depends on the machine


def test_values_are_shown_as_yaml_takes_them() -> None:
    shown = [config._text(value) for value in (None, True, 1.5, "a b", "", ("x",))]  # noqa: SLF001 - the form itself
    assert shown == ["null", "true", "1.5", "a b", '""', '["x"]']
