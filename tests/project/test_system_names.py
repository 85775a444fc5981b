"""The check that holds what one system alone has behind the seam."""

from __future__ import annotations

import ast
from pathlib import Path

from scripts.check_code import system_names

SOURCE = """\
import fcntl
from os import getuid, path
import os, signal
from pwd import getpwall  # one system: a reason
READ = os.O_RDONLY | os.O_NOFOLLOW
number = signal.SIGHUP
loop.add_signal_handler(number, print)
os.rename("a", "b", src_dir_fd=3)
if status.st_mode & 0o077:
    open("/proc/self/stat")
maybe = getattr(os, "O_NOFOLLOW", 0)
process = "a word/proc/else"
"""


def test_each_way_to_name_what_one_system_has_is_found_and_a_reason_excuses_its_line(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(SOURCE)
    found = [line.removeprefix(f"{file}:") for line in system_names(file, ast.parse(SOURCE))]
    assert sorted((int(line.split(":")[0]), line.split()[1]) for line in found) == [
        (1, "fcntl"),
        (2, "getuid"),
        (5, "os.O_NOFOLLOW"),
        (6, "signal.SIGHUP"),
        (7, "add_signal_handler"),
        (8, "src_dir_fd"),
        (9, "st_mode"),
        (10, "/proc/self/stat"),
    ]
