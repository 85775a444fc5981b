"""Transfers beside benchmarks, over restarts, on full disks, and with versions, over the stand-in."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from obt_agent.benchmark.lock import BenchmarkLock
from obt_agent.protocol.jobs import JobProgress
from obt_standin import Model, ModelBlob, PullFault, StandIn
from tests.handlers.bench import Bench
from tests.handlers.test_jobs import CHANGES, PLAN, Served, recorded
from tests.waiting import until

SMALL = ModelBlob("sha256:" + "5" * 64, 100)
LARGE = ModelBlob("sha256:" + "a" * 64, 10_000)
# With these and 60 s, the small file is here at once and the large one takes a minute: a pull in its middle.
FRESH = Model(name="fresh:latest", digest="f" * 64, blobs=(SMALL, LARGE))
IN_THE_MIDDLE_S = 60.0


@pytest.fixture
async def bench(standin: StandIn, tmp_path: Path) -> AsyncIterator[Bench]:
    """An owner who allows changes, and a registry with one model."""
    standin.script.registry.append(FRESH)
    async with Bench(standin, tmp_path, **CHANGES) as made:
        yield made


async def pull(bench: Bench, job_id: str = "p1", **more: Any) -> None:
    await bench.result("pull_model", job_id=job_id, **{"model": "fresh", **more})


async def pull_to_the_middle(bench: Bench) -> None:
    bench.standin.script.pull_s = IN_THE_MIDDLE_S
    await pull(bench)
    await until(lambda: SMALL.digest in bench.standin.store.blobs)


async def progress(bench: Bench, job_id: str) -> JobProgress | None:
    return (await bench.jobs.status(job_id)).job.progress


async def waits_for(bench: Bench, job_id: str, what: str) -> JobProgress:
    """Wait until a job says that it waits, and for what."""

    async def waiting() -> bool:
        now = await progress(bench, job_id)
        return now is not None and what in (now.waiting_for or "")

    await until(waiting, lambda: f"{job_id} does not wait for {what}")
    found = await progress(bench, job_id)
    assert found is not None
    return found


async def result_of(bench: Bench, job_id: str) -> Any:
    await bench.job(job_id)
    final = await bench.outbox.result(job_id)
    assert final is not None
    return json.loads(final.text)


def pulls(standin: StandIn) -> list[Any]:
    return [request for request in standin.requests if request.path == "/api/pull"]


# Beside benchmarks.


async def test_a_benchmark_waits_for_no_pull_which_pauses_and_goes_on_by_itself(bench: Bench) -> None:
    standin = bench.standin
    standin.script.decode_tps = 50.0
    async with Served(bench) as server:
        await pull_to_the_middle(bench)
        await bench.result("run_benchmark", job_id="b1", plan=PLAN)
        paused = await waits_for(bench, "p1", "benchmark b1")
        assert (paused.phase, paused.completed_bytes) == ("waiting", 100)
        assert pulls(standin)[0].ended == "client_closed", "Ollama downloads while the benchmark measures"
        standin.script.pull_s = 0.0
        assert await bench.job("b1") == "completed"
        warnings = (await result_of(bench, "b1")).get("warnings", [])
        assert "other_traffic" not in [one["code"] for one in warnings]
        assert await bench.job("p1") == "completed"
        await until(lambda: sorted(server.finals) == ["b1", "p1"])
    assert len(pulls(standin)) == 2
    assert standin.store.find("fresh") is not None


async def test_a_pull_that_comes_while_a_benchmark_runs_begins_after_it(bench: Bench) -> None:
    bench.standin.script.decode_tps = 50.0
    await bench.result("run_benchmark", job_id="b1", plan=PLAN | {"num_iterations": 500})
    async with asyncio.timeout(30):
        await recorded(bench, 1)
    await pull(bench)
    await waits_for(bench, "p1", "benchmark b1")
    assert not pulls(bench.standin)
    await bench.result("cancel", job_id="b1")
    assert await bench.job("p1") == "completed"


async def test_a_benchmark_that_begins_while_ollama_is_asked_for_its_models_holds_the_pull(
    bench: Bench,
) -> None:
    bench.standin.script.latency_s = 0.5
    asked = len(bench.standin.requests)
    await pull(bench)
    await until(lambda: len(bench.standin.requests) > asked)
    with bench.traffic.benchmark("b9") as noted:
        await waits_for(bench, "p1", "benchmark b9")
        assert (pulls(bench.standin), noted) == ([], {})
    assert await bench.job("p1") == "completed"


async def test_a_pull_that_waits_for_a_benchmark_is_cancelled_like_any_other(bench: Bench) -> None:
    bench.standin.script.decode_tps = 50.0
    await bench.result("run_benchmark", job_id="b1", plan=PLAN | {"num_iterations": 500})
    async with asyncio.timeout(30):
        await recorded(bench, 1)
    await pull(bench)
    await waits_for(bench, "p1", "benchmark b1")
    await bench.result("cancel", job_id="p1")
    assert await bench.job("p1") == "cancelled"
    await bench.result("cancel", job_id="b1")
    assert await bench.job("b1") == "cancelled"


async def test_a_pull_that_is_being_checked_is_let_go_on_and_noted(bench: Bench) -> None:
    """Ollama would check on without a client, and install unchecked what it finds when it is asked again."""
    bench.standin.script.verify_s = IN_THE_MIDDLE_S
    await pull(bench)

    async def checking() -> bool:
        now = await progress(bench, "p1")
        return now is not None and now.phase.startswith("verifying")

    await until(checking)
    await bench.result("run_benchmark", job_id="b1", plan=PLAN)
    warnings = (await result_of(bench, "b1"))["warnings"]
    assert "1 pull_model" in next(w["message"] for w in warnings if w["code"] == "other_traffic")
    assert [one.ended for one in pulls(bench.standin)] == ["open"]
    await bench.result("cancel", job_id="p1")
    assert await bench.job("p1") == "cancelled"


async def test_an_owner_may_let_pulls_go_on_and_the_result_says_so(standin: StandIn, tmp_path: Path) -> None:
    standin.script.registry.append(FRESH)
    async with Bench(standin, tmp_path, transfers="note", **CHANGES) as bench:
        await pull_to_the_middle(bench)
        await bench.result("run_benchmark", job_id="b1", plan=PLAN)
        warnings = (await result_of(bench, "b1"))["warnings"]
        assert "1 pull_model" in next(w["message"] for w in warnings if w["code"] == "other_traffic")
        assert [one.ended for one in pulls(standin)] == ["open"]
        await bench.result("cancel", job_id="p1")
        assert await bench.job("p1") == "cancelled"


async def test_a_benchmark_of_the_model_that_is_on_its_way_waits_for_it(bench: Bench) -> None:
    await pull_to_the_middle(bench)
    await bench.result("run_benchmark", job_id="b1", plan=PLAN | {"model_name": "Fresh:latest"})
    waiting = await waits_for(bench, "b1", "pull of fresh (job p1)")
    assert waiting.phase == "queued"
    # Another one is not held up by it.
    await bench.result("run_benchmark", job_id="b2", plan=PLAN)
    assert await bench.job("b2") == "completed"
    bench.standin.script.pull_s = 0.0
    assert await bench.job("b1") == "completed"
    assert await bench.job("p1") == "completed"


async def test_a_pull_gives_way_to_a_benchmark_of_another_process_too(bench: Bench) -> None:
    await pull_to_the_middle(bench)
    other = BenchmarkLock(bench.standin.url, bench.locks, who="obt-agent bench")
    with other:
        await waits_for(bench, "p1", "obt-agent bench")
        await until(lambda: pulls(bench.standin)[0].ended == "client_closed")
        bench.standin.script.pull_s = 0.0
        assert len(pulls(bench.standin)) == 1
    assert await bench.job("p1") == "completed"


# Over restarts.


async def test_a_pull_goes_on_after_a_restart_of_the_agent(standin: StandIn, tmp_path: Path) -> None:
    standin.script.registry.append(FRESH)
    async with Bench(standin, tmp_path, **CHANGES) as first:
        await pull_to_the_middle(first)
    await until(lambda: standin.open_streams == 0)
    standin.script.pull_s = 0.0
    async with Bench(standin, tmp_path, **CHANGES) as second, Served(second) as server:
        result = await result_of(second, "p1")
        assert (result["state"], result["total_bytes"]) == ("completed", 10_100)
        await until(lambda: server.finals == ["p1"])
    assert len(pulls(standin)) == 2


async def test_a_pull_waits_for_an_ollama_that_starts_after_the_agent(
    standin: StandIn, tmp_path: Path
) -> None:
    standin.script.registry.append(FRESH)
    async with Bench(standin, tmp_path, **CHANGES) as before:
        await pull_to_the_middle(before)
    await standin.stop()
    standin.script.pull_s = 0.0
    async with Bench(standin, tmp_path, **CHANGES) as after:
        await waits_for(after, "p1", "Ollama")
        await standin.start()
        assert await after.job("p1") == "completed"


@pytest.mark.parametrize("kept", [True, False], ids=["stopped", "killed"])
async def test_a_pull_survives_a_restart_of_ollama_and_never_falls_back(bench: Bench, kept: bool) -> None:
    standin = bench.standin
    async with Served(bench) as server:
        standin.script.pull_s = 6.0
        await pull(bench)
        await until(lambda: standin.store.partial.get(LARGE.digest, 0) >= 3_000)
        await standin.stop()
        await waits_for(bench, "p1", "Ollama")
        if not kept:
            standin.store.partial.clear()
        # Slow enough that what was lost would show.
        standin.script.pull_s = 3.0
        await standin.start()
        result = await result_of(bench, "p1")
        assert (result["state"], result["completed_bytes"]) == ("completed", 10_100)
        await until(lambda: server.finals == ["p1"])
        seen = [one.progress for one in server.progress]
    for of in ("completed_bytes", "total_bytes"):
        figures = [value for one in seen if (value := getattr(one, of)) is not None]
        assert figures == sorted(figures), f"{of} fell: {figures}"


async def test_an_ollama_that_is_not_there_at_the_start_fails_the_pull_at_once(bench: Bench) -> None:
    await bench.standin.stop()
    await pull(bench)
    result = await result_of(bench, "p1")
    assert (result["error"]["data"]["kind"], result["error"]["data"]["retryable"]) == (
        "ollama_unavailable",
        True,
    )


async def test_a_pull_that_joins_the_end_of_the_one_before_goes_on(bench: Bench) -> None:
    """Ollama ends a download a moment after its client went; who asks in that moment gets its error."""
    bench.standin.script.pull_faults.append(PullFault(error="context canceled"))
    await pull(bench)
    assert await bench.job("p1") == "completed"
    assert len(pulls(bench.standin)) == 2


# What fails.


async def failure(bench: Bench, job_id: str = "p1") -> Any:
    result = await result_of(bench, job_id)
    assert result["state"] == "failed"
    return result["error"]["data"]


async def test_a_model_that_does_not_fit_is_stopped_as_soon_as_its_size_is_known(bench: Bench) -> None:
    bench.standin.script.disk_bytes = 5_000
    bench.standin.script.pull_s = 2.0
    await pull(bench)
    error = await failure(bench)
    assert (error["kind"], error.get("retryable", False)) == ("storage_low", False)
    assert error["detail"]["needed_bytes"] > error["detail"]["free_bytes"] > 2_000, "it ran on"
    assert bench.standin.store.find("fresh") is None
    bench.standin.script.disk_bytes, bench.standin.script.pull_s = 50_000, 0.0
    await pull(bench, "p2")
    assert await bench.job("p2") == "completed"


async def test_a_guess_at_the_disk_refuses_nothing_and_a_full_one_is_typed_all_the_same(bench: Bench) -> None:
    bench.found_by = "home"
    bench.standin.script.disk_bytes = 5_000
    bench.standin.script.pull_s = 2.0
    await pull(bench)
    error = await failure(bench)
    assert error["kind"] == "storage_low"
    assert error["detail"]["free_bytes"] is not None
    # It came as far as the disk let it: Ollama's own word ended it.
    assert bench.standin.store.partial[LARGE.digest] == 4_000


async def test_a_guess_at_the_disk_counts_once_that_is_seen_to_fill(bench: Bench) -> None:
    bench.found_by = "home"
    huge = ModelBlob("sha256:" + "b" * 64, 10 << 30)
    bench.standin.script.registry.append(Model(name="huge:latest", blobs=(huge,)))
    bench.standin.script.disk_bytes = 8 << 30
    bench.standin.script.pull_s = 3.0
    await pull(bench, model="huge")
    error = await failure(bench)
    assert error["kind"] == "storage_low"
    assert error["detail"]["free_bytes"] > 1 << 30, "it ran until the disk was full"


async def test_a_disk_that_fills_in_mid_pull_stops_it(bench: Bench) -> None:
    bench.standin.script.disk_bytes = 50_000
    bench.standin.script.pull_s = 1.0
    await pull(bench)
    await until(lambda: LARGE.digest in bench.standin.store.partial)
    bench.standin.script.disk_bytes = 2_000
    error = await failure(bench)
    assert error["kind"] == "storage_low"


async def test_a_model_that_the_registry_does_not_have_is_not_found(bench: Bench) -> None:
    await pull(bench, model="nobody-has-this")
    error = await failure(bench)
    assert (error["kind"], error.get("retryable", False)) == ("model_not_found", False)


@pytest.mark.parametrize(
    "message",
    [
        'max retries exceeded: Get "https://example.org/x": dial tcp: i/o timeout',
        'Get "https://registry.ollama.ai/v2/": dial tcp: lookup registry.ollama.ai: no such host',
        "pull model manifest: 503: try again later",
    ],
)
async def test_a_network_that_fails_in_mid_pull_is_worth_a_retry(bench: Bench, message: str) -> None:
    bench.standin.script.pull_faults.append(PullFault(error=message))
    await pull(bench)
    error = await failure(bench)
    assert (error["kind"], error["retryable"]) == ("ollama_error", True)
    assert bench.standin.store.partial, "what is here is lost"
    await pull(bench, "p2")
    assert await bench.job("p2") == "completed"


async def test_a_registry_that_is_not_allowed_is_refused_with_the_line_that_would_allow_it(
    bench: Bench,
) -> None:
    number = bench.send("pull_model", job_id="p1", model="Example.org/some/model:7b")
    error = (await bench.session.error(number)).data
    assert error is not None
    assert (error.kind, error.detail["policy_key"]) == ("not_permitted", "policy.registries")
    assert error.detail["remedy"] == 'policy.registries: ["example.org"]'
    assert not pulls(bench.standin)


async def test_a_change_that_is_off_says_which_line_turns_it_on(standin: StandIn, tmp_path: Path) -> None:
    async with Bench(standin, tmp_path) as bench:
        error = (await bench.session.error(bench.send("pull_model", job_id="p", model="fresh"))).data
        assert error is not None
        assert error.detail["remedy"] == "policy.allow_changes: [pull_model]"


async def test_a_pull_whose_policy_closed_meanwhile_ends_with_the_line_that_would_allow_it(
    standin: StandIn, tmp_path: Path
) -> None:
    standin.script.registry.append(FRESH)
    async with Bench(standin, tmp_path, **CHANGES) as first:
        await pull_to_the_middle(first)
    async with Bench(standin, tmp_path) as second:
        detail = (await failure(second))["detail"]
    assert (detail["policy_key"], detail["remedy"]) == (
        "policy.allow_changes",
        "policy.allow_changes: [pull_model]",
    )


# Versions.


async def test_a_pull_says_which_version_it_gave_and_which_was_there(bench: Bench) -> None:
    bench.standin.store.add(Model(name="fresh:latest", digest="0" * 64))
    await pull(bench, model="FRESH")
    result = await result_of(bench, "p1")
    assert (result["digest_before"], result["digest"]) == ("0" * 64, "f" * 64)


async def test_a_version_that_is_here_is_not_fetched_again(bench: Bench) -> None:
    bench.standin.store.add(FRESH)
    await pull(bench, digest="sha256:" + "F" * 64)
    result = await result_of(bench, "p1")
    assert (result["state"], result["digest"]) == ("completed", "f" * 64)
    assert not pulls(bench.standin)


async def test_another_version_than_was_asked_for_is_a_typed_failure(bench: Bench) -> None:
    await pull(bench, digest="e" * 64)
    error = await failure(bench)
    assert error["kind"] == "digest_differs"
    assert (error["detail"]["wanted"], error["detail"]["digest"]) == ("e" * 64, "f" * 64)
    assert bench.standin.store.find("fresh") is not None


async def test_a_digest_that_is_none_is_refused(bench: Bench) -> None:
    refused = await bench.refusal("pull_model", job_id="p1", model="fresh", digest="latest")
    assert refused[0] == "invalid_params"


# Creations.


async def test_a_model_is_made_from_one_that_has_to_be_pulled_first(bench: Bench) -> None:
    """Ollama passes on the pull's "success", and goes on to make the model."""
    await bench.result("create_model", job_id="c1", model="mine", **{"from": "fresh"})
    result = await result_of(bench, "c1")
    assert (result["state"], "error" in result) == ("completed", False)
    assert bench.standin.store.find("mine") is not None
    assert result["digest"]


async def test_an_error_of_a_creation_with_status_200_fails_it(bench: Bench) -> None:
    await bench.result("create_model", job_id="c1", model="mine", **{"from": "nobody-has-this"})
    assert (await failure(bench, "c1"))["kind"] == "model_not_found"
