"""OBT's HardwareInfo: derived, and never null where OBT requires something."""

from __future__ import annotations

import msgspec
import pytest

from obt_agent.hardware.inventory import CoreType, CpuInfo, Inventory, MemoryInfo, MemoryModule, NpuInfo
from obt_agent.hardware.legacy import LegacyCoreTypes, legacy_hardware_info
from obt_agent.hardware.read_once import MachineReading
from tests.hardware.replay import SNAPSHOTS
from tests.obt.fields import AcceptedHardware

ALL_SNAPSHOTS = sorted(folder.name for folder in SNAPSHOTS.iterdir() if (folder / "expected.json").exists())


def inventory(name: str) -> Inventory:
    return msgspec.json.decode(
        (SNAPSHOTS / name / "expected.json").read_bytes(), type=MachineReading
    ).inventory


def test_a_desktop_is_described_in_obts_own_units() -> None:
    info = legacy_hardware_info(inventory("nvidia-desktop"), "0.33.0")
    assert (info.cpu.name, info.cpu.cores, info.cpu.threads) == (
        "AMD Ryzen 9 7950X 16-Core Processor",
        16,
        32,
    )
    assert (info.cpu.base_clock, info.cpu.boost_clock) == (0, 5.881)
    assert (info.ram.speed, info.ram.type, info.ram.channels) == (6000, "DDR5", 2)
    assert [module.size for module in info.ram.modules] == [32768, 32768]
    assert info.total_memory == 64000
    (gpu,) = info.gpus
    assert (gpu.name, gpu.vram_size, gpu.cuda_cores, gpu.index) == (
        "NVIDIA GeForce RTX 4090",
        24564,
        16384,
        0,
    )
    assert (gpu.vram_type, gpu.tensor_cores) == ("unknown", None)
    assert (gpu.pcie_gen, gpu.pcie_width, gpu.compute_capability) == (4, "x16", "8.9")
    assert info.firmware.ollama_version == "0.33.0"


def test_what_is_not_known_is_zero_or_unknown() -> None:
    info = legacy_hardware_info(Inventory(fingerprint="", collected_at=0))
    assert (info.cpu.name, info.cpu.cores, info.cpu.base_clock) == ("unknown", 0, 0)
    assert (info.ram.speed, info.ram.channels, info.total_memory) == (0, 0, 0)
    assert set(msgspec.to_builtins(info.firmware).values()) == {"unknown"}


def test_an_apu_shows_its_carve_out_and_amds_cores_are_no_cuda_cores() -> None:
    (gpu,) = legacy_hardware_info(inventory("amd-apu")).gpus
    assert (gpu.vram_size, gpu.cuda_cores) == (4096, None)


def test_graphics_in_the_processor_show_what_they_share() -> None:
    graphics = next(gpu for gpu in inventory("suspended-laptop").gpus if gpu.vendor == "intel")
    shown = legacy_hardware_info(Inventory(fingerprint="", collected_at=0, gpus=(graphics,))).gpus[0]
    assert shown.vram_size == 32500000 // 1024


def test_channels_are_counted_only_where_every_slot_names_its_own() -> None:
    def channels(*banks: str) -> int:
        modules = tuple(MemoryModule(size_bytes=1, bank=bank) for bank in banks)
        memory = MemoryInfo(modules=modules)
        return legacy_hardware_info(Inventory(fingerprint="", collected_at=0, memory=memory)).ram.channels

    assert channels("P0 CHANNEL A", "P0 CHANNEL B", "P0 CHANNEL A") == 2
    assert channels("P0 CHANNEL A", "P1 CHANNEL A") == 2
    assert channels("P0 CHANNEL A", "BANK 1") == 0


@pytest.mark.parametrize("name", ALL_SNAPSHOTS)
def test_obts_own_rules_accept_every_machine(name: str) -> None:
    sent = msgspec.json.encode(legacy_hardware_info(inventory(name)))
    accepted = AcceptedHardware.model_validate_json(sent)
    # Nothing is lost on the way: what OBT shows is what was sent.
    assert accepted.model_dump(mode="json") == msgspec.json.decode(sent)


def test_obts_own_rules_accept_an_npu() -> None:
    npu = NpuInfo(id="0", name="AI Boost")
    sent = msgspec.json.encode(legacy_hardware_info(Inventory(fingerprint="", collected_at=0, npus=(npu,))))
    accepted = AcceptedHardware.model_validate_json(sent).npu
    assert accepted is not None
    assert accepted.name == "AI Boost"


def core_types(*kinds: CoreType) -> LegacyCoreTypes | None:
    cpu = CpuInfo(core_types=kinds)
    return legacy_hardware_info(Inventory(fingerprint="", collected_at=0, cpu=cpu)).cpu.core_types


def test_kinds_of_core_have_the_names_that_obts_page_reads() -> None:
    hybrid = legacy_hardware_info(inventory("suspended-laptop")).cpu.core_types
    assert hybrid == LegacyCoreTypes(performance_cores=6, efficiency_cores=8)
    three = [CoreType(name=name, logical_cores=2) for name in ("performance", "efficiency", "low_power")]
    assert core_types(*three) == LegacyCoreTypes(performance_cores=2, efficiency_cores=4)


def test_of_arms_kinds_of_core_the_fastest_counts_and_none_where_no_clock_is_known() -> None:
    slow = CoreType(name="Cortex-A55", logical_cores=4, max_hertz=1_800_000_000)
    fast = CoreType(name="Cortex-A76", logical_cores=2, max_hertz=2_400_000_000)
    assert core_types(slow, fast) == LegacyCoreTypes(performance_cores=2, efficiency_cores=4)
    assert core_types(CoreType(name="Cortex-A55", logical_cores=4), fast) is None
    assert legacy_hardware_info(inventory("gb10")).cpu.core_types is None
