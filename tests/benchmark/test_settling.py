"""Before a run: the wait for a machine that nobody else uses and that has cooled down."""

import asyncio
import dataclasses
import os
from typing import Any, Literal

import msgspec
import pytest

from obt_agent.benchmark.plan import Plan, Settle
from obt_agent.config.schema import HardwareConfig
from obt_agent.hardware.samples import GpuSample, Sample
from obt_agent.hardware.service import HardwareService
from obt_agent.hardware.temperatures import LowestTemperatures
from obt_standin import StandIn
from tests.benchmark.ollama_process import spinning
from tests.benchmark.runs import QUICK, Bench, FakeMachine, bench, generations, now, plan, result_of
from tests.benchmark.samples import gpu, sample

COOL = gpu(utilization_ratio=0.01, temperature_celsius=40.0)


def settling(idle_for_s: float = 10.0, max_wait_s: float = 3600.0, **fields: Any) -> Plan:
    return plan(num_iterations=1, settle=Settle(idle_for_s=idle_for_s, max_wait_s=max_wait_s, **fields))


def later(seconds: float, *gpus: GpuSample, cpu: float = 0.01) -> Sample:
    """A sample of an idle machine from so many seconds on."""
    at = now(*gpus, cpu=cpu)
    return msgspec.structs.replace(at, t_mono_ns=at.t_mono_ns + round(seconds * 1e9))


async def until_waiting(one: Bench, for_what: str) -> None:
    """Wait until the run says that it waits for this."""
    while for_what not in (one.run.progress.waiting_for or ""):  # noqa: ASYNC110 - a run has no event for it
        await asyncio.sleep(0.001)


async def test_a_run_begins_when_the_machine_was_idle_for_as_long_as_the_plan_asks(standin: StandIn) -> None:
    machine = FakeMachine(now(cpu=0.5))
    async with bench(standin, settling(10), machine=machine) as one:
        work = asyncio.create_task(one.run.execute())
        await until_waiting(one, "the CPU to be idle (now 50 % busy, 10 % at most)")
        assert one.run.progress.phase == "settling"
        await machine.push(later(0))
        await until_waiting(one, "the machine to stay idle for 10 s")
        await machine.push(later(9))
        # Work in between: the time counts anew.
        await machine.push(later(9.5, cpu=0.3))
        await until_waiting(one, "the CPU to be idle (now 30 % busy")
        await machine.push(later(15))
        await until_waiting(one, "the machine to stay idle for 10 s")
        await machine.push(later(24))
        assert generations(standin) == []
        await machine.push(later(25.1))
        result = await work
    assert result.status == "completed"
    assert result.settled is not None
    assert result.settled.reached
    assert result.settled.waiting_for is None
    assert "not_settled" not in [warning.code for warning in result.warnings]


async def test_a_busy_gpu_is_waited_for_and_named(standin: StandIn) -> None:
    machine = FakeMachine(now(gpu(utilization_ratio=0.8), cpu=0.01))
    async with bench(standin, settling(0), machine=machine) as one:
        work = asyncio.create_task(one.run.execute())
        await until_waiting(one, "the GPU to be idle (now 80 % busy, 10 % at most)")
        await machine.push(later(0, COOL))
        assert (await work).status == "completed"


async def test_a_hot_machine_cools_down_to_what_it_was_at_rest(standin: StandIn) -> None:
    machine = FakeMachine(now(gpu(utilization_ratio=0.01, temperature_celsius=75.0), cpu=0.01))
    machine.lowest_temperatures.note(now(COOL))
    async with bench(standin, settling(0), machine=machine) as one:
        work = asyncio.create_task(one.run.execute())
        await until_waiting(one, "the GPU to cool down (now 75 °C, 40 °C at rest)")
        await machine.push(later(0, gpu(utilization_ratio=0.01, temperature_celsius=45.0)))
        result = await work
    assert result.environment.gpu_temperature == 45.0


async def test_a_machine_that_stays_busy_is_measured_with_a_warning_that_says_why(standin: StandIn) -> None:
    result = await result_of(standin, settling(10, 0.05), machine=FakeMachine(now(cpu=0.5)))
    assert result.status == "completed"
    assert result.settled is not None
    assert not result.settled.reached
    assert result.settled.waited_s >= 0.05
    (warning,) = (one for one in result.warnings if one.code == "not_settled")
    assert "the CPU to be idle (now 50 % busy" in warning.message


async def test_a_machine_that_stays_busy_ends_the_run_as_busy_where_the_plan_says_so(
    standin: StandIn,
) -> None:
    of = settling(10, 0.05, if_busy="fail")
    result = await result_of(standin, of, machine=FakeMachine(now(cpu=0.5)))
    assert (result.status, result.error_kind) == ("failed", "busy")
    assert "the CPU to be idle" in (result.error or "")
    assert result.settled is not None
    assert result.metrics == ()
    assert generations(standin) == []


@pytest.mark.parametrize("cause", ["cancelled", "interrupted"])
async def test_stopping_ends_the_wait_at_once(
    standin: StandIn, cause: Literal["cancelled", "interrupted"]
) -> None:
    async with bench(standin, settling(), machine=FakeMachine(now(cpu=0.5))) as one:
        work = asyncio.create_task(one.run.execute())
        await until_waiting(one, "the CPU")
        one.run.stop(cause)
        # Without the stop it would wait for an hour; the bench itself ends it after two minutes.
        result = await work
    assert result.status == cause
    assert generations(standin) == []


async def test_a_machine_that_cannot_be_read_is_not_waited_for(standin: StandIn) -> None:
    class Broken(FakeMachine):
        def watch(self, interval_s: float, *, reason: str) -> object:  # type: ignore[override] # it fails
            raise RuntimeError("the driver is gone")

    limits = dataclasses.replace(QUICK, settle_s=0.05)
    result = await result_of(standin, settling(), machine=Broken(), limits=limits)
    assert result.status == "completed"
    assert result.settled is not None
    assert result.settled.waiting_for == "a reading of the machine's load"


@pytest.mark.slow
async def test_a_program_that_keeps_a_core_busy_is_seen_on_a_real_machine(standin: StandIn) -> None:
    hardware = HardwareService(HardwareConfig(min_interval_s=0.2), ollama_url=standin.url)
    await hardware.start()
    try:
        with spinning():
            # A share of one core, on however many there are.
            of = settling(2, 3, cpu_percent=20 / (os.cpu_count() or 1), if_busy="fail")
            result = await result_of(standin, of, machine=hardware)
    finally:
        await hardware.close()
    assert result.error_kind == "busy"
    assert "the CPU to be idle" in (result.error or "")


def test_the_lowest_temperature_is_that_of_the_last_day_and_of_each_sensor() -> None:
    hour, lowest = 3600, LowestTemperatures()
    assert lowest.of("GPU") is None
    for hours, celsius in ((0.1, 30.0), (0.9, 28.0), (5, 60.0), (23, 41.0)):
        lowest.note(sample(hours * hour, gpu(temperature_celsius=celsius)))
    # The GPU sleeps: its sensor is not read, and the CPU's speaks for another part.
    lowest.note(sample(23.5 * hour))
    assert (lowest.of("GPU"), lowest.of("CPU")) == (28.0, 50.0)
    lowest.note(sample(24.1 * hour, gpu(temperature_celsius=45.0)))
    assert lowest.of("GPU") == 41.0
