"""GPUs that do not exist read as a GPU would that does what the stand-in does."""

from __future__ import annotations

import pytest

from obt_agent.hardware.provider import CostGroup
from obt_server.demo.fleet import MACHINES
from obt_server.demo.scripted_gpus import (
    GIB,
    GpuScript,
    ScriptedGpus,
    StandInLoad,
    as_json,
    load_of,
    read_scripts,
)
from obt_standin import StandIn

CARD = GpuScript(memory_gib=24, idle_watts=20, limit_watts=320, idle_celsius=35, busy_celsius=75)


class Bench:
    """Two GPUs, a clock that the test moves, and a load that it sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.load = StandInLoad()
        self.gpus = ScriptedGpus([CARD, CARD], lambda: self.load, clock=lambda: self.now)

    def after(self, seconds: float) -> float:
        """Let time pass; the first GPU's share of use."""
        self.now += seconds
        return self.read("utilization_ratio")

    def read(self, field: str) -> float:
        """What the first GPU reads now."""
        value = getattr(self.gpus.sample(CostGroup.FAST).gpus[0], field)
        assert value is not None
        return float(value)


def test_each_says_in_its_name_that_it_is_scripted() -> None:
    bench = Bench()
    assert [gpu.name for gpu in bench.gpus.inventory()] == ["Scripted GPU, 24 GiB"] * 2
    assert len({gpu.id for gpu in bench.gpus.inventory()}) == 2
    state = bench.gpus.probe()
    assert (state.status, state.verified) == ("ok", False)
    assert "does not exist" in (state.reason or "")


def test_readings_follow_the_load() -> None:
    bench = Bench()
    assert bench.after(1) < 0.05
    assert bench.read("power_watts") < 40
    cool = bench.read("temperature_celsius")
    bench.load = StandInLoad(generating=1, size_vram=8 * GIB)
    assert bench.after(3) > 0.9
    assert bench.read("power_watts") > 280
    bench.after(60)
    assert bench.read("temperature_celsius") > cool + 30
    bench.load = StandInLoad()
    assert bench.after(3) < 0.05
    bench.after(300)
    assert bench.read("temperature_celsius") == cool


def test_loaded_models_are_shared_among_the_gpus_and_never_more_than_they_hold() -> None:
    bench = Bench()
    empty = bench.read("memory_used_bytes")
    bench.load = StandInLoad(size_vram=8 * GIB)
    assert bench.read("memory_used_bytes") == empty + 4 * GIB
    bench.load = StandInLoad(size_vram=800 * GIB)
    assert bench.read("memory_used_bytes") == 24 * GIB


def test_the_energy_counter_is_the_power_over_time() -> None:
    bench = Bench()
    bench.load = StandInLoad(generating=1)
    bench.after(10)
    before = bench.gpus.energy()["scripted-gpu-0"]
    for _ in range(100):
        bench.after(0.1)
    watts = (bench.gpus.energy()["scripted-gpu-0"] - before) / 10
    assert watts == pytest.approx(bench.read("power_watts"), rel=0.05)


async def test_a_stand_in_that_is_gone_does_nothing() -> None:
    async with StandIn() as standin:
        gone = standin.url
    assert load_of(gone) == StandInLoad()


def test_gpus_come_through_their_file_as_they_are() -> None:
    for machine in MACHINES:
        assert read_scripts(as_json(machine.gpus)) == machine.gpus


def test_two_of_the_demonstrations_machines_have_gpus() -> None:
    assert sum(bool(machine.gpus) for machine in MACHINES) == 2
