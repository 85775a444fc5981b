import json
from collections.abc import Callable
from pathlib import Path

import pytest

from obt_agent.cli import exit_codes
from obt_agent.config import file
from tests.cli.program import Ended

Command = Callable[..., Ended]

TEXT = """\
server:
  url: https://obt.example.org
  proxy: http://me:canary@proxy:3128
policy:
  max_streams: 4
"""


def configured(folder: Path, text: str = TEXT) -> str:
    path = folder / "agent.yaml"
    path.write_text(text)
    return str(path)


def test_show_prints_values_with_their_origins_and_no_password(tmp_path: Path, command: Command) -> None:
    path = configured(tmp_path)
    ended = command("config", "show", "--config", path, "--log-level", "debug", CLIENT_ID="box")
    assert ended.code == 0
    lines = {line.split(":")[0]: " ".join(line.split()) for line in ended.out.splitlines()}
    assert lines["server.url"] == (f"server.url: wss://obt.example.org/api/v1/agents/connect # {path}:2")
    assert lines["server.proxy"] == f"server.proxy: http://***@proxy:3128 # {path}:3"
    assert lines["policy.max_streams"] == f"policy.max_streams: 4 # {path}:5"
    assert lines["agent.name"] == "agent.name: box # environment CLIENT_ID"
    assert lines["log.level"] == "log.level: debug # flag --log-level"
    assert lines["policy.models.allow"] == 'policy.models.allow: ["*"] # default'
    assert "canary" not in ended.out + ended.err


def test_show_can_leave_out_defaults_and_speak_json(tmp_path: Path, command: Command) -> None:
    path = configured(tmp_path, "policy: {max_streams: 4}\n")
    ended = command("config", "show", "--config", path, "--changed", "--json")
    assert json.loads(ended.out) == {"policy.max_streams": {"value": 4, "origin": f"{path}:1"}}
    nothing = command("config", "show", "--config", configured(tmp_path, ""), "--changed")
    assert (nothing.code, nothing.out) == (0, "")


def test_path_prints_the_file_that_is_read(tmp_path: Path, command: Command) -> None:
    path = configured(tmp_path)
    ended = command("config", "path", OBT_AGENT_CONFIG=path)
    assert (ended.code, ended.out) == (0, f"{path}\n")


def test_path_says_where_a_file_would_be_found(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "has_system_configuration", lambda: False)
    ended = command("config", "path")
    assert (ended.code, ended.out) == (exit_codes.FAILED, "")
    assert f"{tmp_path}/.config/obt-agent/agent.yaml" in ended.err


def test_check_also_looks_at_the_files_that_are_named(tmp_path: Path, command: Command) -> None:
    path = configured(tmp_path, TEXT + "  rate_limit: 5\n")
    good = command("config", "check", "--config", path)
    assert (good.code, good.out) == (0, f"{path} is right.\n")
    path = configured(tmp_path, "server: {url: 'https://x', ca_file: no.pem, token_file: nor-this}\n")
    bad = command("config", "check", "--config", path)
    assert bad.code == exit_codes.CONFIG
    assert f"server.ca_file: {tmp_path}/no.pem cannot be read: No such file or directory" in bad.err
    assert "server.token_file" in bad.err


def test_set_takes_any_key(tmp_path: Path, command: Command) -> None:
    ended = command(
        "config",
        "show",
        "--changed",
        "--config",
        configured(tmp_path, ""),
        "--set",
        "storage.quota_bytes=2GiB",
    )
    assert ended.out == "storage.quota_bytes: 2147483648  # flag --set\n"
    wrong = command("config", "show", "--set", "storage")
    assert wrong.code == exit_codes.USAGE
    assert "expected KEY=VALUE" in wrong.err


def test_example_prints_a_configuration_that_is_right(tmp_path: Path, command: Command) -> None:
    ended = command("config", "example")
    assert ended.code == 0
    path = configured(tmp_path, ended.out)
    assert command("config", "show", "--config", path, "--changed").out == ""


def test_check_is_content_with_files_that_can_be_read(tmp_path: Path, command: Command) -> None:
    (tmp_path / "ca.pem").write_text("")
    path = configured(tmp_path, "server: {url: 'https://x', ca_file: ca.pem}\n")
    assert command("config", "check", "--config", path).code == 0
