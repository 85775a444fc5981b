"""Whole runs against the stand-in: what is sent, what is measured, and that its log of bytes agrees."""

import statistics as stdlib
import time
from itertools import pairwise

import msgspec
import pytest

from obt_agent.benchmark.plan import Plan, PlanHardware, PromptConfig, Sweep
from obt_agent.benchmark.run_state import Flow
from obt_agent.ollama.stream import Line
from obt_standin import Behaviour, Script, Stall, StandIn
from tests.benchmark.runs import (
    bench,
    body_of,
    generations,
    plan,
    result_of,
)


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


async def test_memory_is_not_known_when_the_model_was_there_before(standin: StandIn) -> None:
    async with bench(standin, plan(num_iterations=1)) as one:
        await one.run._state.ollama.load("standin-small")  # noqa: SLF001 - another program's load
        metrics = (await one.run.execute()).metrics[0]
    assert metrics.memory_peak_mb == 1024
    for field in ("memory_usage_mb", "memory_delta_mb", "prompt_cache_growth_mb"):
        assert getattr(metrics, field) is None
        assert "loaded before" in metrics.unavailable[field]


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
    standin.script.decode_tps = 30
    result = await result_of(standin, plan(num_iterations=3, sweep=Sweep(concurrency=(2,))))
    exchanges = generations(standin)[-6:]
    for at, one in enumerate(result.metrics):
        first, last = sorted(exchanges[2 * at : 2 * at + 2], key=lambda each: each.writes[0][0])
        assert one.queue_ms_max == max(each.unaccounted_ms or 0 for each in one.requests)
        assert one.queue_ms_max >= (first.writes[-1][0] - last.began_ns) / 1e6
    # A late turn of a busy machine before the first of two was served looks like saving a prompt, which is no
    # queue: not in all three.
    queued = [one.index for one in result.metrics if "queued" in one.flags]
    assert queued
    assert [each.iterations for each in result.warnings if each.code == "queued"] == [tuple(queued)]


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
        state.flow = Flow(active=True)
        state.flow.add(time.monotonic_ns(), [Line(at * 1000, b"") for at in range(0, 70, 10)])
        assert state.live_speed == pytest.approx(400.0, rel=0.1)
