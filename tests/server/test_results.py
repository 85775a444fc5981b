"""The table of results over all machines, as REST gives it."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from obt_agent.benchmark.presets import PRESETS
from obt_server.result_index import HEADLINE, MOST, ResultIndex, digest_of
from obt_server.storage import StoredBenchmark
from obt_server.store import Database, SqlStorage
from tests.server.conftest import Running
from tests.server.job_steps import finish, start

SUMMARY = {
    "n": 3,
    "mean": 41.0,
    "median": 40.0,
    "stddev": 1.0,
    "cv": 0.025,
    "min": 39.0,
    "max": 42.0,
    "ci_low": 38.5,
    "ci_high": 43.5,
    "confidence": 0.95,
}


def text(model: str = "tiny:latest", **more: Any) -> str:
    result = {
        "status": "completed",
        "environment": {"plan_hash": "h" * 64, "model": model, "model_digest": "d2", "gpu": ["One GPU"]},
        "metrics": [{"flags": ["short_output"]}, {"flags": ["short_output"], "excluded": "throttled"}, {}],
        "warnings": [{"code": "noisy", "message": "It varied.", "action": "Close other programs."}],
        "cells": [
            {"index": 0, "label": "512:128", "summary": {"decode_tps_corrected": SUMMARY, "other": SUMMARY}}
        ],
    }
    return json.dumps(result | more)


async def test_results_of_all_machines_come_in_one_list_with_their_figures(server: Running) -> None:
    async with server.agent("here") as here, server.agent("there") as there:
        first, second = await start(server, here), await start(server, there)
        await start(server, there)  # still open: it has no result
        await finish(here, first, text())
        await finish(there, second, text("big:70b"))
        rows = (await server.http.get("/api/v1/results")).json()["results"]
        assert {(row["agent_name"], row["model"]) for row in rows} == {
            ("here", "tiny:latest"),
            ("there", "big:70b"),
        }
        (row,) = (await server.http.get("/api/v1/results?agent=here")).json()["results"]
    assert row["job_id"] == first
    assert row["status"] == "completed"
    assert (row["iterations"], row["excluded"], row["flags"]) == (3, 1, {"short_output": 2})
    assert row["warnings"][0]["action"] == "Close other programs."
    assert row["gpu"] == ["One GPU"]
    (cell,) = row["cells"]
    assert cell["summary"] == {"decode_tps_corrected": SUMMARY}, "headline figures, nothing else"


async def rows_of(server: Running, query: str = "") -> list[dict[str, Any]]:
    answer = await server.http.get(f"/api/v1/results{query}")
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["results"]
    return rows


async def test_the_list_is_paged_over_results_only(server: Running) -> None:
    async with server.agent() as agent:
        jobs = [await start(server, agent) for _ in range(4)]
        for job_id in jobs[:3]:
            await finish(agent, job_id, text())
    page = (await server.http.get("/api/v1/results?limit=2")).json()
    assert page["total"] == 3, "an open job takes no place in the list"
    assert [row["job_id"] for row in page["results"]] == [jobs[2], jobs[1]]
    assert [row["job_id"] for row in await rows_of(server, "?limit=2&offset=2")] == [jobs[0]]
    assert (await server.http.get("/api/v1/results?agent=nobody")).status_code == 404
    assert (await server.http.get("/api/v1/results?limit=0")).status_code == 422
    assert (await server.http.get("/api/v1/results?sort=colour")).status_code == 422


def speeds(median: float) -> dict[str, Any]:
    summary = SUMMARY | {"median": median}
    return {"cells": [{"index": 0, "label": "512:128", "summary": {"decode_tps_corrected": summary}}]}


async def test_all_stored_results_are_searched_sorted_and_narrowed_by_the_server(server: Running) -> None:
    async with server.agent("fast-box") as fast, server.agent("slow-box") as slow:
        wanted: dict[str, str] = {}
        for agent, model, speed in (
            (fast, "tiny:latest", 90.0),
            (slow, "tiny:latest", 9.0),
            (slow, "big:70b", 2.0),
        ):
            job_id = await start(server, agent)
            await finish(agent, job_id, text(model, **speeds(speed)))
            wanted[job_id] = f"{model} {speed:.0f}"
        none = await start(server, fast)
        await finish(fast, none, text("odd:1b", cells=[]))
    ordered = await rows_of(server, "?sort=-decode_tps_corrected")
    assert [wanted.get(row["job_id"]) for row in ordered] == [
        "tiny:latest 90",
        "tiny:latest 9",
        "big:70b 2",
        None,
    ]
    assert [row["job_id"] for row in await rows_of(server, "?sort=decode_tps_corrected")][-1] == none
    assert {row["model"] for row in await rows_of(server, "?search=SLOW+tiny")} == {"tiny:latest"}
    assert {row["agent_name"] for row in await rows_of(server, "?search=slow")} == {"slow-box"}
    assert await rows_of(server, "?search=nothing") == []
    assert len(await rows_of(server, f"?plan={'h' * 64}&status=completed")) == 4
    assert await rows_of(server, "?plan=other") == []
    assert (await rows_of(server, "?sort=model"))[0]["model"] == "big:70b"


async def test_only_the_newest_of_each_machine_and_model_stands_on_a_leaderboard(server: Running) -> None:
    async with server.agent() as agent:
        older, newer = await start(server, agent), await start(server, agent)
        await finish(agent, older, text(**speeds(50.0)))
        await finish(agent, newer, text(**speeds(40.0)))
    assert [row["job_id"] for row in await rows_of(server, "?newest=true")] == [newer]


async def test_what_is_no_benchmarks_result_is_left_out_and_the_rest_is_shown(server: Running) -> None:
    async with server.agent() as agent:
        odd, good = await start(server, agent), await start(server, agent)
        await finish(agent, odd, "{}")
        await finish(agent, good, text())
    assert [row["job_id"] for row in await rows_of(server)] == [good]


async def test_a_digest_is_computed_once_and_kept_over_a_restart(server: Running) -> None:
    async with server.agent() as agent:
        job_id = await start(server, agent)
        await finish(agent, job_id, text())
    storage = server.parts.context.storage
    (first,) = await ResultIndex(storage).lines()
    ((agent_id, kept_job, sha256, _),) = await storage.digests()
    assert (agent_id, kept_job, sha256) == (first.stored.agent_id, job_id, first.stored.sha256)
    await storage.keep_digests([(agent_id, job_id, sha256, b'{"of": "another release"}')])
    (again,) = await ResultIndex(storage).lines()
    assert again == first, "a digest that this release cannot read is computed again"
    assert (await server.http.delete(f"/api/v1/benchmarks/{job_id}")).status_code == 204
    assert await storage.digests() == []


class CountingStorage(SqlStorage):
    """Counts the digests of each write, and the times that all rows are read."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.writes: list[int] = []
        self.reads = 0

    async def stored_benchmarks(self) -> list[StoredBenchmark]:
        self.reads += 1
        return await super().stored_benchmarks()

    async def keep_digests(self, made: Sequence[tuple[str, str, str, bytes]]) -> None:
        self.writes.append(len(made))
        await super().keep_digests(made)


