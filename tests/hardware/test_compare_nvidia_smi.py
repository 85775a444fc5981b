"""The comparison with nvidia-smi, over the fake driver and a fake nvidia-smi."""

from __future__ import annotations

from pathlib import Path

import pytest

from obt_agent.hardware.compare_nvidia_smi import FIELDS, main
from obt_agent.hardware.providers.nvidia import NvidiaProvider
from obt_agent.hardware.root import SnapshotRoot
from tests.hardware.nvml.fake import FakeDriver
from tests.hardware.trees import BASICS, pci, tree

TRUE = {
    "uuid": "GPU-00000000-1111-2222-3333-444444444444",
    "name": "NVIDIA GeForce RTX 4090",
    "pci.bus_id": "00000000:01:00.0",
    "driver_version": "595.71.05",
    "vbios_version": "95.02.3c.00.01",
    "compute_cap": "8.9",
    "memory.total": "24564",
    "memory.reserved": "452",
    "memory.used": "6144",
    "utilization.gpu": "95",
    "utilization.memory": "60",
    "temperature.gpu": "63",
    "power.draw.instant": "330.12",
    "enforced.power.limit": "450.00",
    "clocks.sm": "2520",
    "clocks.mem": "10501",
    "fan.speed": "45",
    "pcie.link.gen.max": "4",
    "pcie.link.width.max": "16",
    "pcie.link.width.current": "16",
}


def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, str], status: int = 0) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    line = ", ".join(said[name] for name in ["uuid", *(field.column for field in FIELDS)])
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{line}'\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def compared(tmp_path: Path, driver: FakeDriver) -> int:
    root: SnapshotRoot = tree(tmp_path / "machine", BASICS | pci("0000:01:00.0", "0x10de"))
    return main(["--seconds", "0.3"], NvidiaProvider(root, driver.nvml, driver.prober()))


def without_energy(driver: FakeDriver) -> FakeDriver:
    return driver.machine("rtx4090").unsay("0 nvmlDeviceGetTotalEnergyConsumption 123456789")


def test_readings_that_agree_are_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    smi(tmp_path, monkeypatch, TRUE)
    assert compared(tmp_path, without_energy(driver)) == 0
    shown = capsys.readouterr().out
    assert "DIFFERS" not in shown
    assert all(field.column in shown for field in FIELDS)


@pytest.mark.parametrize(
    ("column", "wrong"),
    [("memory.total", "16000"), ("name", "Other"), ("temperature.gpu", "[N/A]"), ("uuid", "GPU-other")],
)
def test_each_reading_that_does_not_agree_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    driver: FakeDriver,
    capsys: pytest.CaptureFixture[str],
    column: str,
    wrong: str,
) -> None:
    smi(tmp_path, monkeypatch, TRUE | {column: wrong})
    assert compared(tmp_path, without_energy(driver)) == 1
    lines = capsys.readouterr().out.splitlines()
    named = [line for line in lines if line.endswith("DIFFERS") or "alone" in line]
    assert len(named) == 1
    assert column in named[0] or wrong in named[0]


def test_an_energy_counter_that_stands_still_under_power_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    smi(tmp_path, monkeypatch, TRUE)
    assert compared(tmp_path, driver.machine("rtx4090")) == 1
    assert "integrated power = 0.000   DIFFERS by more than 5 %" in capsys.readouterr().out


def test_without_the_tool_or_a_gpu_there_is_nothing_to_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compared(tmp_path, driver) == 69
    smi(tmp_path, monkeypatch, TRUE)
    assert compared(tmp_path, driver.machine("rtx4090").say("* ret:nvmlInit 9")) == 69
    shown = capsys.readouterr().out
    assert "not in PATH" in shown
    assert "not loaded" in shown


def test_a_tool_that_fails_is_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    smi(tmp_path, monkeypatch, TRUE, status=9)
    assert compared(tmp_path, driver.machine("rtx4090")) == 69
    assert "nvidia-smi cannot be used" in capsys.readouterr().out
