"""What goes on around a run: contexts, caches and reloads, heat, sampling, and other programs."""

import asyncio
import dataclasses

import pytest

from obt_agent.benchmark.plan import PromptConfig
from obt_agent.benchmark.records import IterationRecord, Record, WarmupRecord
from obt_agent.config.schema import HardwareConfig
from obt_agent.hardware.service import HardwareService
from obt_standin import Behaviour, StandIn
from tests.benchmark.runs import (
    QUICK,
    FakeMachine,
    Hooked,
    bench,
    flags_of,
    now,
    plan,
    result_of,
    until_phase,
)
from tests.benchmark.samples import gpu


async def test_a_clamped_context_is_seen_in_ollamas_list(standin: StandIn) -> None:
    result = await result_of(standin, plan(num_ctx=100_000))
    assert {one.num_ctx for one in result.metrics} == {4096}
    assert all("num_ctx_clamped" in one.flags for one in result.metrics)
    assert "num_ctx_clamped" in [one.code for one in result.warnings]


async def test_a_reload_by_somebody_else_is_flagged_and_left_out_of_the_summary(standin: StandIn) -> None:
    standin.script.load_s = 0.3

    async def meddle(record: Record) -> None:
        if isinstance(record, IterationRecord) and record.metrics.index == 0:
            standin.kill_runner()

    result = await result_of(standin, journal=Hooked(hook=meddle))
    reloaded = [one for one in result.metrics if one.excluded]
    assert [one.index for one in reloaded] == [1]
    assert reloaded[0].excluded == "reloaded"
    assert reloaded[0].load_ms is not None
    assert reloaded[0].load_ms >= 290
    assert len(result.metrics) == 4  # another one was measured in its place
    assert result.summary["first_token_ms"].n == 3


async def test_a_prompt_that_was_cached_after_all_is_suspected(standin: StandIn) -> None:
    slow = Behaviour(prefill_tps=1000)
    standin.script.once = [slow] * 4 + [Behaviour(prefill_tps=50_000)] + [slow] * 2
    result = await result_of(standin, plan(num_iterations=5))
    suspected = [one.index for one in result.metrics if "cached_prompt_suspected" in one.flags]
    assert suspected == [2]


async def test_saving_the_prompt_before_is_in_ttft_and_neither_the_models_nor_a_queue(
    standin: StandIn,
) -> None:
    standin.script.slot_save_s, standin.script.ttft_s = 0.3, 0.05
    saving = await result_of(standin, plan(num_iterations=2))
    standin.script.prompt_cache_limit_mb = 0
    without = await result_of(standin, plan(num_iterations=2))
    for one in saving.metrics:
        assert one.first_token_ms is not None
        assert one.slot_ms is not None
        assert one.first_token_ms > 345
        # More on a loaded machine, where the stand-in and the agent wait for their turns.
        assert 295 < one.slot_ms < one.first_token_ms - 45
        assert one.ttft_excluding_slot_ms == pytest.approx(one.first_token_ms - one.slot_ms)
        assert "queued" not in one.flags
    assert "ttft_excluding_slot_ms" in saving.summary
    # Without the saving nothing is left out, whatever the machine's load adds.
    assert all((one.slot_ms or 0) < 300 for one in without.metrics)


async def test_a_first_line_that_comes_late_is_two_clocks_that_differ(standin: StandIn) -> None:
    standin.script.decode_tps, standin.script.first_line_late_s = 100, 0.1
    longer = PromptConfig(prompt_tokens=40, completion_tokens=40)
    one = (await result_of(standin, plan(num_iterations=1, prompt_config=longer))).metrics[0]
    assert one.decode_tps_corrected is not None
    assert one.decode_tps_by_ollama is not None
    assert one.decode_tps_corrected > 1.15 * one.decode_tps_by_ollama
    assert one.decode_tps_uncertainty == pytest.approx(one.decode_tps_corrected - one.decode_tps_by_ollama)
    assert "clocks_differ" in one.flags