async def test_digests_of_many_results_are_written_together(server: Running) -> None:
    async with server.agent() as agent:
        for _ in range(3):
            await finish(agent, await start(server, agent), text())
    storage = CountingStorage(server.parts.database)
    assert len(await ResultIndex(storage).lines()) == 3
    assert storage.writes == [3]


async def test_the_rows_are_read_again_only_when_one_of_them_changed(server: Running) -> None:
    storage = CountingStorage(server.parts.database)
    index = ResultIndex(storage)

    async def listed() -> set[str]:
        return {line.stored.job_id for line in await index.lines()}

    async with server.agent() as agent:
        first, second = await start(server, agent), await start(server, agent)
        assert await listed() == set()
        await finish(agent, first, text())
        assert await listed() == await listed() == {first}
        assert storage.reads == 2, "at first, and for what came"
        await finish(agent, second, text())
        assert await listed() == {first, second}
    await storage.delete_job(agent.agent_id, first)
    assert await listed() == {second}
    assert storage.reads == 4


def test_a_line_stays_short_whatever_an_agent_sends() -> None:
    caution = {"code": "x", "message": "m", "action": "a"}
    flood = text(warnings=[caution] * 1000, metrics=[{"flags": [str(n)]} for n in range(1000)])
    digest = digest_of(flood.encode())
    assert digest is not None
    assert (len(digest.warnings), len(digest.flags), digest.iterations) == (MOST, MOST, 1000)
    assert digest_of(b'{"status": ' + b"[" * 100_000) is None


