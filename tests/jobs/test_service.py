"""The job service: queue, repeats, cancellation at any instant, restarts, progress, questions."""

import asyncio
import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from obt_agent.benchmark.live import LiveSeries
from obt_agent.benchmark.lock import BenchmarkLock
from obt_agent.benchmark.result import ResourceSample
from obt_agent.benchmark.run import BenchmarkRun
from obt_agent.errors import (
    AgentError,
    Busy,
    DeadlineExceeded,
    InvalidParams,
    JobConflict,
    JobNotFound,
    NotPermitted,
    StorageFull,
)
from obt_agent.jobs import GenerationGate
from obt_agent.jobs.benchmarks import BenchmarkExecution
from obt_agent.jobs.runner import LivePoint
from obt_agent.protocol.commands import CreateModelParams, PullModelParams
from obt_agent.protocol.jobs import JobProgressParams
from tests.job_store.doubles import ServerSession
from tests.jobs.doubles import Daemon, Sample, SteeredRunner, benchmark, progress


async def final(daemon: Daemon, job_id: str) -> dict[str, Any]:
    await daemon.until(job_id, "completed", "failed", "cancelled", "interrupted")
    text = await daemon.outbox.result(job_id)
    assert text is not None
    result: dict[str, Any] = msgspec.json.decode(text.text)
    return result


