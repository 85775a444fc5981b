"""The file that says why an unattended run waits: who may write it, and when it counts."""

import os
from pathlib import Path

import pytest

from obt_agent.daemon.waiting_file import WAITING_FILE, read_waiting, told_in_file


def test_it_counts_while_the_wait_lasts_and_no_longer(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert read_waiting(folder) is None
    assert not folder.exists(), "asking makes no folder"
    with told_in_file(folder, "no token", 30):
        waiting = read_waiting(folder)
        assert waiting is not None
        assert (waiting.pid, waiting.reason) == (os.getpid(), "no token")
        assert (folder / WAITING_FILE).stat().st_mode & 0o777 == 0o600
    assert (folder / WAITING_FILE).exists(), "whoever waits for a lock must find the same file"
    assert read_waiting(folder) is None


def test_a_second_wait_leaves_the_first_ones_word_and_follows_it(tmp_path: Path) -> None:
    with told_in_file(tmp_path, "first", 1):
        with told_in_file(tmp_path, "second", 1):
            waiting = read_waiting(tmp_path)
            assert waiting is not None
            assert waiting.reason == "first"
        assert read_waiting(tmp_path) is not None
    with told_in_file(tmp_path, "second, again", 1):
        waiting = read_waiting(tmp_path)
        assert waiting is not None
        assert waiting.reason == "second, again"


@pytest.mark.parametrize("content", [b"", b"[", b"{}", b'{"pid": "x"}', b"\xff", b"[" * 70_000])
def test_a_file_of_something_else_tells_nothing(tmp_path: Path, content: bytes) -> None:
    with told_in_file(tmp_path, "no token", 1):
        (tmp_path / WAITING_FILE).write_bytes(content)
        assert read_waiting(tmp_path) is None


def test_a_folder_that_cannot_be_used_ends_no_wait(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = False
    with told_in_file(tmp_path / "file", "no token", 1):
        ran = True
    assert ran
    assert read_waiting(tmp_path / "file") is None
    (tmp_path / "elsewhere").touch()
    (tmp_path / WAITING_FILE).symlink_to(tmp_path / "elsewhere")
    with told_in_file(tmp_path, "no token", 1):
        assert (tmp_path / "elsewhere").read_bytes() == b""
        assert read_waiting(tmp_path) is None
