"""Real processes that want one folder."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from obt_agent.identity.folder import FolderError, open_folder
from obt_agent.identity.lock import LOCK_FILE, IdentityInUse, holder
from obt_agent.identity.state_dir import StateDir

HOLD = """
import sys
from pathlib import Path
from obt_agent.identity.lock import IdentityInUse
from obt_agent.identity.state_dir import StateDir
try:
    state = StateDir.open(Path(sys.argv[1]), wait="wait" in sys.argv)
except IdentityInUse as error:
    print("in use", error.holder.pid if error.holder else 0, flush=True)
else:
    print("held", state.agent_id, flush=True)
    sys.stdin.read()
"""

Process = subprocess.Popen[str]


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(processes: list[Process], path: Path, *words: str) -> Process:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    processes.append(process)
    return process


def output_of(process: Process) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


@pytest.mark.slow
def test_of_many_that_start_at_once_one_holds_and_the_others_name_it(
    tmp_path: Path, processes: list[Process]
) -> None:
    for _ in range(6):
        start(processes, tmp_path / "state")
    answers = {process.pid: output_of(process) for process in processes}
    (winner,) = [pid for pid, words in answers.items() if words[0] == "held"]
    losers = [words for words in answers.values() if words[0] == "in"]
    assert len(losers) == 5
    assert {int(words[2]) for words in losers} <= {winner, 0}  # 0: it was just about to write its note


def test_a_killed_process_holds_nothing_and_its_successor_is_the_same_agent(
    tmp_path: Path, processes: list[Process]
) -> None:
    first = start(processes, tmp_path / "state")
    kept = output_of(first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert output_of(start(processes, tmp_path / "state")) == kept


def test_one_that_waits_gets_the_folder_when_the_holder_ends(
    tmp_path: Path, processes: list[Process]
) -> None:
    first = start(processes, tmp_path / "state")
    kept = output_of(first)
    waiting = start(processes, tmp_path / "state", "wait")
    first.kill()
    assert output_of(waiting) == kept


def test_the_refusal_names_the_process_its_start_and_its_command(
    tmp_path: Path, processes: list[Process]
) -> None:
    other = start(processes, tmp_path / "state", "a-word")
    output_of(other)
    with pytest.raises(IdentityInUse) as caught:
        StateDir.open(tmp_path / "state")
    assert f"in use by process {other.pid} (-c {tmp_path}/state a-word), running since 20" in str(
        caught.value
    )
    assert "Stop it first, or give this one a folder of its own in agent.state_dir." in str(caught.value)
    assert caught.value.retryable


def test_a_note_that_cannot_be_read_is_another_process(tmp_path: Path) -> None:
    with StateDir.open(tmp_path) as state:
        (tmp_path / LOCK_FILE).write_text("half a no")
        with pytest.raises(IdentityInUse, match="in use by another process"):
            StateDir.open(tmp_path)
        assert holder(state.folder) is None


def test_the_folder_without_a_lock_has_no_holder(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    assert holder(folder) is None
    folder.close()


def test_a_link_in_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "victim")
    with pytest.raises(FolderError, match="cannot be opened"):
        StateDir.open(tmp_path)
    assert not (tmp_path / "victim").exists()


def test_a_disk_without_room_for_the_note_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(FolderError, match="lock cannot be locked: No space left on device"):
            StateDir.open(tmp_path)
    StateDir.open(tmp_path).close()


def test_the_note_holds_no_more_than_it_needs(tmp_path: Path) -> None:
    with StateDir.open(tmp_path):
        assert set(json.loads((tmp_path / LOCK_FILE).read_text())) == {"pid", "started_at", "command"}
