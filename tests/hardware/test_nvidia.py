"""The real nvidia-ml-py over a library that says what the test wants."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.hardware.gpu.nvidia.nvml import Nvml
from obt_agent.hardware.gpu.nvidia.probe import main as trial
from obt_agent.hardware.gpu.nvidia.provider import NvidiaProvider
from obt_agent.hardware.gpu.nvidia.recorded import RecordedBinding
from obt_agent.hardware.provider import CostGroup, GpuReadings
from obt_agent.hardware.samples import GpuSample
from obt_agent.hardware.snapshot.root import Root, SnapshotRoot
from tests.hardware.nvml.fake import HERE, FakeDriver
from tests.hardware.trees import BASICS, pci, put, tree

BOTH = CostGroup.FAST | CostGroup.SLOW
NVIDIA = "0x10de"
RTX = "GPU-00000000-1111-2222-3333-444444444444"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    folder = tmp_path / "machine"
    tree(folder, BASICS | pci("0000:01:00.0", NVIDIA))
    return folder


def provider(machine: Path, driver: FakeDriver, *, deadline_s: float = 20.0) -> NvidiaProvider:
    return NvidiaProvider(SnapshotRoot(machine), driver.nvml, driver.prober(deadline_s))


def only(readings: GpuReadings) -> GpuSample:
    assert len(readings.gpus) == 1
    return readings.gpus[0]


def test_the_private_part_of_the_binding_is_there_and_its_version_is_bounded() -> None:
    words = "nvidia-ml-py keeps no pointers in this dictionary any more: see Nvml.unload"
    assert isinstance(getattr(pynvml, "_nvmlGetFunctionPointer_cache", None), dict), words
    assert "_nvmlGetFunctionPointer_cache" in inspect.getsource(pynvml._nvmlGetFunctionPointer), words  # noqa: SLF001 - as above
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (bound,) = [one for one in project["project"]["dependencies"] if one.startswith("nvidia-ml-py")]
    assert "<" in bound


def test_a_desktop_card_gives_everything_with_its_unit(machine: Path, driver: FakeDriver) -> None:
    nvidia = provider(machine, driver.machine("rtx4090"))
    state = nvidia.probe()
    assert (state.status, state.version) == ("ok", "595.71.05")
    (gpu,) = nvidia.inventory()
    assert (gpu.id, gpu.uuid, gpu.pci_address) == (RTX, RTX, "0000:01:00.0")
    assert (gpu.name, gpu.compute_capability, gpu.cuda_version) == ("NVIDIA GeForce RTX 4090", "8.9", "13.2")
    assert (gpu.shader_cores, gpu.power_limit_watts, gpu.vbios_version) == (16384, 450.0, "95.02.3c.00.01")
    assert (gpu.memory.kind, gpu.memory.total_bytes) == ("dedicated", 25757220864)
    assert (gpu.memory.reserved_bytes, gpu.memory.bus_width_bits) == (474218496, 384)
    assert gpu.memory.type is None
    assert gpu.memory.unavailable["type"] == "no_source"
    assert gpu.integrated is False
    assert gpu.pcie is not None
    assert (gpu.pcie.max_gen, gpu.pcie.max_width) == (4, 16)
    readings = nvidia.sample(BOTH)
    sample = only(readings)
    assert (sample.id, sample.state) == (RTX, "ok")
    assert (sample.utilization_ratio, sample.memory_controller_ratio) == (0.97, 0.62)
    assert (sample.memory_used_bytes, sample.temperature_celsius) == (6442450944, 63.0)
    assert sample.power_watts == 329.0
    assert sample.energy_joules_total == 123456.789
    assert sample.clocks is not None
    assert (sample.clocks.graphics_hertz, sample.clocks.memory_hertz) == (2_520_000_000, 10_501_000_000)
    assert sample.throttle_reasons == ("sw_power_cap",)
    assert (sample.fan_ratio, sample.pcie_gen, sample.pcie_width) == (0.45, 1, 16)
    assert sample.ecc_uncorrected is None
    assert sample.unavailable == {
        "ecc_uncorrected": "not_supported",
        "others_ratio": "not_reported: the driver names no process of Ollama's",
    }
    assert readings.process_memory == {4242: {RTX: 6000000000}, 4243: {RTX: 123000000}}
    assert nvidia.energy() == {RTX: 123456.789}


def test_a_driver_without_instant_power_gives_its_average(machine: Path, driver: FakeDriver) -> None:
    nvidia = provider(
        machine, driver.machine("rtx4090").forget_answer("0 nvmlDeviceGetFieldValues.186 329000")
    )
    nvidia.probe()
    assert only(nvidia.sample(BOTH)).power_watts == 321.456


def test_the_slow_group_keeps_its_values_and_its_time_between_readings(
    machine: Path, driver: FakeDriver
) -> None:
    nvidia = provider(machine, driver.machine("rtx4090"))
    nvidia.probe()
    slow = only(nvidia.sample(BOTH))
    driver.answer("0 nvmlDeviceGetFanSpeed 80", "0 nvmlDeviceGetTemperature.0 70")
    fast = only(nvidia.sample(CostGroup.FAST))
    assert (fast.fan_ratio, fast.temperature_celsius) == (0.45, 70.0)
    assert fast.slow_t_mono_ns == slow.slow_t_mono_ns
    assert fast.t_mono_ns is not None
    assert slow.t_mono_ns is not None
    assert fast.t_mono_ns > slow.t_mono_ns


def test_two_cards_are_told_apart_by_uuid_and_a_process_on_both_counts_on_both(
    machine: Path, driver: FakeDriver
) -> None:
    nvidia = provider(machine, driver.machine("dual"))
    nvidia.probe()
    by_id = {gpu.id: gpu for gpu in nvidia.inventory()}
    ampere, turing = "GPU-33333333-0000-0000-0000-000000000000", "GPU-16601660-0000-0000-0000-000000000000"
    assert (by_id[ampere].pci_address, by_id[turing].pci_address) == ("0000:41:00.0", "0000:01:00.0")
    readings = nvidia.sample(BOTH)
    assert {gpu.id: gpu.utilization_ratio for gpu in readings.gpus} == {ampere: 0.0, turing: 0.88}
    assert readings.process_memory == {900: {ampere: 1000000, turing: 2000000}}
    assert nvidia.energy() == {ampere: 1.0, turing: 2.0}


def test_a_divided_card_shows_its_instances_and_no_invented_utilisation(
    machine: Path, driver: FakeDriver
) -> None:
    nvidia = provider(machine, driver.machine("h100_mig"))
    nvidia.probe()
    (gpu,) = nvidia.inventory()
    assert gpu.mig is not None
    assert (gpu.mig.enabled, gpu.mig.max_instances) == (True, 7)
    first, second = gpu.mig.instances
    assert (first.id, first.multiprocessors) == ("MIG-aaaaaaaa-0000-0000-0000-000000000000", 60)
    assert (first.gpu_instance_id, first.compute_instance_id) == (1, 0)
    assert (first.memory_total_bytes, second.memory_total_bytes) == (42144366592, 20937965568)
    readings = nvidia.sample(BOTH)
    sample = only(readings)
    assert sample.utilization_ratio is None
    assert sample.unavailable["utilization_ratio"] == "not_supported"
    assert [part.memory_used_bytes for part in sample.mig] == [20401094656, 12582912]
    assert sample.ecc_uncorrected == 0
    assert sample.state == "ok"
    assert readings.process_memory == {700: {gpu.id: 20000000000}}


def test_a_gpu_without_memory_of_its_own_has_the_systems_as_shared_and_no_total(
    machine: Path, driver: FakeDriver
) -> None:
    nvidia = provider(machine, driver.machine("gb10"))
    nvidia.probe()
    (gpu,) = nvidia.inventory()
    assert (gpu.memory.kind, gpu.integrated) == ("unified", True)
    assert gpu.memory.total_bytes is None
    assert gpu.memory.unavailable["total_bytes"] == "unified_memory"
    assert gpu.memory.shared_total_bytes == 1000 * 1024
    assert gpu.pci_address == "000f:01:00.0"
    readings = nvidia.sample(BOTH)
    sample = only(readings)
    assert sample.memory_used_bytes is None
    assert sample.unavailable["memory_used_bytes"] == "unified_memory"
    assert (sample.state, sample.power_watts) == ("ok", 40.0)
    assert readings.process_memory == {77: {gpu.id: 9000000000}}


def test_marks_for_unknown_become_null_and_impossible_processes_are_left_out(
    tmp_path: Path, driver: FakeDriver
) -> None:
    folder = tmp_path / "wsl"
    tree(folder, BASICS | {"/dev/dxg": ""})
    nvidia = provider(folder, driver.machine("wsl"))
    assert nvidia.probe().status == "ok"
    readings = nvidia.sample(BOTH)
    sample = only(readings)
    assert (sample.utilization_ratio, sample.memory_used_bytes) == (0.12, 1073741824)
    assert (sample.power_watts, sample.energy_joules_total, sample.temperature_celsius) == (None, None, None)
    assert sample.unavailable["power_watts"] == "not_reported"
    assert sample.unavailable["energy_joules_total"] == "not_reported"
    assert sample.unavailable["temperature_celsius"] == "malformed"
    assert readings.process_memory == {}
    assert set(readings.process_reasons.values()) == {"not_reported"}
    assert nvidia.energy() == {}


@pytest.mark.parametrize(
    ("code", "words"),
    [(9, "not loaded"), (18, "differ in version"), (4, "no_permission"), (999, "NVML error 999")],
)
def test_a_driver_that_will_not_start_leaves_the_card_in_the_inventory_with_the_reason(
    machine: Path, driver: FakeDriver, code: int, words: str
) -> None:
    nvidia = provider(machine, driver.machine("rtx4090").answer(f"* ret:nvmlInit {code}"))
    state = nvidia.probe()
    assert state.status == "degraded"
    assert words in (state.reason or "")
    (gpu,) = nvidia.inventory()
    assert (gpu.id, gpu.memory.total_bytes) == ("0000:01:00.0", None)
    assert words in gpu.memory.unavailable["total_bytes"]
    assert only(nvidia.sample(BOTH)).state == "degraded"


def test_a_missing_library_is_said_so(machine: Path, driver: FakeDriver) -> None:
    driver.library.unlink()
    nvidia = provider(machine, driver)
    assert "not installed" in (nvidia.probe().reason or "")
    assert len(nvidia.inventory()) == 1


def test_wsl_with_another_vendors_gpu_has_no_nvidia_fault_to_tell(tmp_path: Path, driver: FakeDriver) -> None:
    driver.library.unlink()
    folder = tmp_path / "wsl"
    tree(folder, BASICS | {"/dev/dxg": ""})
    assert provider(folder, driver).probe().status == "absent"


def test_a_machine_with_no_nvidia_device_never_loads_the_library(tmp_path: Path, driver: FakeDriver) -> None:
    folder = tmp_path / "none"
    tree(folder, BASICS | pci("0000:03:00.0", "0x1002"))
    nvidia = provider(folder, driver.machine("rtx4090").answer("* crash:nvmlInit 1"))
    assert nvidia.probe().status == "absent"
    assert nvidia.inventory() == ()
    assert nvidia.sample(BOTH).gpus == ()


def test_a_library_that_crashes_kills_only_its_trial(machine: Path, driver: FakeDriver) -> None:
    nvidia = provider(machine, driver.machine("rtx4090").answer("* crash:nvmlDeviceGetCount_v2 1"))
    state = nvidia.probe()
    assert state.status == "degraded"
    assert "crashed when tried (signal 11)" in (state.reason or "")
    driver.forget_answer("* crash:nvmlDeviceGetCount_v2 1")
    assert nvidia.probe().status == "ok"


def test_a_library_that_hangs_at_the_start_hangs_only_its_trial(machine: Path, driver: FakeDriver) -> None:
    nvidia = provider(machine, driver.machine("rtx4090").answer("* hang:nvmlInit 1"), deadline_s=0.5)
    state = nvidia.probe()
    assert state.status == "stalled"
    assert "did not answer within 0.5 s" in (state.reason or "")


def test_a_lost_gpu_is_called_lost_and_is_back_after_the_next_probe(
    machine: Path, driver: FakeDriver
) -> None:
    nvidia = provider(machine, driver.machine("rtx4090"))
    nvidia.probe()
    driver.answer("0 ret:* 15")
    sample = only(nvidia.sample(BOTH))
    assert (sample.id, sample.state, sample.temperature_celsius) == (RTX, "lost", None)
    assert nvidia.energy() == {}
    assert nvidia.probe().status == "lost"
    assert [gpu.name for gpu in nvidia.inventory()] == ["NVIDIA GeForce RTX 4090"]
    assert only(nvidia.sample(BOTH)).state == "lost"
    driver.forget_answer("0 ret:* 15")
    assert nvidia.probe().status == "ok"
    assert only(nvidia.sample(BOTH)).state == "ok"


def test_one_lost_gpu_does_not_take_the_other_with_it(machine: Path, driver: FakeDriver) -> None:
    nvidia = provider(machine, driver.machine("dual"))
    nvidia.probe()
    driver.answer("1 ret:* 15")
    assert [gpu.state for gpu in nvidia.sample(BOTH).gpus] == ["ok", "lost"]


def test_a_gpu_that_was_lost_before_the_start_is_shown_by_its_place_on_the_bus(
    machine: Path, driver: FakeDriver
) -> None:
    nvidia = provider(machine, driver.machine("rtx4090").answer("0 ret:* 15"))
    assert nvidia.probe().status == "lost"
    assert [(gpu.id, gpu.unavailable["uuid"]) for gpu in nvidia.inventory()] == [("0000:01:00.0", "lost")]
    assert only(nvidia.sample(BOTH)).state == "lost"


def test_a_gpu_on_the_bus_that_the_container_was_not_given_is_not_lost(
    tmp_path: Path, driver: FakeDriver
) -> None:
    folder = tmp_path / "container"
    tree(folder, BASICS | pci("0000:01:00.0", NVIDIA) | pci("0000:02:00.0", NVIDIA))
    nvidia = provider(folder, driver.machine("rtx4090"))
    assert nvidia.probe().status == "ok"
    assert [gpu.pci_address for gpu in nvidia.inventory()] == ["0000:01:00.0"]


def test_an_old_driver_gives_what_it_can(machine: Path, old_driver: FakeDriver) -> None:
    nvidia = provider(machine, old_driver.machine("rtx4090"))
    assert nvidia.probe().status == "ok"
    (gpu,) = nvidia.inventory()
    assert (gpu.memory.total_bytes, gpu.memory.reserved_bytes) == (25757220864, None)
    assert "older" in gpu.memory.unavailable["reserved_bytes"]
    readings = nvidia.sample(BOTH)
    sample = only(readings)
    assert sample.memory_used_bytes == 6442450944 + 474218496
    assert (sample.temperature_celsius, sample.power_watts) == (63.0, 321.456)
    assert sample.throttle_reasons == ("sw_power_cap",)
    assert readings.process_memory[4242] == {RTX: 6000000000}
    assert sample.state == "ok"


def test_a_replaced_driver_is_loaded_afresh(
    machine: Path, driver: FakeDriver, built_old_driver: Path
) -> None:
    nvidia = provider(machine, driver.machine("rtx4090"))
    nvidia.probe()
    (before,) = nvidia.inventory()
    assert (before.driver_version, before.memory.reserved_bytes) == ("595.71.05", 474218496)
    put(machine, "/sys/module/nvidia/version", "450.10\n")
    driver.library.unlink()
    driver.library.write_bytes(built_old_driver.read_bytes())
    driver.answer("* nvmlSystemGetDriverVersion 450.10")
    state = nvidia.probe()
    assert (state.status, state.version) == ("ok", "450.10")
    (after,) = nvidia.inventory()
    # the library that is loaded now has no such symbol
    assert (after.driver_version, after.memory.reserved_bytes) == ("450.10", None)


def test_an_answer_that_the_binding_itself_chokes_on_is_a_gap_and_no_crash(
    machine: Path, driver: FakeDriver
) -> None:
    nvidia = provider(machine, driver.machine("rtx4090").answer("0 nvmlDeviceGetName \udcff\udcfe"))
    assert nvidia.probe().status == "ok"
    (gpu,) = nvidia.inventory()
    assert (gpu.name, gpu.unavailable["name"]) == (None, "driver_error: UnicodeDecodeError")
    assert only(nvidia.sample(BOTH)).state == "ok"


def test_a_call_that_contradicts_itself_is_not_believed(machine: Path, driver: FakeDriver) -> None:
    nvidia = provider(machine, driver.machine("rtx4090").answer("0 nvmlDeviceGetMemoryInfo 1000 2000 0"))
    nvidia.probe()
    sample = only(nvidia.sample(BOTH))
    assert (sample.state, sample.memory_used_bytes) == ("degraded", None)
    assert sample.unavailable["memory_used_bytes"] == "inconsistent"


def laptop(tmp_path: Path, status: str) -> Path:
    folder = tmp_path / "laptop"
    sleeper = pci("0000:01:00.0", NVIDIA, power__control="auto", power__runtime_status=status)
    tree(folder, BASICS | sleeper, links={"/sys/bus/pci/devices/0000:01:00.0/driver": "../../drivers/nvidia"})
    return folder


def test_a_sleeping_gpu_is_not_woken_and_nothing_but_its_state_is_read(
    tmp_path: Path, driver: FakeDriver
) -> None:
    folder = laptop(tmp_path, "suspended")
    nvidia = provider(folder, driver.machine("rtx4090").answer("* crash:nvmlInit 1"))
    assert nvidia.probe().status == "suspended"
    (gpu,) = nvidia.inventory()
    assert (gpu.id, gpu.driver, gpu.name) == ("0000:01:00.0", "nvidia", None)
    assert gpu.unavailable["name"] == "suspended"
    sample = only(nvidia.sample(BOTH))
    assert (sample.state, sample.utilization_ratio) == ("suspended", None)
    assert nvidia.energy() == {}


def test_a_gpu_that_falls_asleep_is_let_go_and_keeps_its_description(
    tmp_path: Path, driver: FakeDriver
) -> None:
    folder = laptop(tmp_path, "active")
    nvidia = provider(folder, driver.machine("rtx4090"))
    assert nvidia.probe().status == "ok"
    put(folder, "/sys/bus/pci/devices/0000:01:00.0/power/runtime_status", "suspended\n")
    driver.answer("* crash:nvmlInit 1")
    assert only(nvidia.sample(BOTH)).state == "suspended"
    assert nvidia.inventory()[0].name == "NVIDIA GeForce RTX 4090"
    driver.forget_answer("* crash:nvmlInit 1")
    put(folder, "/sys/bus/pci/devices/0000:01:00.0/power/runtime_status", "active\n")
    waking = only(nvidia.sample(BOTH))
    assert (waking.state, waking.unavailable["power_watts"]) == (
        "degraded",
        "not_reported: awake again, not yet connected",
    )
    assert nvidia.probe().status == "ok"
    assert only(nvidia.sample(BOTH)).state == "ok"


def test_a_trial_prints_the_drivers_version_or_the_reason(
    driver: FakeDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    driver.machine("dual").answer("1 ret:* 15")
    assert trial(driver.places) == 0
    driver.answer("* ret:nvmlInit 18")
    assert trial(driver.places) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ok 580.95.05",
        "driver_error: library and kernel driver differ in version",
    ]


def test_between_rare_samples_the_library_is_shut_so_that_the_gpu_can_sleep(
    tmp_path: Path, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia = provider(laptop(tmp_path, "active"), driver.machine("rtx4090"))
    nvidia.probe()
    now = [10**12]
    monkeypatch.setattr("time.monotonic_ns", lambda: now[0])
    assert only(nvidia.sample(BOTH)).state == "ok"
    assert nvidia.energy() == {}
    now[0] += 30 * 10**9
    assert only(nvidia.sample(BOTH)).state == "ok"
    assert nvidia.energy() == {}
    now[0] += 10**9
    assert only(nvidia.sample(BOTH)).state == "ok"
    assert nvidia.energy() == {RTX: 123456.789}
    now[0] += 30 * 10**9
    nvidia.sample(BOTH)
    driver.answer("* ret:nvmlInit 9")
    assert only(nvidia.sample(BOTH)).state == "lost"


def test_a_single_missing_reading_is_null_and_the_rest_stands(machine: Path, driver: FakeDriver) -> None:
    driver.machine("rtx4090").answer(
        "0 ret:nvmlDeviceGetClockInfo 999",
        "0 ret:nvmlDeviceGetPciInfo 3",
        "0 ret:nvmlDeviceGetMaxPcieLinkGeneration 3",
        "0 ret:nvmlDeviceGetMaxPcieLinkWidth 3",
        "0 nvmlDeviceGetUtilizationRates 150 0",
    )
    nvidia = provider(machine, driver)
    nvidia.probe()
    (gpu,) = [gpu for gpu in nvidia.inventory() if gpu.uuid == RTX]
    assert (gpu.pci_address, gpu.pcie, gpu.unavailable["pcie"]) == (None, None, "not_supported")
    sample = next(sample for sample in nvidia.sample(BOTH).gpus if sample.id == RTX)
    assert (sample.state, sample.clocks, sample.temperature_celsius) == ("degraded", None, 63.0)
    assert sample.unavailable["clocks"] == "driver_error: NVML error 999"
    assert sample.unavailable["utilization_ratio"] == "malformed"


def test_a_trial_is_not_given_the_agents_own_settings(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, str]] = []
    real = subprocess.Popen

    def popen(command: list[str], *, env: dict[str, str], **more: Any) -> subprocess.Popen[str]:
        given.append(env)
        return real(command, env=env, **more)

    monkeypatch.setenv("OBT_AGENT_SERVER_TOKEN", "secret")
    monkeypatch.setattr(subprocess, "Popen", popen)
    assert driver.machine("dual").prober().probe() == "580.95.05"
    assert [name for name in given[0] if name.startswith("OBT_")] == []
    assert "PATH" in given[0]


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("0 nvmlDeviceGetPowerUsage 0", {"power_watts"}),
        ("0 nvmlDeviceGetEnforcedPowerLimit 0", {"power_limit_watts"}),
        ("0 nvmlDeviceGetTotalEnergyConsumption 0", {"energy_joules_total"}),
        ("0 nvmlDeviceGetTemperature.0 0", {"temperature_celsius"}),
        ("0 nvmlDeviceGetTemperature.0 -1", {"temperature_celsius"}),
        ("0 nvmlDeviceGetMemoryInfo 0 0 0", {"total_bytes", "memory_used_bytes"}),
        ("0 nvmlDeviceGetMemoryInfo 25757220864 18446744073709551615 0", {"memory_used_bytes"}),
        ("0 nvmlDeviceGetMemoryInfo 25757220864 6442450944 18446744073709551615", {"reserved_bytes"}),
        ("0 nvmlDeviceGetUtilizationRates 97 4294967295", {"memory_controller_ratio"}),
        ("0 nvmlDeviceGetNumGpuCores 0", {"shader_cores"}),
        ("0 nvmlDeviceGetMemoryBusWidth 0", {"bus_width_bits"}),
        ("0 nvmlDeviceGetCurrPcieLinkGeneration 0", {"pcie_gen"}),
        ("0 nvmlDeviceGetCurrPcieLinkWidth 0", {"pcie_width"}),
        ("0 nvmlDeviceGetVbiosVersion N/A", {"vbios_version"}),
        ("0 nvmlDeviceGetName [Unknown Error]", {"name"}),
        ("* nvmlSystemGetCudaDriverVersion_v2 0", {"cuda_version"}),
    ],
)
def test_a_number_or_word_that_means_unknown_is_null_and_nothing_else_is(
    machine: Path, driver: FakeDriver, line: str, fields: set[str]
) -> None:
    driver.machine("rtx4090").forget_answer("0 nvmlDeviceGetFieldValues.186 329000").answer(line)
    nvidia = provider(machine, driver)
    nvidia.probe()
    (gpu,) = nvidia.inventory()
    sample = only(nvidia.sample(BOTH))
    reasons = gpu.unavailable | gpu.memory.unavailable | sample.unavailable
    unknown = {field for field, reason in reasons.items() if reason == "not_reported"}
    assert (unknown, sample.state) == (fields, "ok")


def test_clocks_of_zero_are_no_clocks(machine: Path, driver: FakeDriver) -> None:
    driver.machine("rtx4090").answer("0 nvmlDeviceGetClockInfo.0 0", "0 nvmlDeviceGetClockInfo.2 0")
    nvidia = provider(machine, driver)
    nvidia.probe()
    clocks = only(nvidia.sample(BOTH)).clocks
    assert clocks is not None
    assert (clocks.graphics_hertz, clocks.sm_hertz, clocks.memory_hertz) == (None, 2_520_000_000, None)


def test_what_others_than_ollama_take_of_a_gpu_is_the_drivers_share_of_their_processes(
    machine: Path, driver: FakeDriver
) -> None:
    # The last one is garbage, as some drivers give for a process that is gone.
    shares = "0 nvmlDeviceGetProcessUtilization 4242:80 4243:15 4250:5 4251:4294967295"
    nvidia = provider(machine, driver.machine("rtx4090").answer(shares))
    nvidia.probe()
    nvidia.follow((4242, 4250))
    assert only(nvidia.sample(BOTH)).others_ratio == 0.15
    # Dates from the slow group, as the field's own clock says.
    assert only(nvidia.sample(CostGroup.FAST)).others_ratio == 0.15
    driver.answer("0 nvmlDeviceGetProcessUtilization 4242:100")
    assert only(nvidia.sample(BOTH)).others_ratio == 0.0


def test_a_driver_that_found_no_work_says_that_others_took_nothing(machine: Path, driver: FakeDriver) -> None:
    driver.machine("rtx4090").answer("0 ret:nvmlDeviceGetProcessUtilization 6")
    nvidia = provider(machine, driver)
    nvidia.probe()
    nvidia.follow((4242,))
    assert only(nvidia.sample(BOTH)).others_ratio == 0.0


def test_others_are_not_told_where_the_driver_does_not_name_ollamas_own_process(
    machine: Path, driver: FakeDriver
) -> None:
    # In a container the driver gives the host's numbers: Ollama itself would pass for another program.
    nvidia = provider(machine, driver.machine("rtx4090").answer("0 nvmlDeviceGetProcessUtilization 4242:80"))
    nvidia.probe()
    nvidia.follow((17,))
    sample = only(nvidia.sample(BOTH))
    assert sample.others_ratio is None
    assert sample.unavailable["others_ratio"].startswith("not_reported")


def test_a_process_with_no_memory_is_one_whose_memory_the_driver_does_not_tell(
    machine: Path, driver: FakeDriver
) -> None:
    driver.machine("rtx4090").answer("0 nvmlDeviceGetComputeRunningProcesses 4242:0 4243:123000000")
    nvidia = provider(machine, driver)
    nvidia.probe()
    readings = nvidia.sample(BOTH)
    assert (readings.process_memory, readings.process_reasons) == (
        {4243: {RTX: 123000000}},
        {4242: "not_reported"},
    )


ANSWERS = [HERE / f"{name}.txt" for name in ("dual", "gb10", "h100_mig", "wsl")]
ANSWERS += sorted((HERE.parent / "snapshots").glob("*/nvml.txt"))


@pytest.mark.parametrize("lines", ANSWERS, ids=[f"{path.parent.name}-{path.stem}" for path in ANSWERS])
def test_recorded_answers_read_as_the_library_does(tmp_path: Path, driver: FakeDriver, lines: Path) -> None:
    """A snapshot is replayed without a library: what stands in for the binding must read lines alike."""
    root = tree(tmp_path / "machine", BASICS | {"/dev/nvidiactl": ""})
    by_library = NvidiaProvider(root, driver.answer(*lines.read_text().splitlines()).nvml, driver.prober())
    by_lines = NvidiaProvider(root, lambda: Nvml(binding=RecordedBinding(lines.read_text())), None)
    assert by_lines.probe() == by_library.probe()
    assert by_lines.inventory() == by_library.inventory() != ()
    assert timeless(by_lines.sample(BOTH)) == timeless(by_library.sample(BOTH))
    assert by_lines.energy() == by_library.energy()


def timeless(readings: GpuReadings) -> GpuReadings:
    gpus = (msgspec.structs.replace(gpu, t_mono_ns=None, slow_t_mono_ns=None) for gpu in readings.gpus)
    return dataclasses.replace(readings, gpus=tuple(gpus))


def test_a_count_that_no_machine_has_is_no_count(machine: Path) -> None:
    binding = RecordedBinding("* nvmlDeviceGetCount_v2 99999999999")
    nvidia = NvidiaProvider(SnapshotRoot(machine), lambda: Nvml(binding=binding), None)
    assert (nvidia.probe().status, nvidia.probe().reason) == ("degraded", "malformed")


@given(st.text(max_size=200))
def test_any_lines_of_a_snapshot_read_without_an_error(lines: str) -> None:
    """Whoever looks into a report replays what somebody sent."""
    text = f"* nvmlDeviceGetCount_v2 1\n0 nvmlDeviceGetName {lines}\n{lines}"
    nvidia = NvidiaProvider(ALWAYS_THERE, lambda: Nvml(binding=RecordedBinding(text)), None)
    nvidia.probe()
    nvidia.inventory()
    nvidia.sample(BOTH)
    nvidia.close()


class AlwaysThere(Root):
    """A machine of which nothing is known but that it may have a GPU."""

    real = False

    def exists(self, path: str) -> bool:
        return path.startswith("/dev/")

    def names(self, path: str) -> list[str]:
        raise FileNotFoundError(path)

    def open(self, path: str) -> int:
        raise FileNotFoundError(path)


ALWAYS_THERE = AlwaysThere()
