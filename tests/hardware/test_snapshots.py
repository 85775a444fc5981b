"""Machines that we have no access to, replayed from their files."""

from __future__ import annotations

import msgspec
import pytest

from obt_agent.hardware.combine import fingerprint
from obt_agent.hardware.inventory import CgroupLimits
from obt_agent.hardware.read_once import MachineReading
from obt_agent.hardware.snapshot.replay import replay
from tests.hardware.replay import NAMES, SNAPSHOTS, expected_of

WANTED = {
    *("nvidia-desktop", "amd-dgpu", "amd-apu", "suspended-laptop", "intel-arc"),
    *("cpu-vm", "container-limits", "dual-socket", "arm-board", "gb10", "wsl2"),
    *("amd-mi250", "amd-mi300"),
}


def test_every_kind_of_machine_that_is_promised_has_a_snapshot() -> None:
    assert set(NAMES) >= WANTED


@pytest.mark.parametrize("name", NAMES)
def test_a_snapshot_replays_to_what_is_expected_of_it(name: str) -> None:
    reading, _ = replay(SNAPSHOTS / name)
    expected = msgspec.json.decode((SNAPSHOTS / name / "expected.json").read_bytes(), type=MachineReading)
    assert msgspec.to_builtins(expected_of(reading)) == msgspec.to_builtins(expected_of(expected))


@pytest.mark.parametrize("name", NAMES)
def test_a_snapshot_says_where_it_came_from(name: str) -> None:
    _, root = replay(SNAPSHOTS / name)
    assert root.manifest.origin in ("captured", "rebuilt", "synthetic")
    assert root.manifest.source
    if root.manifest.origin == "rebuilt":
        assert "github.com/" in root.manifest.source


def test_of_a_sleeping_gpu_nothing_is_read_but_identity_and_power_state() -> None:
    _, root = replay(SNAPSHOTS / "suspended-laptop")
    asleep = "/0000:01:00.0/"
    read = {path.partition(asleep)[2] for path in root.opened if asleep in path}
    assert read == {"vendor", "class", "power/control", "power/runtime_status"}


def reading_of(name: str) -> MachineReading:
    return replay(SNAPSHOTS / name)[0]


def test_page_cache_does_not_count_against_the_container() -> None:
    reading = reading_of("container-limits")
    assert reading.inventory.limits.memory_bytes == 8589934592
    assert reading.inventory.limits.cpus == 4.0
    assert reading.inventory.limits.cpuset == "0-7"
    # limit - (use - inactive file pages - active file pages)
    assert reading.sample.memory.cgroup_available_bytes == 8589934592 - (8500000000 - 7400000000)


def test_an_apu_keeps_its_two_pools_apart_and_its_models_count_where_they_lie() -> None:
    reading = reading_of("amd-apu")
    (gpu,) = reading.inventory.gpus
    assert (gpu.memory.kind, gpu.integrated) == ("carveout", True)
    assert (gpu.memory.total_bytes, gpu.memory.shared_total_bytes) == (4294967296, 31433977856)
    runner = next(process for process in reading.sample.ollama if process.role == "runner")
    # one client behind two descriptors counts once
    assert runner.gpu_memory_bytes == {gpu.id: (102400 + 4096000) * 1024}


def test_the_link_of_a_card_with_a_switch_is_that_to_the_slot() -> None:
    (gpu,) = reading_of("intel-arc").inventory.gpus
    assert gpu.pcie is not None
    assert (gpu.pcie.max_gen, gpu.pcie.max_width) == (4, 8)


def test_hybrid_cores_are_told_apart() -> None:
    kinds = reading_of("suspended-laptop").inventory.cpu.core_types
    assert [(kind.name, kind.logical_cores, kind.max_hertz) for kind in kinds] == [
        ("performance", 6, 5_000_000_000),
        ("efficiency", 8, 3_700_000_000),
    ]


def test_memory_modules_come_from_udev_where_the_table_is_closed() -> None:
    memory = reading_of("nvidia-desktop").inventory.memory
    assert (memory.type, memory.speed_mt_s, len(memory.modules)) == ("DDR5", 6000, 2)


def test_rapl_that_only_root_may_read_is_null_with_that_reason() -> None:
    cpu = reading_of("nvidia-desktop").sample.cpu
    assert cpu.package_energy_joules is None
    assert cpu.unavailable["package_energy_joules"] == "no_permission"
    assert cpu.temperature_celsius == 58.125


