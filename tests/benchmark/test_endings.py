"""Every ending of a run is one result, with the right state and what was measured."""

import asyncio
import dataclasses
import time

import pytest

from obt_agent.benchmark.plan import Plan, PromptConfig, Sweep
from obt_agent.benchmark.records import IterationRecord, Record, WarmupRecord
from obt_agent.benchmark.result import BenchmarkResult, Phase
from obt_agent.errors import StorageFull
from obt_standin import Behaviour, StandIn
from tests.benchmark.runs import (
    QUICK,
    Bench,
    FakeMachine,
    Hooked,
    bench,
    flags_of,
    generations,
    now,
    plan,
    result_of,
    until_phase,
)
from tests.benchmark.samples import gpu

SLOW = plan(prompt_config=PromptConfig(prompt_tokens=40, completion_tokens=2000), cold_load=True)


def codes(result: BenchmarkResult) -> list[str]:
    return [warning.code for warning in result.warnings]


async def test_a_missing_model_says_how_to_get_it(standin: StandIn) -> None:
    result = await result_of(standin, plan(model_name="absent"))
    assert (result.status, result.error_kind, result.metrics) == ("failed", "model_not_found", ())
    assert result.error is not None
    assert "ollama pull absent" in result.error
    assert result.unavailable["summary"] == "no iteration was measured"
    assert result.cells[0].stopping.reason == "failed"


async def test_a_name_that_is_none_is_refused(standin: StandIn) -> None:
    result = await result_of(standin, plan(model_name="a b c"))
    assert (result.status, result.error_kind) == ("failed", "invalid_params")


async def test_a_model_that_runs_elsewhere_is_not_measured_here(standin: StandIn) -> None:
    result = await result_of(standin, plan(model_name="standin-far:cloud"))
    assert (result.status, result.error_kind) == ("failed", "unsupported")


async def test_a_load_that_fails_for_want_of_memory_says_what_to_do(standin: StandIn) -> None:
    standin.script.answer = "load_fails"
    result = await result_of(standin, plan(cold_load=True))
    assert (result.status, result.error_kind) == ("failed", "ollama_error")
    assert result.error is not None
    assert "smaller model" in result.error
    assert result.cold_load is None
    assert result.unavailable["cold_load"] == "the run ended before it"


async def test_memory_that_runs_out_in_mid_run_keeps_what_was_measured(standin: StandIn) -> None:
    oom = Behaviour(ending="error", error="CUDA error: out of memory", ending_after=3)
    standin.script.once = [*[Behaviour()] * 4, oom]
    result = await result_of(standin)
    assert (result.status, result.error_kind) == ("failed", "ollama_error")
    assert result.error is not None
    assert "could not hold the model in memory" in result.error
    assert len(result.metrics) == 2
    assert result.summary["first_token_ms"].n == 2
    assert result.cells[0].stopping.reason == "failed"


async def test_no_ollama_at_all_fails_the_run(standin: StandIn) -> None:
    await standin.stop()
    result = await result_of(standin)
    assert (result.status, result.error_kind) == ("failed", "ollama_unavailable")


async def test_endless_repetition_is_asked_again_three_times_and_then_ends_the_run(standin: StandIn) -> None:
    standin.script.once = [*[Behaviour()] * 3, *[Behaviour(ending="repeat", tokens=80)] * 4]
    long = plan(prompt_config=PromptConfig(prompt_tokens=40, completion_tokens=60))
    result = await result_of(standin, long)
    assert (result.status, result.error_kind) == ("failed", "stream_incomplete")
    assert len(result.metrics) == 1
    assert len(generations(standin)) == 2 + 1 + 4


async def test_endless_repetition_that_passes_is_flagged(standin: StandIn) -> None:
    standin.script.once = [*[Behaviour()] * 2, Behaviour(ending="no_final_line")]
    result = await result_of(standin)
    assert result.status == "completed"
    assert flags_of(result.metrics[0]) == {"repetition_retried"}
    assert result.metrics[0].attempts == 2


async def test_a_short_output_is_measured_again_and_flagged(standin: StandIn) -> None:
    standin.script.once = [*[Behaviour()] * 2, Behaviour(tokens=4)]
    result = await result_of(standin)
    assert flags_of(result.metrics[0]) == {"short_retried"}
    assert result.metrics[0].completion_tokens == 12
    assert "short_retried" in codes(result)


async def test_a_model_that_always_ends_early_is_retried_three_times_once_and_never_padded(
    standin: StandIn,
) -> None:
    standin.script.tokens = 5
    result = await result_of(standin)
    assert result.status == "completed"
    assert [one.attempts for one in result.metrics] == [4, 1, 1]
    assert all("short_output" in one.flags and one.short_output for one in result.metrics)
    assert all((one.completion_tokens or 0) < 12 and one.done_reason == "stop" for one in result.metrics)


