"""``obt-agent hardware`` as a person uses it."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from obt_agent.cli import main
from obt_agent.cli.hardware_report import live, report
from obt_agent.hardware.advice import advice, reason_text
from obt_agent.hardware.gpu.nvidia.provider import NvidiaProvider
from obt_agent.hardware.inventory import CgroupLimits, GpuInfo, Inventory, MemoryInfo
from obt_agent.hardware.read_once import read_once
from obt_agent.hardware.samples import (
    CpuSample,
    DiskSample,
    GpuClocks,
    GpuSample,
    MemorySample,
    NetworkSample,
    PressureSample,
    Sample,
)
from obt_agent.hardware.service import SamplerCost
from obt_agent.hardware.snapshot.replay import replay
from obt_agent.hardware.snapshot.root import SnapshotRoot
from tests.hardware.nvml.fake import FakeDriver
from tests.hardware.replay import SNAPSHOTS
from tests.hardware.trees import BASICS, pci, tree


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wide terminal, and a configuration whose Ollama does not answer."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/agent.yaml").write_text("ollama:\n  url: http://127.0.0.1:9\n")
    monkeypatch.chdir(tmp_path / "config")
    monkeypatch.setenv("OBT_AGENT_CONFIG", str(tmp_path / "config/agent.yaml"))
    monkeypatch.setenv("COLUMNS", "200")


def hardware(*arguments: str) -> int:
    return main(["hardware", *arguments])


def test_the_report_says_what_was_found_and_what_was_not_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert hardware("--replay", str(SNAPSHOTS / "amd-apu")) == 0
    shown = capsys.readouterr().out
    for words in (
        "AMD Ryzen 7 PRO 7840U",
        "1.2 GiB of 4.0 GiB, carveout",
        "shared 201.6 MiB of 29.3 GiB",
        "not verified on real hardware",
        "install the package hwdata or pci.ids",
        "4.0 GiB",
    ):
        assert words in shown


def test_a_narrow_terminal_shows_every_word_of_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "48")
    folder = Path(shutil.copytree(SNAPSHOTS / "nvidia-desktop", tmp_path / "snapshot"))
    (folder / "nvml.txt").unlink()  # a driver that cannot be asked leaves long gaps
    assert hardware("--replay", str(folder)) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 48
    _, _, gaps = shown.partition("Could not be read")
    for words in ("package_energy_joules", "nearly everything", "docs/reference/hardware.md", "→ install"):
        assert words in gaps


def test_in_a_pipe_each_row_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    assert hardware("--replay", str(SNAPSHOTS / "amd-apu")) == 0
    wide = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, wide)) > 80
    monkeypatch.delenv("COLUMNS")
    assert hardware("--replay", str(SNAPSHOTS / "amd-apu")) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == wide


def test_a_sleeping_gpu_is_shown_asleep(capsys: pytest.CaptureFixture[str]) -> None:
    assert hardware("--replay", str(SNAPSHOTS / "suspended-laptop")) == 0
    assert "suspended" in capsys.readouterr().out


def test_limits_of_a_container_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert hardware("--replay", str(SNAPSHOTS / "container-limits")) == 0
    assert "memory limited to 8.0 GiB, 4 CPUs, on CPUs 0-7" in capsys.readouterr().out


def test_json_holds_inventory_and_sample(capsys: pytest.CaptureFixture[str]) -> None:
    assert hardware("--json") == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["inventory"]["memory"]["total_bytes"] > whole["sample"]["memory"]["used_bytes"] > 0
    assert {provider["name"] for provider in whole["inventory"]["providers"]} >= {
        "cpu",
        "nvidia",
        "amd",
        "intel",
    }


def test_a_capture_is_written_and_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    assert hardware("--capture", str(folder)) == 0
    assert (folder / "manifest.json").exists()
    assert hardware("--replay", str(folder)) == 0
    assert "This machine" in capsys.readouterr().out


def test_what_cannot_be_done_is_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hardware("--capture", str(tmp_path)) != 0
    assert hardware("--capture", "/proc/nowhere/x") != 0
    assert hardware("--replay", str(tmp_path)) != 0
    (tmp_path / "manifest.json").write_text("{")
    assert hardware("--replay", str(tmp_path)) != 0
    shown = capsys.readouterr().err
    for words in (
        "is there already",
        "cannot write /proc/nowhere/x",
        "manifest.json: No such file",
        "manifest.json: Input data",
    ):
        assert words in shown


@pytest.mark.parametrize("interval", ["0", "x", "1e9"])
def test_an_interval_for_people_is_demanded(interval: str) -> None:
    with pytest.raises(SystemExit):
        hardware("--watch", "--interval", interval)


def test_a_watch_shows_bars_until_it_is_interrupted() -> None:
    command = [sys.executable, "-m", "obt_agent", "hardware", "--watch", "--interval", "0.1"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        printed = ""
        while "sampler:" not in printed:
            line = process.stdout.readline()
            assert line, "it ended by itself"
            printed += line
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert "Memory" in printed
    assert process.returncode == 130


def test_live_readings_show_a_bar_for_every_gpu_and_its_memory() -> None:
    reading, _ = replay(SNAPSHOTS / "amd-dgpu")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(live(reading.inventory, reading.sample, SamplerCost(0.001, 3, 0)))
    words = console.export_text()
    assert "AMD Radeon RX 7800 XT" in words
    assert "sampler: 0.10% of a core, 3 samples, 0 missed" in words


def test_a_snapshot_is_replayed_as_json_with_the_answers_of_the_drivers_library(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert hardware("--replay", str(SNAPSHOTS / "nvidia-desktop"), "--json") == 0
    out, err = capsys.readouterr()
    whole = json.loads(out)
    assert whole["inventory"]["gpus"][0]["name"] == "NVIDIA GeForce RTX 4090"
    assert whole["sample"]["gpus"][0]["state"] == "ok"
    assert "rates are missing" in err


def test_a_snapshot_without_these_answers_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(SNAPSHOTS / "nvidia-desktop", tmp_path / "snapshot"))
    (folder / "nvml.txt").unlink()
    assert hardware("--replay", str(folder)) == 0
    assert "the snapshot holds no answers of NVIDIA's library" in capsys.readouterr().out


@pytest.mark.parametrize("more", [["--watch"], ["--capture", "x"]])
def test_a_replay_is_one_reading_and_writes_nothing(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hardware("--replay", str(SNAPSHOTS / "cpu-vm"), *more) != 0
    assert "no --watch, no --capture" in capsys.readouterr().err
    assert list(tmp_path.glob("**/x")) == []


def shown(machine: Path, driver: FakeDriver) -> str:
    """The report of a machine with this driver, as it is at a wide terminal."""
    root = SnapshotRoot(machine)
    reading = read_once(root, [NvidiaProvider(root, driver.nvml, driver.prober())])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report(reading.inventory, reading.sample))
    return console.export_text()


def test_a_gpu_is_shown_with_its_driver_link_and_what_holds_it_back(
    tmp_path: Path, driver: FakeDriver
) -> None:
    tree(tmp_path / "m", BASICS | pci("0000:01:00.0", "0x10de"))
    words = shown(tmp_path / "m", driver.machine("rtx4090"))
    assert "driver 595.71.05, CUDA 13.2, compute 8.9, PCIe 1 x16 of 4 x16" in words
    assert "held back: sw_power_cap" in words


def test_the_instances_of_a_divided_gpu_are_shown_with_their_memory(
    tmp_path: Path, driver: FakeDriver
) -> None:
    tree(tmp_path / "m", BASICS | pci("0000:19:00.0", "0x10de"))
    words = shown(tmp_path / "m", driver.machine("h100_mig"))
    assert "NVIDIA H100 80GB HBM3 MIG 3g.40gb" in words
    assert "19.0 GiB of 39.2 GiB" in words


@pytest.mark.parametrize(
    ("driver_line", "todo"),
    [
        ("* ret:nvmlInit 9", "→ load it (modprobe nvidia)"),
        ("* ret:nvmlInit 18", "→ reboot, or reload NVIDIA's kernel modules"),
        ("* ret:nvmlInit 4", "→ see who may open them (ls -l /dev/nvidia*)"),
        ("* crash:nvmlInit 1", "→ reinstall NVIDIA's driver"),
        ("0 ret:* 15", "→ see dmesg for the driver"),
    ],
)
def test_a_driver_that_fails_is_said_to_in_one_line_with_what_to_do(
    tmp_path: Path, driver: FakeDriver, driver_line: str, todo: str
) -> None:
    tree(tmp_path / "m", BASICS | pci("0000:01:00.0", "0x10de"))
    words = shown(tmp_path / "m", driver.machine("rtx4090").answer(driver_line))
    assert todo in words
    assert "nearly everything" in words


def test_advice_is_given_where_there_is_any() -> None:
    assert "RAPL" not in (advice("temperature_celsius", "no_permission") or "")
    assert "udev" in (advice("package_energy_joules", "no_permission") or "")
    assert "modprobe" in (advice("x", "driver_error: NVIDIA's kernel driver is not loaded") or "")
    assert advice("x", "no_source") is None
    assert reason_text("lost") == "the device is gone, or its driver says so"
    assert reason_text("no_source: because") == "because"


BUSY = Sample(
    t_wall=1.0,
    t_mono_ns=1,
    cpu=CpuSample(
        utilization_ratio=0.31,
        per_core_ratio=(0.0, 0.58, 1.0) * 4,
        load=(3.5, 2.5, 1.5),
        temperature_celsius=71.0,
        clock_hertz=4_200_000_000,
        throttled_seconds_total=12.0,
    ),
    memory=MemorySample(used_bytes=3 << 30, swap_used_bytes=1 << 30, cgroup_available_bytes=5 << 30),
    pressure=PressureSample(cpu_ratio=0.21, memory_ratio=0.22, io_ratio=0.23),
    disk=DiskSample(read_bytes_per_second=1024.0 * 31, write_bytes_per_second=1024.0 * 32),
    network=NetworkSample(receive_bytes_per_second=1024.0 * 41, transmit_bytes_per_second=1024.0 * 42),
    gpus=(
        GpuSample(
            id="GPU-1",
            state="ok",
            utilization_ratio=0.97,
            memory_controller_ratio=0.62,
            power_watts=329.0,
            temperature_celsius=63.0,
            clocks=GpuClocks(graphics_hertz=2_520_000_000),
            throttle_reasons=("sw_power_cap",),
            fan_ratio=0.45,
            ecc_uncorrected=3,
        ),
    ),
)
MACHINE = Inventory(
    fingerprint="",
    collected_at=1.0,
    memory=MemoryInfo(total_bytes=8 << 30, swap_total_bytes=2 << 30),
    limits=CgroupLimits(memory_bytes=6 << 30, memory_high_bytes=4 << 30, cpus=1.5),
    gpus=(GpuInfo(id="GPU-1", vendor="nvidia", provider="nvidia", power_limit_watts=450.0),),
)
ACTIVITY = (
    *("31 %", "load 3.5 2.5 1.5", "4.20 GHz", "71 °C", "throttled 12 s so far", "05905905 9059"),
    *("for a CPU 21 %, for memory 22 %, for I/O 23 %", "read 31.0 KiB/s, write 32.0 KiB/s"),
    *("receive 41.0 KiB/s, send 42.0 KiB/s", "memory left 5.0 GiB"),
)
OF_THE_GPU = (
    *("97 % busy", "memory access 62 %", "329 of 450 W", "63 °C", "fan 45 %", "2.52 GHz"),
    *("held back: sw_power_cap", "ECC: 3 uncorrected"),
)


def printed(picture: RenderableType, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(picture)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 200])
def test_all_that_is_measured_is_shown(width: int) -> None:
    words = printed(report(MACHINE, BUSY), width)
    assert max(map(len, words.splitlines())) <= width
    wanted = (*ACTIVITY, *OF_THE_GPU, "3.0 GiB used", "1.0 GiB of 2.0 GiB", "slowed from 4.0 GiB")
    flat = " ".join(words.split())
    assert [each for each in wanted if each not in flat] == []


@pytest.mark.parametrize("width", [80, 200])
def test_all_that_is_measured_is_shown_live(width: int) -> None:
    words = printed(live(MACHINE, BUSY, SamplerCost(0.001, 3, 0)), width)
    assert max(map(len, words.splitlines())) <= width
    flat = " ".join(words.split())
    assert [each for each in (*ACTIVITY, *OF_THE_GPU) if each not in flat] == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_characters_is_shown_the_rest(encoding: str) -> None:
    command = [sys.executable, "-m", "obt_agent", "hardware", "--replay", str(SNAPSHOTS / "nvidia-desktop")]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    finished = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr.decode(encoding)
    words = finished.stdout.decode(encoding)
    assert "NVIDIA GeForce RTX 4090" in words
    assert "see docs/reference/hardware.md" in words
