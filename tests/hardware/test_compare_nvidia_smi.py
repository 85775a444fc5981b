"""The comparison with nvidia-smi, over the fake driver and a fake nvidia-smi."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from obt_agent.hardware.gpu.nvidia.compare_nvidia_smi import energy_ratios, main
from obt_agent.hardware.gpu.nvidia.nvidia_smi import FIELDS, agrees, value
from obt_agent.hardware.gpu.nvidia.provider import NvidiaProvider
from obt_agent.hardware.provider import CostGroup, GpuReadings
from obt_agent.hardware.samples import GpuSample
from obt_agent.hardware.snapshot.root import SnapshotRoot
from tests.hardware.nvml.fake import FakeDriver
from tests.hardware.trees import BASICS, pci, tree

TRUE = {
    "uuid": "GPU-00000000-1111-2222-3333-444444444444",
    "index": "0",
    "name": "NVIDIA GeForce RTX 4090",
    "pci.bus_id": "00000000:01:00.0",
    "driver_version": "595.71.05",
    "vbios_version": "95.02.3c.00.01",
    "compute_cap": "8.9",
    "mig.mode.current": "[N/A]",
    "memory.total": "24564",
    "memory.reserved": "452",
    "memory.used": "6144",
    "utilization.gpu": "95",
    "utilization.memory": "60",
    "temperature.gpu": "63",
    "power.draw.instant": "330.12",
    "power.draw": "321.46",
    "enforced.power.limit": "450.00",
    "clocks.gr": "2520",
    "clocks.sm": "2520",
    "clocks.mem": "10501",
    "clocks_event_reasons.active": "0x0000000000000005",
    "clocks_throttle_reasons.active": "0x0000000000000005",
    "fan.speed": "45",
    "pcie.link.gen.max": "4",
    "pcie.link.width.max": "16",
    "pcie.link.width.current": "16",
    "ecc.errors.uncorrected.volatile.total": "[N/A]",
}
APPS = "".join(f"{TRUE['uuid']}, {process}\n" for process in ("4242, 5722", "4243, 117"))

PROGRAM = """\
#!{python}
import json, sys
answers, apps, strange, status, last = json.loads({content!r})
query = sys.argv[1].partition("=")
columns = query[2].split(",")
if query[0] == "--query-compute-apps":
    sys.exit(print(apps, end=""))
for column in columns:
    if column in strange:
        print(f'Field "{{column}}" is not a valid field to query.\\n')
        sys.exit(2)
for row in answers:
    print(", ".join(row[column] for column in columns))
