"""The table of results over all machines, as REST gives it."""

import json
from typing import Any

from obt_agent.benchmark.presets import PRESETS
from obt_server.rest.context import Context
from obt_server.rest.results import MOST, ResultLines, digest_of
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
        rows = (await server.http.get("/api/v1/results")).json()
        assert {(row["agent_name"], row["model"]) for row in rows} == {
            ("here", "tiny:latest"),
            ("there", "big:70b"),
        }
        (row,) = (await server.http.get("/api/v1/results?agent=here")).json()
    assert row["job_id"] == first
    assert row["status"] == "completed"
    assert (row["iterations"], row["excluded"], row["flags"]) == (3, 1, {"short_output": 2})
    assert row["warnings"][0]["action"] == "Close other programs."
    assert row["gpu"] == ["One GPU"]
    (cell,) = row["cells"]
    assert cell["summary"] == {"decode_tps_corrected": SUMMARY}, "headline figures, nothing else"


async def test_the_list_pages_backwards_over_results_only(server: Running) -> None:
    async with server.agent() as agent:
        jobs = [await start(server, agent) for _ in range(3)]
        for job_id in jobs[:2]:
            await finish(agent, job_id, text())
    (newest,) = (await server.http.get("/api/v1/results?limit=1")).json()
    assert newest["job_id"] == jobs[1], "an open job takes no place in the list"
    (older,) = (await server.http.get(f"/api/v1/results?before={newest['created_at']}")).json()
    assert older["job_id"] == jobs[0]
    assert (await server.http.get("/api/v1/results?agent=nobody")).status_code == 404
    assert (await server.http.get("/api/v1/results?limit=0")).status_code == 422


async def test_what_is_no_benchmarks_result_is_left_out_and_the_rest_is_shown(server: Running) -> None:
    async with server.agent() as agent:
        odd, good = await start(server, agent), await start(server, agent)
        await finish(agent, odd, "{}")
        await finish(agent, good, text())
    assert [row["job_id"] for row in (await server.http.get("/api/v1/results")).json()] == [good]


async def test_a_line_is_computed_once_and_the_oldest_is_forgotten(server: Running) -> None:
    async with server.agent() as agent:
        jobs = [await start(server, agent) for _ in range(2)]
        for job_id in jobs:
            await finish(agent, job_id, text())
        first, second = [await server.parts.storage.job_by_id(job_id) for job_id in jobs]
    context: Context = server.parts.context
    lines = ResultLines(context, remembered=1)
    known = await lines.of(first)
    assert known is not None
    assert await lines.of(first) is known
    await lines.of(second)
    again = await lines.of(first)
    assert again == known
    assert again is not known


def test_a_line_stays_short_whatever_an_agent_sends() -> None:
    caution = {"code": "x", "message": "m", "action": "a"}
    flood = text(warnings=[caution] * 1000, metrics=[{"flags": [str(n)]} for n in range(1000)])
    digest = digest_of(flood.encode())
    assert digest is not None
    assert (len(digest.warnings), len(digest.flags), digest.iterations) == (MOST, MOST, 1000)
    assert digest_of(b'{"status": ' + b"[" * 100_000) is None


async def test_the_named_plans_are_those_of_the_agents_own_command(server: Running) -> None:
    named = (await server.http.get("/api/v1/benchmark-presets")).json()
    assert set(named) == set(PRESETS)
    assert named["quick"]["prompts"] == [{"prompt_tokens": 512, "completion_tokens": 128}]
