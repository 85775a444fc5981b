"""Benchmarks, pulls and creates as commands, over the stand-in, to their acknowledged final."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from obt_agent.benchmark.result import BenchmarkResult
from obt_agent.protocol.errors import WireError
from obt_standin import StandIn
from obt_standin.script import Model
from tests.handlers.bench import Bench
from tests.job_store.doubles import ServerSession
from tests.waiting import until

PLAN: dict[str, Any] = {
    "model_name": "standin-small",
    "prompt_config": {"prompt_tokens": 16, "completion_tokens": 8},
    "num_iterations": 2,
    "warmup_iterations": 1,
    "min_duration_s": 0,
    "cooldown_s": 0,
    "sample_interval_ms": 200,
}


async def recorded(bench: Bench, count: int) -> None:
    """Wait until the benchmark ``b1`` has stored so many records."""
    while len(await bench.outbox.records("b1")) < count:  # noqa: ASYNC110 - a record tells nobody
        await asyncio.sleep(0.01)


class Served:
    """A server's session for jobs while the context is open."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.peer = ServerSession()

    async def __aenter__(self) -> ServerSession:
        self.task = asyncio.create_task(self.bench.jobs.report(self.peer, 1_000.0))
        return self.peer

    async def __aexit__(self, *exc: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_a_benchmark_runs_to_a_result_that_the_server_acknowledges(bench: Bench) -> None:
    async with Served(bench) as server:
        started = await bench.result("run_benchmark", job_id="b1", plan=PLAN)
        assert started["state"] in ("queued", "running")
        assert await bench.job("b1") == "completed"
        assert await bench.jobs.uploader.drain(30)
        result = msgspec.json.decode(server.results["b1"], type=BenchmarkResult)
        assert result.status == "completed"
        assert len(result.metrics) == 2
        assert (result.id, result.client_id) == ("b1", "c")
        assert server.finals == ["b1"]
    status = await bench.result("benchmark_status", job_id="b1")
    assert status["job"]["acknowledged"] is True
    again = await bench.result("run_benchmark", job_id="b1", plan=PLAN)
    assert again["state"] == "completed"
    assert (await bench.refusal("run_benchmark", job_id="b1", plan=PLAN | {"seed": 1}))[0] == "job_conflict"


async def test_a_benchmark_is_watched_and_cancelled_and_keeps_what_it_measured(bench: Bench) -> None:
    bench.standin.script.decode_tps = 100.0
    plan = PLAN | {"num_iterations": 500}
    await bench.result("run_benchmark", job_id="b1", plan=plan)
    watch = bench.send("benchmark_metrics", job_id="b1", after=-1)
    await until(lambda: watch in bench.session.streams)
    async with asyncio.timeout(60):
        await bench.session.streams[watch].has(2)
        await recorded(bench, 3)
    status = await bench.result("benchmark_status", job_id="b1")
    assert status["job"]["state"] == "running"
    assert status["result"]["status"] == "interrupted"
    assert await bench.result("cancel", job_id="b1") == {"state": "cancelling"}
    assert await bench.job("b1") == "cancelled"
    assert "stream" in await bench.session.result(watch), "the series ends with the run"
    final = await bench.outbox.result("b1")
    assert final is not None
    result = msgspec.json.decode(final.text, type=BenchmarkResult)
    assert result.status == "cancelled"
    assert result.metrics
    assert bench.standin.open_streams == 0


async def test_cancelling_the_request_of_a_benchmark_does_not_cancel_its_job(bench: Bench) -> None:
    number = bench.send("run_benchmark", job_id="b1", plan=PLAN)
    await bench.session.result(number)
    assert await bench.result("cancel", id=number) == {"state": "answered"}
    assert await bench.job("b1") == "completed"


async def test_a_benchmark_of_a_missing_model_ends_failed_with_its_kind(bench: Bench) -> None:
    await bench.result("run_benchmark", job_id="b1", plan=PLAN | {"model_name": "nobody-has-this"})
    assert await bench.job("b1") == "failed"
    job = await bench.outbox.get("b1")
    assert job is not None
    assert job.error is not None
    assert job.error.code == -32002
    final = await bench.outbox.result("b1")
    assert final is not None
    assert msgspec.json.decode(final.text, type=BenchmarkResult).error_kind == "model_not_found"


async def test_other_traffic_during_a_benchmark_stands_in_its_warnings(bench: Bench) -> None:
    bench.standin.script.decode_tps = 50.0
    await bench.result("run_benchmark", job_id="b1", plan=PLAN | {"num_iterations": 4})
    async with asyncio.timeout(30):
        await recorded(bench, 1)
    await bench.result("embed", model="standin-embed", input="x")
    assert await bench.job("b1") == "completed"
    final = await bench.outbox.result("b1")
    assert final is not None
    warnings = json.loads(final.text)["warnings"]
    assert "1 embed" in next(w["message"] for w in warnings if w["code"] == "other_traffic")


async def test_a_second_agents_benchmark_waits_for_the_first_and_can_be_cancelled(
    bench: Bench, tmp_path: Path
) -> None:
    bench.standin.script.decode_tps = 50.0
    await bench.result("run_benchmark", job_id="b1", plan=PLAN | {"num_iterations": 500})
    async with asyncio.timeout(30):
        await recorded(bench, 1)
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    other = Bench(bench.standin, other_folder)
    other.locks = bench.locks
    async with other:
        await other.result("run_benchmark", job_id="b2", plan=PLAN)
        async with asyncio.timeout(30):
            while True:
                status = await other.result("benchmark_status", job_id="b2")
                if "waiting_for" in status["job"].get("progress", {}):
                    break
                await asyncio.sleep(0.01)
        assert "job b1" in status["job"]["progress"]["waiting_for"]
        await other.result("cancel", job_id="b2")
        assert await other.job("b2") == "cancelled"
    await bench.result("cancel", job_id="b1")
    assert await bench.job("b1") == "cancelled"


async def test_metrics_of_an_unknown_job_are_job_not_found(bench: Bench) -> None:
    assert (await bench.refusal("benchmark_metrics", job_id="x"))[0] == "job_not_found"
    assert (await bench.refusal("benchmark_status", job_id="x"))[0] == "job_not_found"


CHANGES = {"allow_changes": ["pull_model", "create_model", "copy_model", "delete_model"]}


async def test_a_pull_is_a_job_with_bytes(standin: StandIn, tmp_path: Path) -> None:
    standin.script.registry.append(Model(name="fresh:latest"))
    async with Bench(standin, tmp_path, **CHANGES) as bench, Served(bench) as server:
        await bench.result("pull_model", job_id="p1", model="fresh")
        assert await bench.job("p1") == "completed"
        assert await bench.jobs.uploader.drain(30)
        result = json.loads(server.results["p1"])
        assert (result["state"], result["model"], result["kind"]) == ("completed", "fresh", "pull")
        assert result["total_bytes"] == result["completed_bytes"] > 0
        assert "fresh:latest" in {m["name"] for m in (await bench.result("list_models"))["models"]}


async def test_a_pull_that_fails_says_what_ollama_said(standin: StandIn, tmp_path: Path) -> None:
    async with Bench(standin, tmp_path, **CHANGES) as bench:
        await bench.result("pull_model", job_id="p1", model="not-there")
        assert await bench.job("p1") == "failed"
        job = await bench.outbox.get("p1")
        assert job is not None
        assert isinstance(job.error, WireError)
        assert json.loads((await bench.outbox.result("p1")).text)["error"]["message"]  # type: ignore[union-attr]  # it has one


async def test_a_pull_is_cancelled_in_the_middle(standin: StandIn, tmp_path: Path) -> None:
    standin.script.registry.append(Model(name="fresh:latest"))
    standin.script.pull_s = 60.0
    async with Bench(standin, tmp_path, **CHANGES) as bench:
        await bench.result("pull_model", job_id="p1", model="fresh")
        await until(lambda: bench.standin.open_streams == 1)
        assert await bench.result("cancel", job_id="p1") == {"state": "cancelling"}
        assert await bench.job("p1") == "cancelled"
        await until(lambda: bench.standin.open_streams == 0)


async def test_a_create_is_a_job_whose_parameters_are_clamped(standin: StandIn, tmp_path: Path) -> None:
    async with Bench(standin, tmp_path, **CHANGES) as bench:
        await bench.result(
            "create_model",
            job_id="c1",
            model="mine",
            system="Be brief.",
            parameters={"num_ctx": 10_000_000, "temperature": 0.5},
            **{"from": "standin-small"},
        )
        assert await bench.job("c1") == "completed"
        asked = next(r for r in standin.requests if r.path == "/api/create")
        body = json.loads(asked.body)
        assert body["parameters"] == {"num_ctx": 131_072, "temperature": 0.5}
        assert (body["from"], body["stream"]) == ("standin-small", True)


async def test_copies_and_deletes_check_both_names(standin: StandIn, tmp_path: Path) -> None:
    section = CHANGES | {"models": {"deny": ["forbidden"]}}
    async with Bench(standin, tmp_path, **section) as bench:
        assert await bench.result("copy_model", source="standin-small", destination="mine") == {"done": True}
        denied = ("not_permitted", "policy.models.deny")
        assert await bench.refusal("copy_model", source="standin-small", destination="Forbidden:x") == denied
        assert await bench.refusal("copy_model", source="forbidden", destination="mine") == denied
        assert await bench.refusal("delete_model", model="forbidden") == denied
        # The copy's weights stay, with the model that it is a copy of.
        deleted = await bench.result("delete_model", model="mine")
        assert (deleted["done"], deleted["freed_bytes"]) == (True, 0)
        refused = await bench.refusal(
            "create_model", job_id="c", model="forbidden", **{"from": "standin-small"}
        )
        assert refused == denied


@pytest.mark.parametrize("method", ["pull_model", "create_model", "copy_model", "delete_model"])
async def test_changes_are_off_by_default(bench: Bench, method: str) -> None:
    params = {"job_id": "j", "model": "x", "from": "y", "source": "x", "destination": "y"}
    assert await bench.refusal(method, **params) == ("not_permitted", "policy.allow_changes")
