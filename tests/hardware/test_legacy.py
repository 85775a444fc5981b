"""OBT's HardwareInfo: derived, and never null where OBT requires something."""

from __future__ import annotations

import msgspec

from obt_agent.hardware.inventory import Inventory, MemoryInfo, MemoryModule
from obt_agent.hardware.legacy import legacy_hardware_info
from obt_agent.hardware.read_once import MachineReading
from tests.hardware.replay import SNAPSHOTS


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
    assert (gpu.pcie_gen, gpu.pcie_width, gpu.compute_capability) == (4, 16, "8.9")
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
