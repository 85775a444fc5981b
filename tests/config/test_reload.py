from pathlib import Path

import pytest

from obt_agent.config.describe import for_owner
from obt_agent.config.load import load
from obt_agent.config.problems import WrongConfig
from obt_agent.config.reload import reload
from tests.config.process_context import around, loaded, written


def test_a_reload_tells_what_changed_and_what_takes_a_restart(tmp_path: Path) -> None:
    path = written(tmp_path, "policy: {max_streams: 4}\nollama: {url: 'http://a:1'}")
    before = load(path, surroundings=around(tmp_path))
    written(tmp_path, "policy: {max_streams: 5}\nollama: {url: 'http://b:1'}")
    again = reload(before, surroundings=around(tmp_path))
    assert [(change.key, change.old, change.new, change.restart) for change in again.changes] == [
        ("ollama.url", "http://a:1", "http://b:1", True),
        ("policy.max_streams", 4, 5, False),
    ]
    assert again.needing_restart == ("ollama.url",)
    assert again.loaded.config.policy.max_streams == 5


def test_a_reload_keeps_the_flags_of_the_start(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    before = load(path, flags={"agent.name": ("--name", "flag")}, surroundings=around(tmp_path))
    written(tmp_path, "agent: {name: file}")
    assert reload(before, surroundings=around(tmp_path)).changes == ()


def test_a_wrong_file_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "server: {url: 'https://x'}")
    before = load(path, need_server=True, surroundings=around(tmp_path))
    written(tmp_path, "")
    with pytest.raises(WrongConfig, match="is not set"):
        reload(before, surroundings=around(tmp_path))
    assert before.config.server.url == "wss://x/api/v1/agents/connect"


def test_what_is_shown_holds_no_password(tmp_path: Path) -> None:
    text = "server: {url: 'https://x', proxy: 'http://me:canary@p:1', token_file: /canary/token}"
    found = loaded(tmp_path, text)
    owner = {shown.key: shown.value for shown in for_owner(found)}
    assert owner["server.proxy"] == "http://***@p:1"
    assert owner["server.token_file"] == "/canary/token"
