"""Apple's GPUs, by what the programs of macOS print (``apple/README.md`` says where that is from)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from obt_agent.hardware.field_reader import Unreadable
from obt_agent.hardware.gpu.apple import tools
from obt_agent.hardware.gpu.apple.provider import AppleProvider
from obt_agent.hardware.provider import CostGroup
from obt_agent.system import owners

PRINTED = Path(__file__).parent / "apple"
GIB = 1 << 30


def printed(name: str) -> str:
    return (PRINTED / f"{name}.txt").read_text()


class Mac:
    """A Mac that prints what was recorded, by the program that is run."""

    def __init__(self, ioreg: str, powermetrics: str = "powermetrics_gpu_power") -> None:
        self.ioreg = printed(ioreg)
        self.power = printed(powermetrics)
        self.commands: list[Sequence[str]] = []

    def run(self, command: Sequence[str]) -> str:
        self.commands.append(command)
        return self.ioreg if command == tools.IOREG else self.power

    def provider(self) -> AppleProvider:
        return AppleProvider(self.run, lambda: 32 * GIB)


def test_a_loaded_model_shows_in_what_is_allocated_of_the_systems_memory() -> None:
    provider = Mac("ioreg_m1_pro_loaded").provider()
    state = provider.probe()
    assert (state.status, state.verified) == ("ok", False)
    (info,) = provider.inventory()
    assert (info.id, info.name, info.shader_cores) == ("AGXAcceleratorG13X", "Apple M1 Pro", 14)
    assert (info.integrated, info.backend) == (True, "metal")
    assert (info.memory.kind, info.memory.total_bytes) == ("unified", None)
    assert info.memory.shared_total_bytes == 32 * GIB
    (now,) = provider.sample(CostGroup.FAST).gpus
    assert (now.id, now.state, now.utilization_ratio) == (info.id, "ok", 0.22)
    assert now.shared_used_bytes == 21_343_043_584
    assert now.memory_used_bytes is None
    assert now.unavailable["memory_used_bytes"] == "unified_memory"


def test_power_and_clock_are_roots_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "user", lambda: 501)
    mac = Mac("ioreg_m1_pro_loaded")
    provider = mac.provider()
    provider.probe()
    (now,) = provider.sample(CostGroup.FAST | CostGroup.SLOW).gpus
    assert now.power_watts is None
    assert now.unavailable["power_watts"].startswith("no_permission")
    assert tools.POWERMETRICS not in mac.commands
    monkeypatch.setattr(owners, "user", lambda: 0)
    (now,) = provider.sample(CostGroup.FAST | CostGroup.SLOW).gpus
    assert now.power_watts == 0.029
    assert now.clocks is not None
    assert now.clocks.graphics_hertz == 338_000_000
    assert "power_watts" not in now.unavailable


def test_graphics_of_others_in_an_older_mac_are_not_taken_for_apples() -> None:
    provider = Mac("ioreg_intel_mac").provider()
    assert provider.probe().status == "absent"
    assert provider.inventory() == ()
    assert provider.sample(CostGroup.FAST).gpus == ()


def test_an_output_without_the_figures_gives_none_and_says_so() -> None:
    mac = Mac("ioreg_m1_pro_loaded")
    mac.ioreg = mac.ioreg.replace("Device Utilization", "Another").replace("Alloc system", "Other")
    provider = mac.provider()
    provider.probe()
    (now,) = provider.sample(CostGroup.FAST).gpus
    assert (now.utilization_ratio, now.shared_used_bytes) == (None, None)
    assert now.unavailable["utilization_ratio"] == "not_reported"


def test_a_program_that_fails_or_is_not_there_is_a_reason_and_no_error() -> None:
    def missing(_command: Sequence[str]) -> str:
        raise FileNotFoundError(2, "No such file or directory")

    state = AppleProvider(missing, lambda: GIB).probe()
    assert (state.status, state.reason) == ("degraded", "not_present")
    with pytest.raises(Unreadable, match="driver_error: /bin/false ended with status 1"):
        tools.run_tool(["/bin/false"])
    assert tools.run_tool(["/bin/echo", "x"]) == "x\n"


def test_a_gpu_that_is_not_listed_any_more_is_lost_and_a_failed_question_is_no_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each answer counts for no time.
    monkeypatch.setattr("obt_agent.hardware.gpu.apple.provider._FRESH_S", 0.0)
    mac = Mac("ioreg_m1_pro_loaded")
    provider = mac.provider()
    provider.probe()
    mac.ioreg = ""
    (gone,) = provider.sample(CostGroup.FAST).gpus
    assert (gone.state, gone.unavailable["utilization_ratio"]) == ("lost", "lost")

    def failing(_command: Sequence[str]) -> str:
        raise Unreadable("driver_error: it ended with status 1")

    monkeypatch.setattr(provider, "_run", failing)
    (unread,) = provider.sample(CostGroup.FAST).gpus
    assert unread.state == "degraded"


def test_the_drivers_own_memory_is_not_taken_for_what_is_in_use() -> None:
    (gpu,) = tools.accelerators(printed("ioreg_m1_pro_loaded"))
    assert gpu.number("In use system memory") == 507_330_560
    assert gpu.number("In use system memory (driver)") == 0


def test_figures_on_lines_of_their_own_are_read_too() -> None:
    (gpu,) = tools.accelerators('+-o AGXX  <class AGXAcceleratorG17X>\n  "Device Utilization %" = 42\n')
    assert gpu.number("Device Utilization %") == 42