async def test_a_job_is_queued_run_and_its_final_stored(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        started = await daemon.jobs.start_benchmark(benchmark())
        assert (started.job_id, started.state, started.position) == ("j", "queued", 0)
        run = await daemon.runner.run_number(1)
        assert await daemon.state("j") == "running"
        run.end()
        assert await final(daemon, "j") == {"id": "j", "status": "completed"}
        assert daemon.jobs.store.counts.finished_unacknowledged == 1


@pytest.mark.parametrize("kind", ["benchmark", "pull"])
async def test_jobs_of_a_kind_run_one_at_a_time_in_their_order(tmp_path: Path, kind: str) -> None:
    async with Daemon(tmp_path) as daemon:
        for number in range(3):
            job_id = f"j{number}"
            await daemon.jobs.start_benchmark(benchmark(job_id)) if kind == "benchmark" else (
                await daemon.jobs.start_pull(PullModelParams(job_id=job_id, model="x"))
            )
        first = await daemon.runner.run_number(1)
        positions = {job.job_id: job.position for job in await daemon.jobs.unsettled()}
        assert positions == {"j0": None, "j1": 1, "j2": 2}
        first.end()
        (await daemon.runner.run_number(2)).end()
        (await daemon.runner.run_number(3)).end()
        await daemon.until("j2", "completed")
        assert [run.job.job_id for run in daemon.runner.runs] == ["j0", "j1", "j2"]


async def test_benchmarks_and_transfers_wait_for_each_other_only_over_one_model(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        await daemon.jobs.start_pull(PullModelParams(job_id="p", model="Tiny"))
        pull = await daemon.runner.run_number(1)
        await daemon.jobs.start_benchmark(benchmark("same", model_name="tiny:latest"))
        await daemon.jobs.start_benchmark(benchmark("other", model_name="x"))
        (await daemon.runner.run_number(2)).end()
        await daemon.until("other", "completed")
        assert await daemon.state("same") == "queued"
        pull.end()
        # A pull that came later holds up nothing.
        await daemon.jobs.start_pull(PullModelParams(job_id="later", model="tiny"))
        for number in (3, 4):
            await daemon.runner.run_number(number)
        assert [run.job.job_id for run in daemon.runner.runs[:2]] == ["p", "other"]
        assert {run.job.job_id for run in daemon.runner.runs[2:]} == {"same", "later"}
        for run in daemon.runner.runs[2:]:
            run.end()
        await daemon.until("same", "completed")


async def test_a_repeat_starts_nothing_and_other_parameters_conflict(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        await daemon.jobs.start_benchmark(benchmark())
        run = await daemon.runner.run_number(1)
        assert (await daemon.jobs.start_benchmark(benchmark())).state == "running"
        with pytest.raises(JobConflict):
            await daemon.jobs.start_benchmark(benchmark(num_iterations=4))
        with pytest.raises(JobConflict):
            await daemon.jobs.start_pull(PullModelParams(job_id="j", model="tiny"))
        run.end()
        await daemon.until("j", "completed")
        assert (await daemon.jobs.start_benchmark(benchmark(not_after=1.0))).state == "completed"
        assert len(daemon.runner.runs) == 1


async def test_a_start_whose_command_is_cancelled_is_still_taken_in(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        task = asyncio.create_task(daemon.jobs.start_benchmark(benchmark()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (await daemon.runner.run_number(1)).end()
        assert await daemon.until("j", "completed")


async def test_more_open_jobs_than_allowed_are_busy_but_repeats_are_answered(tmp_path: Path) -> None:
    async with Daemon(tmp_path, max_jobs=2) as daemon:
        starts = [daemon.jobs.start_benchmark(benchmark(f"j{n}")) for n in range(5)]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        refused = [error for error in outcomes if isinstance(error, Busy)]
        assert len(refused) == 3
        assert refused[0].detail["policy_key"] == "policy.max_jobs"
        assert (await daemon.jobs.start_benchmark(benchmark("j0"))).job_id == "j0"


@pytest.mark.parametrize(("ahead", "error"), [(-1.0, DeadlineExceeded), (7 * 86_400 + 10, InvalidParams)])
async def test_a_start_too_late_or_too_far_ahead_is_refused(
    tmp_path: Path, ahead: float, error: type[AgentError]
) -> None:
    async with Daemon(tmp_path) as daemon:
        with pytest.raises(error):
            await daemon.jobs.start_benchmark(benchmark(not_after=daemon.now + ahead))
        assert await daemon.outbox.get("j") is None


async def test_the_servers_clock_decides_what_is_late(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        serving = asyncio.create_task(daemon.jobs.report(ServerSession(), server_time=5_000_000.0))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await daemon.jobs.start_benchmark(benchmark(not_after=daemon.now + 100))
        assert (await daemon.jobs.start_benchmark(benchmark(not_after=5_000_100.0))).state == "queued"
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize("step_s", [50 * 365 * 86_400.0, -50 * 365 * 86_400.0])
async def test_a_clock_that_is_set_right_after_the_admission_makes_no_start_late(
    tmp_path: Path, step_s: float
) -> None:
    """A machine without a battery for its clock is admitted in 1970, and then hears the time."""
    async with Daemon(tmp_path) as daemon:
        serving = asyncio.create_task(daemon.jobs.report(ServerSession(), server_time=5_000_000.0))
        await asyncio.sleep(0)
        daemon.now += step_s
        assert (await daemon.jobs.start_benchmark(benchmark(not_after=5_000_100.0))).state == "queued"
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_a_job_whose_turn_comes_too_late_ends_failed(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        await daemon.jobs.start_benchmark(benchmark("first"))
        await daemon.jobs.start_benchmark(benchmark("late", not_after=daemon.now + 100))
        run = await daemon.runner.run_number(1)
        daemon.now += 200
        run.end()
        assert (await final(daemon, "late"))["status"] == "failed"
        job = await daemon.outbox.get("late")
        assert job is not None
        assert job.error is not None
        assert job.error.code == -32006
        assert len(daemon.runner.runs) == 1


async def test_a_queued_job_is_cancelled_at_once_and_never_runs(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        await daemon.jobs.start_benchmark(benchmark("first"))
        await daemon.jobs.start_benchmark(benchmark("second"))
        run = await daemon.runner.run_number(1)
        assert await daemon.jobs.cancel("second") == "cancelled"
        assert (await final(daemon, "second"))["status"] == "cancelled"
        assert await daemon.jobs.cancel("second") == "cancelled"
        run.end()
        await daemon.until("first", "completed")
        assert len(daemon.runner.runs) == 1


async def test_a_running_job_is_cancelled_and_keeps_what_it_had(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        await daemon.jobs.start_benchmark(benchmark())
        await daemon.runner.run_number(1)
        assert await daemon.jobs.cancel("j") == "cancelling"
        assert await daemon.jobs.cancel("j") in ("cancelling", "cancelled")
        assert await final(daemon, "j") == {"id": "j", "status": "cancelled"}


async def test_a_job_that_is_being_cancelled_when_the_agent_stops_does_not_come_back(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.stop_within_s = 60
    async with daemon:
        daemon.runner.deaf = True
        await daemon.jobs.start_benchmark(benchmark())
        await daemon.runner.run_number(1)
        await daemon.outbox.add_record("j", b"measured")
        assert await daemon.jobs.cancel("j") == "cancelling"
    async with Daemon(tmp_path) as after:
        assert await final(after, "j") == {"id": "j", "status": "cancelled", "records": 1}
        assert after.runner.runs == []


async def test_a_run_that_ignores_its_cancellation_is_cut_off(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.stop_within_s = 0.01
    async with daemon:
        daemon.runner.deaf = True
        await daemon.jobs.start_benchmark(benchmark())
        await daemon.runner.run_number(1)
        await daemon.outbox.add_record("j", b"measured")
        await daemon.jobs.cancel("j")
        assert await final(daemon, "j") == {"id": "j", "status": "cancelled", "records": 1}


@pytest.mark.parametrize("turns", range(0, 40, 2))
async def test_a_cancellation_at_any_instant_after_the_start_gives_one_final(
    tmp_path: Path, turns: int
) -> None:
    async with Daemon(tmp_path) as daemon:
        starting = asyncio.create_task(daemon.jobs.start_benchmark(benchmark()))
        for _ in range(turns):
            await asyncio.sleep(0.0005 if turns > 20 else 0)
        shown = await daemon.jobs.cancel("j")
        await starting
        assert shown in ("unknown", "cancelling", "cancelled")
        assert (await final(daemon, "j"))["status"] == "cancelled"
        assert daemon.jobs.store.counts.open == 0


async def test_a_job_cancelled_while_it_is_being_started_never_executes(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        start = daemon.outbox.start

        async def start_and_cancel(job_id: str) -> None:
            await start(job_id)
            assert await daemon.jobs.cancel(job_id) == "cancelling"

        daemon.outbox.start = start_and_cancel  # type: ignore[method-assign]  # the instant that is hard to hit
        await daemon.jobs.start_benchmark(benchmark())
        assert (await final(daemon, "j"))["status"] == "cancelled"
        assert not any(run.closed for run in daemon.runner.runs)


async def test_an_unknown_job_that_was_cancelled_does_not_run_when_it_comes_late(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        assert await daemon.jobs.cancel("j") == "unknown"
    async with Daemon(tmp_path) as daemon:
        started = await daemon.jobs.start_benchmark(benchmark())
        assert started.state == "cancelled"
        assert (await final(daemon, "j"))["status"] == "cancelled"
        assert daemon.runner.runs == []


@pytest.mark.parametrize("kind", [AgentError("known"), RuntimeError("the canary in /etc/shadow")])
async def test_a_run_that_raises_ends_failed_and_the_next_one_runs(tmp_path: Path, kind: Exception) -> None:
    async with Daemon(tmp_path) as daemon:
        await daemon.jobs.start_benchmark(benchmark("bad"))
        await daemon.jobs.start_benchmark(benchmark("good"))
        run = await daemon.runner.run_number(1)
        await daemon.outbox.add_record("bad", b"measured")
        run.end(kind)
        assert await final(daemon, "bad") == {"id": "bad", "status": "failed", "records": 1}
        job = await daemon.outbox.get("bad")
        assert job is not None
        assert job.error is not None
        assert "canary" not in job.error.message
        (await daemon.runner.run_number(2)).end()
        await daemon.until("good", "completed")


async def test_a_job_that_the_owner_no_longer_allows_ends_failed_with_the_key(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        daemon.runner.refuses = NotPermitted("no longer", policy_key="policy.models.deny")
        await daemon.jobs.start_benchmark(benchmark())
        await daemon.until("j", "failed")
        job = await daemon.outbox.get("j")
        assert job is not None
        assert job.error is not None
        assert job.error.data is not None
        assert job.error.data.detail == {"policy_key": "policy.models.deny"}


async def test_stopping_the_agent_is_a_checkpoint_and_the_next_one_goes_on(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        await daemon.jobs.start_benchmark(benchmark("j"))
        await daemon.jobs.start_benchmark(benchmark("k"))
        run = await daemon.runner.run_number(1)
        await daemon.outbox.add_record("j", b"one")
    assert run.closed
    async with Daemon(tmp_path) as daemon:
        run = await daemon.runner.run_number(1)
        assert run.job.job_id == "j"
        stored = await daemon.outbox.get("j")
        assert stored is not None
        assert stored.starts == 2
        assert daemon.runner.records == [[b"one"]]
        run.end()
        (await daemon.runner.run_number(2)).end()
        assert (await final(daemon, "j"))["status"] == (await final(daemon, "k"))["status"] == "completed"


async def test_a_job_that_takes_the_agent_down_again_and_again_ends_interrupted(tmp_path: Path) -> None:
    for _ in range(3):
        async with Daemon(tmp_path) as daemon:
            if await daemon.outbox.get("j") is None:
                await daemon.jobs.start_benchmark(benchmark("j"))
            await daemon.runner.run_number(1)
            await daemon.outbox.add_record("j", b"x")
    async with Daemon(tmp_path) as daemon:
        assert await final(daemon, "j") == {"id": "j", "status": "interrupted", "records": 3}
        assert daemon.runner.runs == []


async def test_a_final_that_finds_no_room_is_tried_until_it_is_stored(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        await daemon.jobs.start_benchmark(benchmark())
        run = await daemon.runner.run_number(1)
        finish, refusals = daemon.outbox.finish, 3

        async def full(*args: Any, **named: Any) -> bool:
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise StorageFull("the disk is full")
            return await finish(*args, **named)

        daemon.outbox.finish = full  # type: ignore[method-assign]  # a disk that is full for a while
        run.end()
        assert (await final(daemon, "j"))["status"] == "completed"
        assert refusals == 0


async def test_in_quiet_hours_benchmarks_wait_and_pulls_do_not(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, quiet_hours=["22:00-07:00"])
    clock = {"now": dt.datetime(2026, 3, 4, 23, 0, tzinfo=dt.UTC)}
    daemon.local_time = lambda: clock["now"]
    async with daemon:
        await daemon.jobs.start_benchmark(benchmark("b"))
        await daemon.jobs.start_pull(PullModelParams(job_id="p", model="x"))
        run = await daemon.runner.run_number(1)
        assert run.job.job_id == "p"
        run.end()
        await daemon.until("p", "completed")
        assert await daemon.state("b") == "queued"
        clock["now"] = dt.datetime(2026, 3, 5, 7, 0, tzinfo=dt.UTC)
        await daemon.jobs.start_pull(PullModelParams(job_id="q", model="x"))  # something that wakes the queue
        for number in (2, 3):
            await daemon.runner.run_number(number)
        assert {run.job.job_id for run in daemon.runner.runs[1:]} == {"b", "q"}


async def test_a_short_rest_of_quiet_hours_is_waited_out(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, quiet_hours=["22:00-07:00"])
    times = [
        dt.datetime(2026, 3, 5, 6, 59, 59, 990_000, tzinfo=dt.UTC),
        dt.datetime(2026, 3, 5, 7, 0, tzinfo=dt.UTC),
    ]
    asked = []

    def local_time() -> dt.datetime:
        asked.append(1)
        return times[0] if len(asked) < 3 else times[1]

    daemon.local_time = local_time
    async with daemon:
        await daemon.jobs.start_benchmark(benchmark("b"))
        assert (await daemon.runner.run_number(1)).job.job_id == "b"


async def test_status_tells_progress_and_results_so_far_and_after_the_end(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        with pytest.raises(JobNotFound):
            await daemon.jobs.status("j")
        await daemon.jobs.cancel("marked")
        with pytest.raises(JobNotFound):
            await daemon.jobs.status("marked")
        await daemon.jobs.start_benchmark(benchmark())
        run = await daemon.runner.run_number(1)
        assert (await daemon.jobs.status("j")).result is None
        run.on_progress(progress("iteration", 2))
        await daemon.outbox.add_record("j", b"x")
        status = await daemon.jobs.status("j")
        assert status.job.progress == progress("iteration", 2)
        assert msgspec.json.decode(status.result) == {"id": "j", "status": "interrupted", "records": 1}
        assert (await daemon.jobs.status("j", include_result=False)).result is None
        run.end()
        await daemon.until("j", "completed")
        status = await daemon.jobs.status("j")
        assert (status.job.state, status.job.progress) == ("completed", None)
        assert msgspec.json.decode(status.result) == {"id": "j", "status": "completed"}
    async with Daemon(tmp_path) as daemon:
        assert (await daemon.jobs.status("j")).job.state == "completed", "also after a restart"
        peer = ServerSession()
        serving = asyncio.create_task(daemon.jobs.report(peer, None))
        assert await daemon.jobs.uploader.drain(20)
        assert (await daemon.jobs.status("j")).result is None, "the server has it"
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_progress_goes_to_the_session_and_what_is_too_quick_is_left_out(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        peer = ServerSession()
        serving = asyncio.create_task(daemon.jobs.report(peer, None))
        await daemon.jobs.start_benchmark(benchmark())
        run = await daemon.runner.run_number(1)
        for number in range(1, 200):
            run.on_progress(progress("iteration", number))
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            while not peer.progress or peer.progress[-1].progress.iteration != 199:
                peer.progressed.clear()
                await peer.progressed.wait()
        assert len(peer.progress) < 50, "of 199"
        assert {(p.job_id, p.state) for p in peer.progress} == {("j", "running")}
        run.end()
        async with asyncio.timeout(20):
            while "j" not in peer.results:
                await daemon.jobs.store.wait_changed(daemon.jobs.store.generation)
        peer.alive = False
        await daemon.jobs.start_benchmark(benchmark("k"))
        (await daemon.runner.run_number(2)).on_progress(progress("iteration", 1))
        async with asyncio.timeout(20):
            await serving


async def test_those_who_wait_are_told_for_what_and_how_many_are_before_them(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        peer = ServerSession()
        serving = asyncio.create_task(daemon.jobs.report(peer, None))
        await daemon.jobs.start_benchmark(benchmark("a", model_name="large:70b"))
        first = await daemon.runner.run_number(1)
        await daemon.jobs.start_benchmark(benchmark("b"))
        await daemon.jobs.start_benchmark(benchmark("c"))

        async def progress_is(job_id: str, state: str, **fields: object) -> None:
            def match(one: JobProgressParams) -> bool:
                shown = {name: getattr(one.progress, name) for name in fields}
                return (one.job_id, one.state, shown) == (job_id, state, fields)

            async with asyncio.timeout(20):
                while not any(match(one) for one in peer.progress):
                    peer.progressed.clear()
                    await peer.progressed.wait()

        behind = "benchmark of large:70b (job a)"
        await progress_is("b", "queued", phase="queued", position=1, waiting_for=behind)
        await progress_is("c", "queued", phase="queued", position=2, waiting_for=f"{behind} and 1 more")
        summary = (await daemon.jobs.status("c")).job
        assert (summary.state, summary.position) == ("queued", 2)
        assert summary.progress is not None
        assert summary.progress.waiting_for == f"{behind} and 1 more"
        first.end()
        await progress_is("b", "running", phase="starting", waiting_for=None)
        await progress_is("c", "queued", position=1, waiting_for="benchmark of tiny (job b)")
        await daemon.jobs.cancel("b")
        await progress_is("c", "running", phase="starting")
        peer.alive = False
        async with asyncio.timeout(20):
            await serving


async def test_a_benchmark_in_quiet_hours_says_that_it_waits_for_their_end(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, quiet_hours=["22:00-07:00"])
    daemon.local_time = lambda: dt.datetime(2026, 1, 1, 23, 0, tzinfo=dt.UTC)
    async with daemon:
        await daemon.jobs.start_benchmark(benchmark("b"))
        progress_of = (await daemon.jobs.status("b")).job.progress
        assert progress_of is not None
        assert progress_of.waiting_for == "the end of quiet hours (policy.quiet_hours)"


async def test_the_live_series_starts_with_the_run_and_ends_with_it(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        points = [LivePoint(n=n, t_us=n, missed=0, sample=Sample(n), behind=False) for n in range(4)]
        await daemon.jobs.start_benchmark(benchmark("first"))
        await daemon.jobs.start_benchmark(benchmark("second"))
        first = await daemon.runner.run_number(1)

        async def watch(job_id: str, after: int | None) -> list[int]:
            return [point.n async for point in daemon.jobs.live(job_id, after=after)]

        watching = asyncio.create_task(watch("second", 1))
        await asyncio.sleep(0)
        first.end()
        second = await daemon.runner.run_number(2)
        second.points = points
        assert await asyncio.wait_for(watching, 20) == [2, 3]
        second.end()
        await daemon.until("second", "completed")
        assert await watch("second", None) == []
        with pytest.raises(JobNotFound):
            await watch("nobody", None)


async def test_a_series_that_began_anew_has_missed_nothing_for_a_reader_of_the_one_before() -> None:
    series = LiveSeries()
    for n in range(3):
        series.append(ResourceSample(n=n, t_ms=float(n), phase="iteration"))
    series.end()
    run = SimpleNamespace(live=series)
    lock = SimpleNamespace()
    execution = BenchmarkExecution(
        "j", cast("BenchmarkRun", run), GenerationGate(), cast("BenchmarkLock", lock), lambda _: None
    )
    assert [(p.n, p.missed) async for p in execution.live(500)] == [(0, 0), (1, 0), (2, 0)]
    assert [(p.n, p.missed) async for p in execution.live(0)] == [(1, 0), (2, 0)]


async def test_creates_are_jobs_too(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        params = msgspec.convert({"job_id": "c", "model": "mine", "from": "tiny"}, CreateModelParams)
        assert (await daemon.jobs.start_create(params)).state == "queued"
        (await daemon.runner.run_number(1)).end("failed")
        assert (await final(daemon, "c"))["status"] == "failed"
        assert daemon.jobs.store.waiting_counts.entries == 1
        assert daemon.jobs.store.store_id == daemon.outbox.store_id


async def test_the_runner_is_given_back_the_exact_plan(tmp_path: Path) -> None:
    runner = SteeredRunner()
    async with Daemon(tmp_path, runner) as daemon:
        params = benchmark(num_iterations=7, seed=3)
        await daemon.jobs.start_benchmark(params)
        run = await runner.run_number(1)
        assert msgspec.json.decode(run.job.params, type=type(params)) == params


async def test_serving_ends_with_a_session_that_has_nothing_more_to_be_told(tmp_path: Path) -> None:
    async with Daemon(tmp_path) as daemon:
        peer = ServerSession()
        serving = asyncio.create_task(daemon.jobs.report(peer, None))
        await asyncio.sleep(0)
        peer.alive = False
        async with asyncio.timeout(20):
            await serving
