"""Whole runs against the stand-in: what is sent, what is measured, and that its log of bytes agrees."""

import asyncio
import dataclasses
import statistics as stdlib
import time
from itertools import pairwise

import msgspec
import pytest

from obt_agent.benchmark.plan import Plan, PlanHardware, PromptConfig, Sweep
from obt_agent.benchmark.records import IterationRecord, Record, WarmupRecord
from obt_agent.config.schema import HardwareConfig
from obt_agent.hardware.service import HardwareService
from obt_agent.ollama.stream import Line
from obt_standin import Behaviour, Script, Stall, StandIn
from tests.benchmark.runs import (
    QUICK,
    FakeMachine,
    Hooked,
    bench,
    body_of,
    flags_of,
    generations,
    now,
    plan,
    result_of,
    until_phase,
)
from tests.benchmark.samples import gpu


async def test_a_plan_of_three_iterations_gives_three_measured_ones(standin: StandIn) -> None:
    result = await result_of(standin)
    assert result.status == "completed"
    assert result.error is None
    assert [one.index for one in result.metrics] == [0, 1, 2]
    assert all(one.completion_tokens == 12 for one in result.metrics)
    assert result.summary["first_token_ms"].n == 3
    assert result.cells[0].stopping.reason == "fixed"
    assert result.id == result.benchmark_id == "job-1"
    assert result.environment.model == "standin-small:latest"
    assert result.environment.quantization == "Q4_K_M"
    assert result.environment.gpu_offload_ratio == 0.0
    assert result.start_time <= result.end_time
    assert result.unavailable == {"cold_load": "the plan did not ask for it"}


async def test_stamps_follow_the_stand_ins_log_of_written_bytes(standin: StandIn) -> None:
    standin.script.decode_tps = 400
    standin.script.prefill_tps = 2000
    result = await result_of(standin, plan(num_iterations=2))
    for one, exchange in zip(result.metrics, generations(standin)[-2:], strict=True):
        assert one.first_token_ms is not None
        assert one.total_duration_ms is not None
        began, writes = exchange.began_ns, exchange.writes
        first, last, final = ((writes[at][0] - began) / 1e6 for at in (0, -2, -1))
        # The request was sent before the stand-in had it, and bytes arrive after they were written. From that
        # follow bounds that hold on any machine; how near the figures are is printed by make bench.
        assert one.first_token_ms >= first
        assert one.total_duration_ms >= final
        if one.average_token_ms is None:  # on a busy machine all lines may come in one piece
            assert "arrive apart" in one.unavailable["average_token_ms"]
            continue
        decoding = 11 * one.average_token_ms
        assert last - one.first_token_ms <= decoding + 0.01
        assert decoding <= one.total_duration_ms - one.first_token_ms + 0.01


async def test_every_prompt_is_new_from_its_first_word_and_raw(standin: StandIn) -> None:
    await result_of(standin)
    bodies = [body_of(one) for one in generations(standin)]
    assert len(bodies) == 5
    openings = [body["prompt"].split()[0] for body in bodies]
    assert len(set(openings)) == 5
    assert all(body["raw"] is True for body in bodies)
    assert all(one.cached_tokens == 0 for one in generations(standin))
    assert {body["options"]["num_ctx"] for body in bodies} == {4096}
    assert {body["options"]["num_predict"] for body in bodies} == {12}


NO_FIGURES = {
    "done_reason",
    "excluded",
    "gpu_memory_method",
    "power_scope",
    "energy_method",
}


@pytest.mark.parametrize(
    "of",
    [
        plan(num_iterations=2, alternate_sampling=True),
        plan(num_iterations=1, prompt_config=PromptConfig(prompt_tokens=40, completion_tokens=1)),
        plan(num_iterations=1, sweep=Sweep(concurrency=(2,))),
        plan(num_iterations=1, cache_mode="warm"),
    ],
    ids=["sampled and not", "one token", "two at once", "cached"],
)
async def test_whatever_is_null_has_its_reason(standin: StandIn, of: Plan) -> None:
    result = await result_of(standin, of)
    assert result.status == "completed"
    for one in [*result.metrics, *(request for each in result.metrics for request in each.requests)]:
        null = {name for name in one.__struct_fields__ if getattr(one, name) is None} - NO_FIGURES
        assert null - one.unavailable.keys() == set()
        assert all(one.unavailable.values())
        assert {name for name in one.unavailable if getattr(one, name) is not None} == set()