def test_a_server_of_two_sockets_is_whole_and_its_container_limited_by_version_1() -> None:
    reading = reading_of("dual-socket")
    cpu = reading.inventory.cpu
    assert (cpu.sockets, cpu.physical_cores, cpu.logical_cores, cpu.numa_nodes) == (2, 32, 32, 8)
    assert reading.sample.cpu.temperature_celsius == 29.2
    assert reading.inventory.limits == CgroupLimits(
        memory_bytes=64 << 30, cpus=16.0, cpuset="0-15", cgroup_version=1
    )
    assert reading.sample.memory.cgroup_available_bytes == (64 << 30) - (60 - 50) * 10**9
    (store,) = reading.inventory.storage
    assert (store.filesystem, store.kind, store.found_by) == ("xfs", "hdd", "setting")


def test_an_arm_board_has_no_invented_firmware_and_no_limit_where_its_kernel_sets_none() -> None:
    reading = reading_of("arm-board")
    host = reading.inventory.host
    assert (host.board and host.board.name, host.bios) == ("Raspberry Pi 5 Model B Rev 1.0", None)
    assert (host.virtualization, reading.inventory.cpu.model) == ("none", "Cortex-A76")
    assert reading.inventory.limits == CgroupLimits(cgroup_version=2)
    assert [store.kind for store in reading.inventory.storage] == ["mmc"]


def test_a_gb10_has_two_kinds_of_cores_and_one_memory() -> None:
    inventory = reading_of("gb10").inventory
    kinds = {kind.name: kind.logical_cores for kind in inventory.cpu.core_types}
    assert kinds == {"Cortex-X925": 10, "Cortex-A725": 10}
    (gpu,) = inventory.gpus
    assert (gpu.memory.kind, gpu.memory.total_bytes) == ("unified", None)
    assert gpu.memory.shared_total_bytes == inventory.memory.total_bytes


def test_under_wsl_the_gpu_is_found_with_no_device_on_the_bus_and_marks_stay_unknown() -> None:
    reading = reading_of("wsl2")
    assert (reading.inventory.host.wsl, reading.inventory.host.virtualization) == (True, "hyperv")
    (gpu,) = reading.inventory.gpus
    assert (gpu.name, gpu.memory.total_bytes) == ("NVIDIA GeForce RTX 5080", 16303 << 20)
    runner = next(process for process in reading.sample.ollama if process.role == "runner")
    assert (runner.gpu_memory_bytes, runner.unavailable["gpu_memory_bytes"]) == ({}, "not_reported")


def test_of_two_dies_the_second_has_no_power_of_its_own() -> None:
    """The driver writes 0 W and a limit of 0 W there: both stand at the first die, for both."""
    reading = reading_of("amd-mi250")
    first, second = reading.inventory.gpus
    assert (first.power_limit_watts, second.power_limit_watts) == (560.0, None)
    assert second.unavailable["power_limit_watts"] == "not_reported"
    assert [gpu.power_watts for gpu in reading.sample.gpus] == [387.0, None]
    assert reading.sample.gpus[1].unavailable["power_watts"] == "not_reported"
    assert [gpu.utilization_ratio for gpu in reading.sample.gpus] == [0.99, 0.98]


def test_an_accelerator_in_partitions_is_one_with_all_their_units_and_processes() -> None:
    reading = reading_of("amd-mi300")
    (gpu,) = reading.inventory.gpus
    assert gpu.shader_cores == 304 * 64
    runner = next(process for process in reading.sample.ollama if process.role == "runner")
    assert runner.gpu_memory_bytes == {gpu.id: 51_000_000_000}


def test_the_order_in_which_reasons_were_found_does_not_change_the_fingerprint() -> None:
    inventory = reading_of("amd-apu").inventory
    reasons = {"total_bytes": "not told", "speed_mts": "not told"}
    one, other = (
        msgspec.structs.replace(
            inventory, memory=msgspec.structs.replace(inventory.memory, unavailable=dict(order))
        )
        for order in (list(reasons.items()), list(reasons.items())[::-1])
    )
    assert one.memory.unavailable == other.memory.unavailable
    assert fingerprint(one) == fingerprint(other)
