"""One benchmark at a time for each Ollama, across processes."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from obt_agent.benchmark.lock import BenchmarkLock
from obt_agent.errors import Busy, ConfigError

URL = "http://127.0.0.1:11434"

HOLDER = """
import sys
from pathlib import Path
from obt_agent.benchmark.lock import BenchmarkLock
with BenchmarkLock(sys.argv[1], Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold_elsewhere(directory: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, URL, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_learns_who_holds_it(tmp_path: Path) -> None:
    with BenchmarkLock(URL, tmp_path, who="job 7"), pytest.raises(Busy, match="job 7") as caught:
        BenchmarkLock(URL, tmp_path).acquire()
    assert str(os.getpid()) in caught.value.message
    assert caught.value.detail["pid"] == os.getpid()
    with BenchmarkLock(URL, tmp_path):
        pass


def test_another_process_holds_it_until_it_dies_however_it_dies(tmp_path: Path) -> None:
    with hold_elsewhere(tmp_path) as process:
        with pytest.raises(Busy, match=str(process.pid)):
            BenchmarkLock(URL, tmp_path).acquire()
        process.kill()
        process.wait()
        with BenchmarkLock(URL, tmp_path):
            pass


@pytest.mark.parametrize("other", ["http://localhost:11434", "127.0.0.1:11434", "http://[::1]:11434/"])
def test_all_names_of_the_loopback_are_one_ollama(other: str, tmp_path: Path) -> None:
    assert BenchmarkLock(other, tmp_path).path == BenchmarkLock(URL, tmp_path).path


@pytest.mark.parametrize(
    "other", ["http://127.0.0.1:11435", "http://box.example:11434", "https://box.example"]
)
def test_other_ollamas_have_locks_of_their_own(other: str, tmp_path: Path) -> None:
    with BenchmarkLock(URL, tmp_path), BenchmarkLock(other, tmp_path):
        pass


def test_the_folder_and_the_file_are_for_every_user(tmp_path: Path) -> None:
    with BenchmarkLock(URL, tmp_path / "locks") as lock:
        assert stat.S_IMODE(lock.path.parent.stat().st_mode) == 0o1777
        assert stat.S_IMODE(lock.path.stat().st_mode) == 0o666


def test_a_link_in_the_folders_place_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "locks").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="is a link"):
        BenchmarkLock("http://127.0.0.1:11434", tmp_path / "locks").acquire()
    assert list(elsewhere.iterdir()) == []


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    lock = BenchmarkLock(URL, tmp_path)
    lock.path.symlink_to(target)
    with pytest.raises(ConfigError, match=r"benchmark\.lock_dir"):
        lock.acquire()
    assert target.read_text() == "precious"


def test_something_else_in_the_locks_place_is_refused(tmp_path: Path) -> None:
    lock = BenchmarkLock(URL, tmp_path)
    os.mkfifo(lock.path)
    with pytest.raises(ConfigError, match="not a plain file"):
        lock.acquire()


def test_a_folder_that_cannot_be_made_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"benchmark\.lock_dir"):
        BenchmarkLock(URL, tmp_path / "file" / "below").acquire()


@pytest.mark.parametrize("written", [b"", b"\xff{", b'{"pid": "x"}'])
def test_whatever_the_file_says_the_second_is_refused(written: bytes, tmp_path: Path) -> None:
    with BenchmarkLock(URL, tmp_path) as lock:
        lock.path.write_bytes(written)
        with pytest.raises(Busy, match="another process"):
            BenchmarkLock(URL, tmp_path).acquire()


def test_what_another_user_wrote_is_shown_without_control_characters(tmp_path: Path) -> None:
    with BenchmarkLock(URL, tmp_path) as lock:
        lock.path.write_text(
            '{"pid": 1, "user": "\\u001b[2J", "command": "' + "x" * 1000 + '", "started_at": 0}'
        )
        with pytest.raises(Busy) as caught:
            BenchmarkLock(URL, tmp_path).acquire()
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 500