async def test_memory_has_no_baseline_when_the_model_was_there_before(standin: StandIn) -> None:
    async with bench(standin, plan(num_iterations=1)) as one:
        await one.run._state.ollama.load("standin-small")  # noqa: SLF001 - another program's load
        metrics = (await one.run.execute()).metrics[0]
    assert metrics.memory_usage_mb is not None
    assert metrics.memory_delta_mb is None
    assert "loaded before" in metrics.unavailable["memory_delta_mb"]


async def test_options_of_the_plan_reach_ollama(standin: StandIn) -> None:
    given = plan(
        prompt_config=PromptConfig(prompt_name="code", completion_tokens=12),
        temperature=0.2,
        top_p=0.5,
        top_k=7,
        repeat_penalty=1.3,
        seed=5,
        num_ctx=2048,
        num_thread=2,
        think=False,
        keep_alive="3m",
        hardware=PlanHardware(use_gpu=False, gpu_id=1),
    )
    await result_of(standin, given)
    body = body_of(generations(standin)[-1])
    assert body["options"] == {
        "num_ctx": 2048,
        "temperature": 0.2,
        "top_p": 0.5,
        "top_k": 7,
        "repeat_penalty": 1.3,
        "seed": 5,
        "num_gpu": 0,
        "main_gpu": 1,
        "num_thread": 2,
        "num_predict": 12,
    }
    assert (body["think"], body["keep_alive"]) == (False, "3m")
    assert "raw" not in body


async def test_warm_ups_calibrate_the_prompts_length(standin: StandIn) -> None:
    wanted = PromptConfig(prompt_tokens=300, completion_tokens=12)
    result = await result_of(standin, plan(prompt_config=wanted, warmup_iterations=None))
    assert 2 <= len(result.warmups) <= 4
    assert result.warmups[0].words != result.warmups[-1].words
    for one in result.metrics:
        assert one.prompt_tokens == pytest.approx(300, abs=8)
        assert "prompt_length_off" not in one.flags


async def test_without_warm_ups_a_missed_length_is_flagged(standin: StandIn) -> None:
    standin.script.prompt_tokens = 60
    wanted = PromptConfig(prompt_tokens=300, completion_tokens=12)
    result = await result_of(standin, plan(prompt_config=wanted, warmup_iterations=0))
    assert result.warmups == ()
    assert all("prompt_length_off" in one.flags for one in result.metrics)
    assert [one.code for one in result.warnings].count("prompt_length_off") == 1


async def test_the_wrong_ways_are_off_on_the_same_run() -> None:
    truth = 500.0
    script = Script(decode_tps=truth, prefill_tps=5000.0, text=(" several words in one token",))
    async with StandIn(script) as standin:
        result = await result_of(standin, plan(cache_mode="pair", num_iterations=2))
        last = generations(standin)[-1]
    busted = [one for one in result.metrics if one.cache_state == "bust"]
    warm = [one for one in result.metrics if one.cache_state == "warm"]
    for one in busted:
        assert one.tokens_per_second == pytest.approx(truth * 12 / 11)  # n/(n-1)
        assert one.prefill_tps == pytest.approx(5000, rel=0.01)
    final = msgspec.json.decode(last.writes[-1][1])
    assert final["prompt_eval_count"] == warm[-1].prompt_tokens
    naive = final["prompt_eval_count"] / final["prompt_eval_duration"] * 1e9
    assert naive > 5000 * 5  # the cached prompt
    assert warm[-1].prefill_tps is None
    text = "".join(msgspec.json.decode(data)["response"] for _, data in last.writes)
    assert len(text.split()) == 5 * 12  # words for tokens


async def test_pairs_run_each_prompt_uncached_and_cached_and_summarise_apart(standin: StandIn) -> None:
    standin.script.prefill_tps = 4000
    result = await result_of(standin, plan(cache_mode="pair"))
    assert [one.cache_state for one in result.metrics] == ["bust", "warm"] * 3
    for cold, warm in pairwise(result.metrics[:2]):
        assert cold.prompt_sha256 == warm.prompt_sha256
    cell = result.cells[0]
    assert cell.summary["first_token_ms"].n == cell.summary_warm["first_token_ms"].n == 3
    assert "prefill_tps" not in cell.summary_warm
    assert [one.cached_tokens > 0 for one in generations(standin)[2:]] == [False, True] * 3


