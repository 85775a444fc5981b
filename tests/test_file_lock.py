"""The one file lock: the second is told of the first, and the first's end frees it."""

import os
from pathlib import Path

import pytest

from obt_agent import file_lock


def opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT)


def test_the_second_to_lock_learns_who_the_first_is_until_it_closes_the_file(tmp_path: Path) -> None:
    first, second = opened(tmp_path / "lock"), opened(tmp_path / "lock")
    file_lock.lock(first)
    file_lock.write_note(first, command="a job", user="somebody")
    with pytest.raises(
        file_lock.Locked, match=rf"process {os.getpid()} of somebody \(a job\), running since 20"
    ):
        file_lock.lock(second)
    os.close(first)
    file_lock.lock(second)
    os.close(second)


def test_a_reader_never_passes_for_the_holder(tmp_path: Path) -> None:
    readers = [opened(tmp_path / "lock") for _ in range(2)]
    assert [file_lock.current_holder(one) for one in readers] == [None, None]
    for one in readers:
        os.close(one)


def test_a_folder_can_be_locked_and_names_nobody(tmp_path: Path) -> None:
    first, second = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    file_lock.lock(first)
    with pytest.raises(file_lock.Locked) as caught:
        file_lock.lock(second)
    assert caught.value.holder is None
    os.close(first)
    os.close(second)