async def test_ollama_that_restarts_in_mid_stream_is_waited_for_and_the_iteration_made_again(
    standin: StandIn,
) -> None:
    standin.script.once = [*[Behaviour()] * 3, Behaviour(decode_tps=100)]
    async with bench(standin) as one:
        work = asyncio.create_task(one.run.execute())
        await standin.wait_for(lambda ollama: len(generations(ollama)) == 4)
        await standin.stop()
        await until_phase(one, "waiting")
        await standin.start()
        result = await work
    assert result.status == "completed"
    assert one.run.progress.phase == "reporting"
    assert [flags_of(metric) for metric in result.metrics] == [set(), {"after_restart"}, set()]
    assert "after_restart" in codes(result)


async def test_a_runner_that_is_killed_is_loaded_again_outside_the_measurement(standin: StandIn) -> None:
    standin.script.load_s = 0.2
    standin.script.once = [*[Behaviour()] * 3, Behaviour(ending="runner_killed", ending_after=3)]
    result = await result_of(standin)
    assert result.status == "completed"
    assert flags_of(result.metrics[1]) == {"after_restart"}  # and not reloaded


async def test_a_proxys_page_for_a_restarting_ollama_is_waited_for(standin: StandIn) -> None:
    standin.script.once = [*[Behaviour()] * 3, Behaviour(answer="bad_gateway")]
    result = await result_of(standin)
    assert result.status == "completed", result.error
    assert [flags_of(metric) for metric in result.metrics] == [set(), {"after_restart"}, set()]


async def test_a_cold_load_that_meets_a_proxys_page_is_made_again(standin: StandIn) -> None:
    async with bench(standin, plan(cold_load=True)) as one:
        work = asyncio.create_task(one.run.execute())
        await until_phase(one, "cold_load")
        standin.script.answer = "bad_gateway"
        await until_phase(one, "waiting")
        standin.script.answer = "ollama"
        result = await work
    assert result.status == "completed", result.error
    assert result.cold_load is not None


async def test_ollama_that_stays_away_ends_the_run_with_what_there_was(standin: StandIn) -> None:
    standin.script.once = [*[Behaviour()] * 3, Behaviour(decode_tps=100)]
    limits = dataclasses.replace(QUICK, return_s=0.05, goodbye_s=0.2)
    async with bench(standin, limits=limits) as one:
        work = asyncio.create_task(one.run.execute())
        await standin.wait_for(lambda ollama: len(generations(ollama)) == 4)
        await standin.stop()
        result = await work
    assert result.status == "failed"
    assert result.error_kind in ("stream_incomplete", "ollama_unavailable")
    assert len(result.metrics) == 1


async def test_ollama_that_goes_away_again_and_again_ends_the_run(standin: StandIn) -> None:
    standin.script.once = [*[Behaviour()] * 2, *[Behaviour(ending="cut", ending_after=2)] * 3]
    result = await result_of(standin)
    assert (result.status, result.error_kind) == ("failed", "stream_incomplete")
    assert len(generations(standin)) == 2 + 3


async def test_ollama_that_comes_back_as_another_version_ends_the_run(standin: StandIn) -> None:
    standin.script.once = [*[Behaviour()] * 3, Behaviour(ending="cut", ending_after=2)]

    async def update(record: Record) -> None:
        if isinstance(record, IterationRecord):
            standin.script.version = "0.34.0-standin"

    result = await result_of(standin, journal=Hooked(hook=update))
    assert result.status == "failed"
    assert result.error is not None
    assert "came back as version 0.34.0-standin" in result.error
    assert len(result.metrics) == 1


async def test_a_request_over_its_time_limit_ends_the_run(standin: StandIn) -> None:
    standin.script.once = [*[Behaviour()] * 3, Behaviour(ending="hang", ending_after=3)]
    result = await result_of(standin, plan(timeout_s=5))
    assert (result.status, result.error_kind) == ("failed", "timeout")
    assert result.error is not None
    assert "timeout_s of 5 s" in result.error
    assert len(result.metrics) == 1
    assert standin.open_streams == 0


def nearly_over(one: Bench, iterations: int) -> Hooked:
    """A journal that leaves the run half a second once so many iterations are measured."""

    async def hurry(record: Record) -> None:
        if isinstance(record, IterationRecord) and record.metrics.index + 1 == iterations:
            state = one.run._state  # noqa: SLF001 - its clock is moved, so that nobody waits for an hour
            state.began = time.monotonic() - state.plan.max_duration_s + 0.5

    return Hooked(hook=hurry)


async def ended_by_time(standin: StandIn, of: Plan, iterations: int) -> BenchmarkResult:
    standin.script.once = [*[Behaviour()] * (2 + iterations), Behaviour(ending="hang", ending_after=3)]
    async with bench(standin, of) as one:
        one.run._state.journal = nearly_over(one, iterations)  # noqa: SLF001 - it needs the run that it slows
        return await one.run.execute()


async def test_a_run_over_its_whole_time_ends_with_what_there_was(standin: StandIn) -> None:
    result = await ended_by_time(standin, plan(max_duration_s=3600), 1)
    assert (result.status, result.error_kind) == ("failed", "timeout")
    assert result.cells[0].stopping.reason == "max_duration"
    assert len(result.metrics) == 1


