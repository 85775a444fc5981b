"""Build the fake driver library, and say what it says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from obt_agent.hardware.gpu.nvidia.nvml import Nvml
from obt_agent.hardware.gpu.nvidia.probe import Prober

HERE = Path(__file__).parent


class FakeDriver:
    """One copy of the library in a folder of its own, and the script beside it."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self._lines: list[str] = []

    @property
    def places(self) -> tuple[str, ...]:
        return (str(self.library),)

    def nvml(self) -> Nvml:
        return Nvml(self.places)

    def prober(self, deadline_s: float = 20.0) -> Prober:
        return Prober(self.places, deadline_s=deadline_s)

    def machine(self, name: str) -> FakeDriver:
        """Say what a machine's file says."""
        self._lines = (HERE / f"{name}.txt").read_text().splitlines()
        return self.answer()

    def answer(self, *lines: str) -> FakeDriver:
        """Say this too (a later line overrides an earlier one)."""
        self._lines += lines
        return self._write()

    def forget_answer(self, *lines: str) -> FakeDriver:
        """Say this no longer."""
        self._lines = [line for line in self._lines if line not in lines]
        return self._write()

    def let_go(self) -> FakeDriver:
        """Let calls that hang come back."""
        self._lines = [line for line in self._lines if " hang:" not in line]
        return self._write()

    def _write(self) -> FakeDriver:
        # put in its place at once, for the library reads it while it is written
        fresh = self.library.with_name("nvml.new")
        fresh.write_text("\n".join(self._lines) + "\n", errors="surrogateescape")
        fresh.rename(self.library.with_name("nvml.txt"))
        return self


def build(folder: Path, *flags: str) -> Path:
    """Compile the library into the folder."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.fail("these tests compile a small C library: apt-get install gcc libc6-dev")
    library = folder / "libnvidia-ml.so.1"
    command = [
        compiler,
        *flags,
        "-shared",
        "-fPIC",
        "-O1",
        "-o",
        str(library),
        str(HERE / "fake_nvml.c"),
        "-ldl",
    ]
    subprocess.run(command, check=True, timeout=60)
    return library