async def test_warm_repeats_one_prompt(standin: StandIn) -> None:
    result = await result_of(standin, plan(cache_mode="warm"))
    assert {one.cache_state for one in result.metrics} == {"warm"}
    assert len({one.prompt_sha256 for one in result.metrics}) == 1
    assert result.summary["first_token_ms"].n == 3


async def test_a_cold_load_is_timed_by_the_wall_after_ollama_lists_nothing(standin: StandIn) -> None:
    standin.script.load_s = 0.15
    result = await result_of(standin, plan(cold_load=True))
    assert result.cold_load is not None
    assert result.cold_load.wall_ms >= 150
    assert result.cold_load.page_cache == "unknown"
    again = await result_of(standin, plan(cold_load=True))
    assert again.cold_load is not None
    assert again.cold_load.unload_ms is None  # the first run had unloaded what it loaded


async def test_a_model_that_was_loaded_before_is_unloaded_for_the_cold_load_and_stays_at_the_end(
    standin: StandIn,
) -> None:
    async with bench(standin, plan(cold_load=True)) as one:
        await one.run._state.ollama.load("standin-small")  # noqa: SLF001 - another program's load
        result = await one.run.execute()
        assert result.cold_load is not None
        assert result.cold_load.unload_ms is not None
        assert result.cold_load.page_cache == "warm"
        running = await one.run._state.ollama.running()  # noqa: SLF001 - to look
        assert [model.name for model in running.models] == ["standin-small:latest"]


async def test_what_the_run_loaded_it_unloads(standin: StandIn) -> None:
    async with bench(standin) as one:
        await one.run.execute()
        assert (await one.run._state.ollama.running()).models == ()  # noqa: SLF001 - to look
    assert standin.open_streams == 0


async def test_adaptive_iterations_go_on_until_the_interval_is_narrow(standin: StandIn) -> None:
    standin.script.decode_tps = 1000
    wide = plan(num_iterations=2, max_iterations=6, target_ci=1e-9)
    result = await result_of(standin, wide)
    assert result.cells[0].stopping.reason == "max_iterations"
    assert len(result.metrics) == 6
    assert "target_not_met" in [one.code for one in result.warnings]
    # Of five values no interval is wider than this, however much a busy machine scatters them.
    narrow = plan(num_iterations=5, max_iterations=6, target_ci=10.0)
    result = await result_of(standin, narrow)
    assert result.cells[0].stopping.reason == "target_met"
    assert len(result.metrics) == 5
    assert result.cells[0].stopping.target_ci == 10.0


async def test_a_cell_goes_on_until_enough_seconds_were_measured(standin: StandIn) -> None:
    long = plan(num_iterations=2, max_iterations=5, target_ci=10.0, min_duration_s=3600)
    result = await result_of(standin, long)
    assert len(result.metrics) == 5


async def test_a_sweep_has_a_summary_for_each_cell_and_none_over_all(standin: StandIn) -> None:
    swept = plan(
        num_iterations=2, sweep=Sweep(prompt_tokens=(30, 60), num_ctx=(2048, 4096)), warmup_iterations=1
    )
    result = await result_of(standin, swept)
    assert len(result.cells) == 4
    assert result.summary == {}
    assert "several cells" in result.unavailable["summary"]
    assert all(cell.summary["first_token_ms"].n == 2 for cell in result.cells)
    assert [one.num_ctx for one in result.metrics] == [2048] * 4 + [4096] * 4


async def test_concurrent_requests_are_reported_one_by_one_and_together(standin: StandIn) -> None:
    standin.script.num_parallel = 2
    standin.script.decode_tps = 500
    result = await result_of(standin, plan(num_iterations=2, sweep=Sweep(concurrency=(2,))))
    one = result.metrics[0]
    assert len(one.requests) == 2
    assert one.completion_tokens == 24
    assert one.total_duration_ms is not None
    assert one.output_tps_total == pytest.approx(24_000 / one.total_duration_ms)
    assert one.first_token_ms == pytest.approx(stdlib.mean(each.first_token_ms or 0 for each in one.requests))
    assert one.inter_chunk_ms is None
    assert len({body_of(each)["prompt"].split()[0] for each in generations(standin)}) == 8