print(last, end="")
sys.exit(status)
"""


def smi(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *answers: dict[str, str],
    apps: str = APPS,
    strange: tuple[str, ...] = (),
    status: int = 0,
    last: str = "",
) -> None:
    """Put a nvidia-smi into PATH that answers for these GPUs, and refuses columns as the real one does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text(
        PROGRAM.format(python=sys.executable, content=json.dumps([answers, apps, strange, status, last]))
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/local/bin:/usr/bin:/bin")


def compared(tmp_path: Path, driver: FakeDriver, seconds: str = "0.3") -> int:
    root: SnapshotRoot = tree(tmp_path / "machine", BASICS | pci("0000:01:00.0", "0x10de"))
    return main(["--seconds", seconds], NvidiaProvider(root, driver.nvml, driver.prober()))


def without_energy(driver: FakeDriver) -> FakeDriver:
    return driver.machine("rtx4090").forget_answer("0 nvmlDeviceGetTotalEnergyConsumption 123456789")


def test_readings_that_agree_are_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    smi(tmp_path, monkeypatch, TRUE)
    assert compared(tmp_path, without_energy(driver)) == 0
    shown = capsys.readouterr().out
    assert "DIFFERS" not in shown
    assert all(field.columns[0] in shown for field in FIELDS)
    assert "memory of process 4242" in shown
    assert "All agree." in shown


@pytest.mark.parametrize(
    ("column", "wrong"),
    [
        ("memory.total", "16000"),
        ("name", "Other"),
        ("temperature.gpu", "[N/A]"),
        ("ecc.errors.uncorrected.volatile.total", "0"),
        ("clocks_event_reasons.active", "0x0000000000000008"),
        ("mig.mode.current", "Disabled"),
    ],
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
    named = [line for line in lines if line.endswith("DIFFERS")]
    assert [line.split()[0] for line in named] == [column]
    assert lines[-1] == "Not all agree: see above."


def test_a_gpu_that_one_of_the_two_does_not_see_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    smi(tmp_path, monkeypatch, TRUE | {"uuid": "GPU-other"})
    assert compared(tmp_path, without_energy(driver)) == 1
    shown = capsys.readouterr().out
    assert "seen by obt-agent alone, as ok" in shown
    assert "GPU-other\n  seen by nvidia-smi alone" in shown


def test_columns_that_an_older_tool_does_not_know_are_left_out_and_said_to_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old_driver: FakeDriver,
    capsys: pytest.CaptureFixture[str],
) -> None:
    strange = (
        "memory.reserved",
        "compute_cap",
        "power.draw.instant",
        "clocks_event_reasons.active",
        "mig.mode.current",
    )
    smi(tmp_path, monkeypatch, TRUE | {"memory.used": "6596"}, strange=strange)
    assert compared(tmp_path, without_energy(old_driver)) == 0
    shown = capsys.readouterr().out
    assert all(f"does not know {column}: not compared" in shown for column in strange)
    assert "clocks_throttle_reasons.active" in shown
    assert "321.456" in shown


def test_every_gpu_of_several_is_compared_and_processes_by_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = dict.fromkeys(TRUE, "[N/A]") | {"driver_version": "580.95.05"}
    ampere, turing = "GPU-33333333-0000-0000-0000-000000000000", "GPU-16601660-0000-0000-0000-000000000000"
    first = {
        "uuid": ampere,
        "index": "0",
        "name": "NVIDIA GeForce RTX 3090",
        "pci.bus_id": "00000000:41:00.0",
    }
    first |= {"memory.total": "24576", "memory.used": "1024", "memory.reserved": "384"}
    second = {"uuid": turing, "index": "1", "name": "NVIDIA GeForce GTX 1660 SUPER"}
    second |= {"pci.bus_id": "00000000:01:00.0", "memory.total": "6144", "memory.used": "2048"}
    second |= {"memory.reserved": "128", "utilization.gpu": "88", "utilization.memory": "40"}
    zero = {"utilization.gpu": "0", "utilization.memory": "0"}
    apps = f"{ampere}, 900, 1\n{turing}, 900, 700\n"
    smi(tmp_path, monkeypatch, nothing | zero | first, nothing | second, apps=apps)
    assert compared(tmp_path, driver.machine("dual"), "0.01") == 1
    lines = capsys.readouterr().out.splitlines()
    (differs,) = (line.split() for line in lines if line.endswith("DIFFERS"))
    assert differs[:4] == ["memory", "of", "process", "900"]
    assert differs[-2] == "700"


@pytest.mark.parametrize(
    "mark",
    [
        "[N/A]",
        "[Not Supported]",
        "[Unknown Error]",
        "[GPU requires reset]",
        "[Insufficient Permissions]",
        "N/A",
        "",
    ],
)
def test_each_of_its_marks_for_no_value_is_none(mark: str) -> None:
    assert value(f" {mark} ") is None
    assert agrees([None], value(mark), 0)
    assert not agrees([1.0], value(mark), 0)


def test_a_value_must_lie_within_what_was_seen_while_it_was_asked_for() -> None:
    assert agrees([10.0, 90.0], 50.0, 0)
    assert agrees([10.0, None], 12.0, 2)
    assert not agrees([10.0, 20.0], 23.0, 2)
    assert not agrees([None, None], 5.0, 2)
    assert agrees(["0000:01:00.0"], "00000000:01:00.0", 0)


def test_energy_is_held_against_power_over_the_same_time_whatever_the_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("obt_agent.hardware.gpu.nvidia.compare_nvidia_smi.time", clock)
    ratios = energy_ratios(Ramp(clock), 2.0)
    assert ratios == {"gpu": pytest.approx(1.0, abs=0.001)}
    assert clock.now >= 2.0


class Clock:
    """Time that passes when somebody sleeps."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Ramp(NvidiaProvider):
    """A GPU whose power rises with time, with a counter to match; and one with no counter."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def energy(self) -> dict[str, float]:
        return {"gpu": 100 * self._clock.now + 50 * self._clock.now**2}

    def sample(self, group: CostGroup) -> GpuReadings:
        assert CostGroup.SLOW not in group
        watts, mono = 100 + 100 * self._clock.now, round(self._clock.now * 1e9)
        ids = ("gpu", "no counter")
        return GpuReadings(tuple(GpuSample(id=i, state="ok", t_mono_ns=mono, power_watts=watts) for i in ids))


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
    assert compared(tmp_path, driver.machine("rtx4090").answer("* ret:nvmlInit 9")) == 69
    shown = capsys.readouterr().out
    assert "not in PATH" in shown
    assert "not loaded" in shown


def test_a_tool_that_fails_is_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    smi(tmp_path, monkeypatch, status=15, last="Unable to determine the device handle: GPU is lost.")
    assert compared(tmp_path, driver.machine("rtx4090")) == 69
    assert (
        "nvidia-smi cannot be used: it ended with status 15: Unable to determine" in capsys.readouterr().out
    )


def test_a_tool_that_does_not_answer_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    smi(tmp_path, monkeypatch, TRUE)
    program = tmp_path / "bin/nvidia-smi"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    monkeypatch.setattr("obt_agent.hardware.gpu.nvidia.nvidia_smi._TIMEOUT_S", 0.1)
    assert compared(tmp_path, driver.machine("rtx4090")) == 69
    assert "did not answer within 0.1 s" in capsys.readouterr().out


def test_a_gpu_that_is_lost_does_not_keep_the_others_from_being_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: FakeDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    root: SnapshotRoot = tree(
        tmp_path / "machine", BASICS | pci("0000:41:00.0", "0x10de") | pci("0000:01:00.0", "0x10de")
    )
    ampere = dict.fromkeys(TRUE, "[N/A]") | {"uuid": "GPU-33333333-0000-0000-0000-000000000000", "index": "0"}
    ampere |= {"name": "NVIDIA GeForce RTX 3090", "driver_version": "580.95.05", "memory.used": "1024"}
    ampere |= {"pci.bus_id": "00000000:41:00.0", "memory.total": "24576", "memory.reserved": "384"}
    apps = f"{ampere['uuid']}, 900, 1\n"
    smi(tmp_path, monkeypatch, ampere | {"utilization.gpu": "0", "utilization.memory": "0"}, apps=apps)
    nvidia = NvidiaProvider(root, driver.machine("dual").answer("1 ret:* 15").nvml, driver.prober())
    assert main(["--seconds", "0.01"], nvidia) == 1
    shown = capsys.readouterr().out
    assert "seen by obt-agent alone, as lost" in shown
    assert "DIFFERS" not in shown