@pytest.mark.parametrize("number", [-1, 2**50])
def test_a_line_can_be_stored_whatever_numbers_an_agent_sends(number: int) -> None:
    many = {"n": number, "mean": 1, "median": 1, "min": 1, "max": 1, "confidence": 0.95}
    blank = dict.fromkeys(("stddev", "cv", "ci_low", "ci_high"))
    cell = {"index": 0, "label": "a", "summary": {HEADLINE[0]: many | blank}}
    digest = digest_of(text(cells=[cell]).encode())
    assert digest is not None
    assert msgspec.json.decode(msgspec.json.encode(digest))["cells"][0]["summary"] == {}
    assert digest_of(text(cells=[cell | {"index": number}]).encode()) is None
    assert digest_of(text(environment={"memory_bytes": number}).encode()) is None


@pytest.mark.parametrize("number", [2**63, 10**30])
def test_a_number_beyond_64_bits_leaves_a_result_without_a_line(number: int) -> None:
    assert digest_of(text(environment={"memory_bytes": number}).encode()) is None


async def test_plans_are_the_presets_and_what_was_saved(server: Running) -> None:
    saved = {"prompts": [{"prompt_tokens": 64, "completion_tokens": 8}], "num_iterations": 2}
    path = "/api/v1/plans/my%20plan"
    assert (await server.http.put(path, json={"plan": saved | {"model_name": "tiny"}})).status_code == 204
    plans = {one["name"]: one for one in (await server.http.get("/api/v1/plans")).json()}
    assert set(plans) == {*PRESETS, "my plan"}
    assert plans["quick"]["builtin"]
    assert plans["quick"]["plan"]["prompts"] == [{"prompt_tokens": 512, "completion_tokens": 128}]
    assert (plans["my plan"]["plan"], plans["my plan"]["builtin"]) == (saved, False)
    assert (await server.http.put("/api/v1/plans/quick", json={"plan": saved})).status_code == 422
    wrong = await server.http.put("/api/v1/plans/wrong", json={"plan": {"num_iterations": 0}})
    assert wrong.status_code == 422
    assert "num_iterations" in wrong.text
    assert (await server.http.delete("/api/v1/plans/quick")).status_code == 422
    assert (await server.http.delete(path)).status_code == 204
    assert (await server.http.delete(path)).status_code == 404


async def test_results_name_the_plan_that_they_were_measured_with(server: Running) -> None:
    hashed = {one["name"]: one["plan_hash"] for one in (await server.http.get("/api/v1/plans")).json()}
    async with server.agent() as agent:
        job_id = await start(server, agent)
        await finish(agent, job_id, text(environment={"plan_hash": hashed["quick"], "model": "tiny:latest"}))
    ((row,),) = [await rows_of(server)]
    assert row["plan_name"] == "quick"
    counted = {one["name"]: one["results"] for one in (await server.http.get("/api/v1/plans")).json()}
    assert counted == {"quick": 1, "standard": 0, "thorough": 0}


async def test_an_estimate_says_what_is_measured_and_rests_on_the_last_run_there(server: Running) -> None:
    plan = {"model_name": "tiny:latest", "prompts": [{"prompt_tokens": 100, "completion_tokens": 40}]}
    body = {"agent": "box", "plan": plan | {"sweep": {"concurrency": [1, 2]}, "num_iterations": 3}}
    async with server.agent("box") as agent:
        before = (await server.http.post("/api/v1/benchmarks/estimate", json=body)).json()
        assert (len(before["cells"]), before["iterations"], before["most_iterations"]) == (2, 6, 6)
        assert (before["seconds"], before["basis"]) == (None, "")
        await finish(agent, await start(server, agent), text(**speeds(20.0)))
        after = (await server.http.post("/api/v1/benchmarks/estimate", json=body)).json()
        assert after["seconds"] == 2 * 5 * 40 / 20.0, "two cells, two warm-ups and three iterations each"
        assert after["basis"].startswith("from its run of ")
        wrong = await server.http.post("/api/v1/benchmarks/estimate", json={"agent": "box", "plan": {}})
        assert wrong.status_code == 422


async def test_plans_that_were_measured_are_listed_by_how_often(server: Running) -> None:
    async with server.agent() as agent:
        for plan in ("a" * 64, "b" * 64, "b" * 64):
            job_id = await start(server, agent)
            await finish(agent, job_id, text(environment={"plan_hash": plan}))
    assert (await server.http.get("/api/v1/results/plans")).json() == [
        {"plan_hash": "b" * 64, "name": None, "results": 2},
        {"plan_hash": "a" * 64, "name": None, "results": 1},
    ]