async def test_waiting_for_a_slot_is_reported_as_queueing(standin: StandIn) -> None:
    standin.script.num_parallel = 1
    standin.script.decode_tps = 50
    result = await result_of(standin, plan(num_iterations=2, sweep=Sweep(concurrency=(3,))))
    for one in result.metrics:
        assert "queued" in one.flags
        assert one.queue_ms_max is not None
        waits = sorted(each.unaccounted_ms or 0 for each in one.requests)
        assert waits[-1] == one.queue_ms_max
        assert waits[-1] > 2 * 11 * 20 * 0.9  # two others decode 11 tokens of 20 ms each before
    assert "queued" in [each.code for each in result.warnings]


async def test_thinking_and_answer_have_their_own_first_tokens(standin: StandIn) -> None:
    standin.script.decode_tps = 400
    standin.script.thinking_tokens = 5
    result = await result_of(standin, plan(model_name="standin-think:8b", think=True, raw=False))
    for one in result.metrics:
        assert one.thinking_chars > 0
        assert one.first_token_ms is not None
        assert one.ttft_answer_ms is not None
        assert one.thinking_ms == pytest.approx(one.ttft_answer_ms - one.first_token_ms)
    assert body_of(generations(standin)[-1])["think"] is True


async def test_a_stall_shows_in_the_longest_gap_and_is_not_dropped(standin: StandIn) -> None:
    standin.script.decode_tps = 500
    standin.script.once = [Behaviour(decode_tps=500) for _ in range(4)]
    standin.script.once.append(Behaviour(decode_tps=500, stalls=(Stall(before_token=5, seconds=0.5),)))
    result = await result_of(standin, plan(num_iterations=5))
    stalled = result.metrics[2]
    assert stalled.inter_chunk_ms is not None
    # The two stamps of a gap are the agent's: the one before the stall may be late by a busy machine's wait.
    assert stalled.inter_chunk_ms.max == pytest.approx(500, rel=0.5)
    assert result.summary["tokens_per_second"].n == 5


async def test_lines_of_two_tokens_are_counted_as_ollama_counts(standin: StandIn) -> None:
    standin.script.tokens_per_line = 2
    standin.script.decode_tps = 1000
    result = await result_of(standin)
    for one in result.metrics:
        assert (one.completion_tokens, one.chunks, one.tokens_per_chunk) == (12, 6, 2.0)


async def test_the_live_speed_is_in_tokens_although_a_line_holds_several(standin: StandIn) -> None:
    standin.script.tokens_per_line = 4
    standin.script.decode_tps = 400
    shape = PromptConfig(prompt_tokens=20, completion_tokens=120)
    async with bench(standin, plan(num_iterations=1, prompt_config=shape)) as one:
        state = one.run._state  # noqa: SLF001 - the live speed of an instant is nowhere else to be caught
        assert state.live_speed is None
        await one.run.execute()
        assert state.tokens_per_line == pytest.approx(4.0, rel=0.1)
        state.flow.begin()
        state.flow.add(time.monotonic_ns(), [Line(at * 1000, b"") for at in (0, 10, 20)])
        assert state.live_speed == pytest.approx(400.0, rel=0.1)


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
    assert one.memory_usage_mb == 1024
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


async def test_a_busy_machine_and_other_models_are_said_before_the_run(standin: StandIn) -> None:
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


async def test_the_real_hardware_service_fits_the_seam(standin: StandIn) -> None:
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


async def test_warm_ups_that_never_agree_are_said(standin: StandIn) -> None:
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


async def test_gpu_memory_that_still_moves_is_said(standin: StandIn) -> None:
    moving = [now(gpu(memory_used_bytes=n << 30)) for n in (1, 2)]
    limits = dataclasses.replace(QUICK, settle_s=1, settle_samples=2)
    result = await result_of(standin, machine=FakeMachine(*moving), limits=limits)
    assert "vram_not_settled" in [one.code for one in result.warnings]