async def test_time_that_is_over_after_the_least_iterations_is_no_failure(standin: StandIn) -> None:
    adaptive = plan(num_iterations=2, max_iterations=50, target_ci=1e-9, max_duration_s=3600)
    result = await ended_by_time(standin, adaptive, 2)
    assert result.status == "completed"
    assert result.cells[0].stopping.reason == "max_duration"
    assert len(result.metrics) == 2


async def test_a_full_disk_ends_the_run_and_loses_nothing_that_was_measured(standin: StandIn) -> None:
    async def full(record: Record) -> None:
        if isinstance(record, IterationRecord) and record.metrics.index == 1:
            raise StorageFull("the disk is full; make room in the state folder")

    result = await result_of(standin, journal=Hooked(hook=full))
    assert (result.status, result.error_kind) == ("failed", "storage_full")
    assert len(result.metrics) == 2


async def test_a_fault_of_the_agent_is_a_result_without_its_details(standin: StandIn) -> None:
    async def broken(record: Record) -> None:
        if isinstance(record, IterationRecord):
            raise ZeroDivisionError("secret /etc/path")

    result = await result_of(standin, journal=Hooked(hook=broken))
    assert (result.status, result.error_kind) == ("failed", "internal")
    assert result.error == "the agent failed inside; its log says more"
    assert len(result.metrics) == 1


async def test_one_of_several_requests_that_fails_ends_the_others(standin: StandIn) -> None:
    standin.script.num_parallel = 3
    standin.script.once = [
        *[Behaviour()] * 3,
        Behaviour(ending="error", error="a fault that stays", ending_after=3),
        *[Behaviour(decode_tps=10)] * 2,
    ]
    result = await result_of(standin, plan(warmup_iterations=1, sweep=Sweep(concurrency=(3,))))
    assert (result.status, result.error_kind) == ("failed", "ollama_error")
    assert standin.open_streams == 0


PHASES: list[Phase] = ["preflight", "cold_load", "warmup", "iteration", "cooldown"]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("cause", ["cancelled", "interrupted"])
async def test_a_run_stopped_in_any_phase_closes_its_streams_and_keeps_what_it_has(
    standin: StandIn, phase: Phase, cause: str
) -> None:
    machine = FakeMachine(now(gpu(temperature_celsius=40.0)))
    wanted = plan(cold_load=True, cooldown_s=60, num_iterations=3)
    standin.script.load_s = 5.0 if phase == "cold_load" else 0.0
    limits = dataclasses.replace(QUICK, settle_samples=5) if phase == "preflight" else QUICK
    if phase == "warmup":
        standin.script.once = [Behaviour(), Behaviour(decode_tps=1)]
    if phase == "iteration":
        standin.script.once = [*[Behaviour()] * 4, Behaviour(decode_tps=1)]

    async def heat(record: Record) -> None:
        if phase == "cooldown" and isinstance(record, IterationRecord):
            await machine.push(now(gpu(temperature_celsius=90.0)))

    async with bench(standin, wanted, machine=machine, journal=Hooked(hook=heat), limits=limits) as one:
        work = asyncio.create_task(one.run.execute())
        await until_phase(one, phase)
        if phase in ("warmup", "iteration"):
            await standin.wait_for(lambda ollama: len(generations(ollama)) >= 1 and ollama.open_streams > 0)
        one.run.stop("cancelled" if cause == "cancelled" else "interrupted")
        result = await work
        await standin.wait_for(lambda ollama: ollama.open_streams == 0)
    assert result.status == cause
    assert result.error_kind == "cancelled"
    assert machine.watching == 0
    assert len(result.metrics) == len([r for r in one.journal.records if isinstance(r, IterationRecord)])
    assert len(result.warmups) == len([r for r in one.journal.records if isinstance(r, WarmupRecord)])
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("benchmark")]


async def test_a_run_stopped_before_it_began_measures_nothing(standin: StandIn) -> None:
    async with bench(standin) as one:
        one.run.stop("cancelled")
        one.run.stop("interrupted")
        result = await one.run.execute()
    assert (result.status, result.metrics) == ("cancelled", ())
    assert not generations(standin)


async def test_the_callers_own_cancellation_closes_the_stream_and_passes_on(standin: StandIn) -> None:
    standin.script.decode_tps = 1
    async with bench(standin) as one:
        work = asyncio.create_task(one.run.execute())
        await standin.wait_for(lambda ollama: len(generations(ollama)) == 1)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        await standin.wait_for(lambda ollama: ollama.open_streams == 0)


async def test_the_result_so_far_can_be_had_at_any_time(standin: StandIn) -> None:
    seen: list[BenchmarkResult] = []
    async with bench(standin) as one:

        async def look(record: Record) -> None:
            if isinstance(record, IterationRecord):
                seen.append(one.run.result_so_far())

        one.journal.__class__ = Hooked
        one.journal.__dict__["hook"] = look
        await one.run.execute()
    assert [len(result.metrics) for result in seen] == [1, 2, 3]
    assert {result.status for result in seen} == {"interrupted"}