async def test_energy_and_memory_come_from_counters_and_samples(standin: StandIn) -> None:
    machine = FakeMachine(
        now(gpu(power_watts=50.0)),
        energy=[{"GPU-1": 100.0 + n} for n in range(20)],
    )
    result = await result_of(standin, plan(num_iterations=1), machine=machine)
    one = result.metrics[0]
    assert result.environment.idle_watts == 50.0
    assert one.power_usage_watts == 50.0
    assert one.energy_joules is None
    assert "shorter than 5 s" in one.unavailable["energy_joules"]
    assert one.gpu_memory_method == "device_minus_baseline"
    assert one.gpu_memory_usage_mb == 0.0
    assert one.memory_peak_mb == 1024
    assert one.gpu_usage_percent == 90.0
    assert result.sampler is not None
    assert result.sampler.samples == len(result.samples) == 1


class Heater:
    """A machine that is hot after the warm-up."""

    def __init__(self) -> None:
        self.machine = FakeMachine(now(gpu(temperature_celsius=40.0)))

    async def heat(self, record: Record) -> None:
        if isinstance(record, WarmupRecord):
            await self.machine.push(now(gpu(temperature_celsius=90.0)))


async def test_cool_down_waits_for_the_starting_temperature_and_five_degrees(standin: StandIn) -> None:
    heater = Heater()
    wanted = plan(num_iterations=1, cooldown_s=30, warmup_iterations=1)
    async with bench(standin, wanted, machine=heater.machine, journal=Hooked(hook=heater.heat)) as one:
        work = asyncio.create_task(one.run.execute())
        await until_phase(one, "cooldown")
        await heater.machine.push(now(gpu(temperature_celsius=70.0)))
        await heater.machine.push(now(gpu(temperature_celsius=44.0)))
        result = await work
    assert result.metrics[0].cooldown_s > 0
    assert "cooldown_timeout" not in result.metrics[0].flags


async def test_a_machine_that_stays_hot_is_measured_and_flagged(standin: StandIn) -> None:
    heater = Heater()
    result = await result_of(
        standin,
        plan(num_iterations=1, cooldown_s=0.05),
        machine=heater.machine,
        journal=Hooked(hook=heater.heat),
    )
    assert flags_of(result.metrics[0]) == {"cooldown_timeout"}


async def test_alternate_sampling_publishes_what_it_costs(standin: StandIn) -> None:
    machine = FakeMachine()
    result = await result_of(standin, plan(num_iterations=4, alternate_sampling=True), machine=machine)
    assert [one.sampled for one in result.metrics] == [True, False, False, True]
    assert result.metrics[1].cpu_usage_percent is None
    assert "not sampled" in result.metrics[1].unavailable["cpu_usage_percent"]
    assert result.sampler is not None
    assert result.sampler.effect is not None
    assert result.sampler.effect.paired
    assert (result.sampler.effect.n_a, result.sampler.effect.n_b) == (2, 2)
    assert machine.watching == 0


async def test_both_halves_of_a_cache_pair_are_sampled_alike_so_that_equals_compare(standin: StandIn) -> None:
    result = await result_of(
        standin, plan(num_iterations=2, alternate_sampling=True, cache_mode="pair"), machine=FakeMachine()
    )
    assert [(one.cache_state, one.sampled) for one in result.metrics] == [
        ("bust", True),
        ("warm", True),
        ("bust", False),
        ("warm", False),
    ]
    assert result.sampler is not None
    assert result.sampler.effect is not None
    assert result.sampler.effect.n_a == 2


async def test_a_busy_machine_and_other_models_are_warned_of_before_the_run(standin: StandIn) -> None:
    async with bench(standin, machine=FakeMachine(now(gpu(utilization_ratio=0.7), cpu=0.8))) as one:
        await one.run._state.ollama.load("standin-think:8b")  # noqa: SLF001 - another program's load
        result = await one.run.execute()
    codes = {warning.code for warning in result.warnings}
    assert codes >= {"cpu_busy", "gpu_busy", "other_models_loaded"}
    assert result.environment.other_models_loaded == ("standin-think:8b",)
    assert all(warning.action for warning in result.warnings)


