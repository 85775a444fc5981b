"""``obt-agent sign`` on an operator's machine: what it shows, asks and signs."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from obt_agent.cli import exit_codes, main
from obt_agent.policy.signing import new_key
from obt_agent.protocol.signed import text_to_sign

PARAMS = {"job_id": "j1", "plan": {"model_name": "m"}}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "operator.pem"
    new_key(file)
    return file


def sign(tmp_path: Path, key: Path, text: str, *more: str) -> int:
    prepared = tmp_path / "request.json"
    prepared.write_text(text)
    return main(["sign", "--key", str(key), "--prepared", str(prepared), *more])


def prepared(params: Any = PARAMS, seconds: float = 60.0, method: str = "run_benchmark") -> str:
    return text_to_sign("an-agent", method, params, time.time(), seconds)


@pytest.mark.parametrize(("answer", "status"), [("y\n", exit_codes.OK), ("\n", exit_codes.FAILED)])
def test_a_prepared_text_is_shown_and_signed_only_when_somebody_says_yes(
    tmp_path: Path,
    key: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    status: int,
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    text = prepared()
    assert sign(tmp_path, key, text) == status
    printed = capsys.readouterr()
    assert "run_benchmark" in printed.err
    assert '"model_name": "m"' in printed.err
    assert (json.loads(printed.out)["text"] == text) if status == exit_codes.OK else not printed.out


def test_without_a_terminal_nothing_is_signed_unless_a_program_decided(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert sign(tmp_path, key, prepared()) == exit_codes.USAGE
    assert capsys.readouterr().out == ""
    assert sign(tmp_path, key, prepared(), "--yes") == exit_codes.OK


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "no json",
        "[" * 5000,
        prepared().replace("obt-agent signed request 1", "something else"),
        prepared(method="generate"),
        prepared(seconds=60).replace('"not_after": ', '"not_after": 9'),
        prepared().replace('"job_id": "j1"', '"job_id": "j2"'),
        prepared(seconds=-60),
    ],
    ids=["empty", "no json", "deep", "purpose", "method", "years", "another job", "no time"],
)
def test_a_text_that_no_agent_would_run_is_not_signed(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert sign(tmp_path, key, text, "--yes") == exit_codes.CONFIG
    assert capsys.readouterr().out == ""


def test_escape_sequences_of_a_server_do_not_reach_the_terminal(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = text_to_sign("\x1b[2Jagent", "pull_model", {"job_id": "\x1bj", "model": "\x9b2J"}, time.time(), 60)
    assert sign(tmp_path, key, text, "--yes") == exit_codes.OK
    assert not {"\x1b", "\x9b"} & set(capsys.readouterr().err)
