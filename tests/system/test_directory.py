"""Both ways to reach the files of a folder behave alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from obt_agent.system import descriptors
from obt_agent.system.directory import Directory, NamedDirectory, OpenDirectory

ways = pytest.mark.parametrize("way", [OpenDirectory, NamedDirectory])
Way = Callable[[Path], Directory]


def write(directory: Directory, name: str, data: bytes) -> None:
    with os.fdopen(directory.open(name, descriptors.MAKE), "wb") as file:
        file.write(data)


@ways
def test_a_file_is_made_replaces_another_and_is_removed(way: Way, tmp_path: Path) -> None:
    directory = way(tmp_path)
    (tmp_path / "kept").write_bytes(b"before")
    write(directory, "new", b"after")
    with pytest.raises(FileExistsError):
        directory.open("new", descriptors.MAKE)
    directory.replace("new", "kept")
    directory.sync()
    with os.fdopen(directory.open("kept", descriptors.READ), "rb") as file:
        assert file.read() == b"after"
    directory.remove("kept")
    assert list(tmp_path.iterdir()) == []
    directory.close()


@ways
def test_a_file_moves_into_a_folder_in_it(way: Way, tmp_path: Path) -> None:
    directory = way(tmp_path)
    (tmp_path / "aside").mkdir()
    write(directory, "one", b"1")
    directory.replace("one", "aside/one")
    assert (tmp_path / "aside" / "one").read_bytes() == b"1"
    directory.close()


@ways
def test_what_is_not_there_or_no_folder_is_an_error(way: Way, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        way(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        way(tmp_path / "file")
    directory = way(tmp_path)
    with pytest.raises(FileNotFoundError):
        directory.open("none", descriptors.READ)
    with pytest.raises(FileNotFoundError):
        directory.remove("none")
    assert directory.status().st_ino == tmp_path.stat().st_ino
    directory.close()


def test_a_folder_is_closed_to_others_where_it_has_permission_bits(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    directory = OpenDirectory(tmp_path)
    directory.close_to_others()
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    directory.close()