async def test_progress_names_phase_iteration_speed_and_what_is_left(standin: StandIn) -> None:
    standin.script.decode_tps = 300
    async with bench(
        standin, plan(prompt_config=PromptConfig(prompt_tokens=20, completion_tokens=60))
    ) as one:
        await one.run.execute()
    phases = [progress.phase for progress in one.progress]
    assert phases[0] == "preflight"
    measuring = [progress for progress in one.progress if progress.phase == "iteration"]
    assert measuring
    assert all(progress.iterations_planned == 3 for progress in one.progress)
    assert any(progress.remaining_s for progress in measuring)
    assert any(progress.tokens_per_second and progress.first_token_ms for progress in measuring)
    assert measuring[0].cpu_utilization_ratio == 0.5


async def test_the_live_series_backfills_and_ends_with_the_run(standin: StandIn) -> None:
    async with bench(standin, machine=FakeMachine(now(), now(), now())) as one:
        await one.run.execute()
        assert [sample.n async for sample in one.run.live.subscribe(0)] == [1, 2]
        assert [sample.n async for sample in one.run.live.subscribe(None)] == []
        assert [sample.n async for sample in one.run.live.subscribe(2)] == []


async def test_a_reader_of_the_series_before_a_restart_gets_all_of_the_new_one(standin: StandIn) -> None:
    async with bench(standin, machine=FakeMachine(now(), now(), now())) as one:
        await one.run.execute()
        assert [sample.n async for sample in one.run.live.subscribe(500)] == [0, 1, 2]


async def test_the_real_hardware_service_serves_a_run(standin: StandIn) -> None:
    hardware = HardwareService(HardwareConfig(), ollama_url=standin.url)
    await hardware.start()
    try:
        result = await result_of(standin, machine=hardware)
    finally:
        await hardware.close()
    assert result.status == "completed"
    assert result.hardware is not None
    assert result.hardware.fingerprint == result.environment.hardware_fingerprint
    assert result.samples


async def test_a_machine_whose_readings_fail_ends_no_benchmark(standin: StandIn) -> None:
    class Broken(FakeMachine):
        async def inventory(self, *, refresh: bool = False) -> object:  # type: ignore[override] # it fails
            raise RuntimeError("the driver is gone")

        def watch(self, interval_s: float, *, reason: str) -> object:  # type: ignore[override] # it fails
            raise RuntimeError("the driver is gone")

    result = await result_of(standin, machine=Broken(), limits=dataclasses.replace(QUICK, settle_s=3600))
    assert result.status == "completed"
    assert result.unavailable["hardware"] == "the inventory could not be read"
    assert result.metrics[0].unavailable["cpu_usage_percent"] == "no sample has it"


async def test_warm_ups_that_never_agree_are_warned_of(standin: StandIn) -> None:
    standin.script.once = [Behaviour(decode_tps=rate) for rate in (20, 40, 80, 160)]
    result = await result_of(standin, plan(num_iterations=1, warmup_iterations=None))
    assert len(result.warmups) == 4
    assert "warmup_unstable" in [one.code for one in result.warnings]


async def test_a_cell_whose_every_iteration_is_spoilt_ends_all_the_same(standin: StandIn) -> None:
    standin.script.load_s = 0.15

    async def meddle(record: Record) -> None:
        if isinstance(record, IterationRecord) or (
            isinstance(record, WarmupRecord) and record.warmup.index == 1
        ):
            standin.kill_runner()

    result = await result_of(standin, plan(num_iterations=2), journal=Hooked(hook=meddle))
    assert {one.excluded for one in result.metrics} == {"reloaded"}
    assert len(result.metrics) == 4
    assert result.cells[0].stopping.reason == "max_iterations"
    assert (result.status, result.error_kind) == ("failed", "unsupported")


async def test_gpu_memory_that_still_moves_is_warned_of(standin: StandIn) -> None:
    moving = [now(gpu(memory_used_bytes=n << 30)) for n in (1, 2)]
    limits = dataclasses.replace(QUICK, settle_s=1, settle_samples=2)
    result = await result_of(standin, machine=FakeMachine(*moving), limits=limits)
    assert "vram_not_settled" in [one.code for one in result.warnings]
