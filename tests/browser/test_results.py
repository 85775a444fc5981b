"""Results over machines and models: one table, sorted, narrowed down, two of them compared."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import HOSTILE, fits
from tests.server.agent_double import AgentDouble
from tests.server.conftest import Running
from tests.server.job_steps import finish, start

pytestmark = pytest.mark.asyncio(loop_scope="module")
LONG = "hf.co/" + "a-very-long-organisation-name/" * 3 + "model-GGUF:Q4_K_M"


def summary(mean: float) -> dict[str, Any]:
    return {
        "n": 3,
        "mean": mean,
        "median": mean,
        "stddev": 1.0,
        "cv": 0.02,
        "min": mean - 1,
        "max": mean + 1,
        "ci_low": mean - 2,
        "ci_high": mean + 2,
        "confidence": 0.95,
    }


def iteration(index: int, tps: float, ttft: float) -> dict[str, Any]:
    return {
        "index": index,
        "cell": 0,
        "started_at": "2026-01-01T00:00:00Z",
        "prompt_sha256": "0" * 64,
        "cache_state": "bust",
        "decode_tps_corrected": tps,
        "first_token_ms": ttft,
        "flags": ["short_output"] if index == 0 else [],
    }


def result(job_id: str, model: str, tps: float, ttft: float, **more: Any) -> str:
    plan_hash = more.pop("plan", "a" * 64)
    whole = {
        "id": job_id,
        "benchmark_id": job_id,
        "client_id": "pc",
        "status": "completed",
        "start_time": "2026-01-01T00:00:00Z",
        "end_time": "2026-01-01T00:01:00Z",
        "config": {"model_name": model},
        "environment": {
            "plan_hash": plan_hash,
            "agent_version": "1",
            "ollama_version": "0.9.0",
            "model": model,
            "model_digest": "d" * 64,
            "gpu": ["A big GPU"],
        },
        "metrics": [iteration(index, tps + index / 10, ttft + index / 10) for index in range(3)],
        "cells": [
            {
                "index": 0,
                "label": "512:128",
                "num_ctx": 4096,
                "concurrency": 1,
                "prompt_tokens_target": 512,
                "completion_tokens": 128,
                "stopping": {"reason": "fixed", "iterations": 3, "measured_s": 1.0},
                "summary": {"decode_tps_corrected": summary(tps), "first_token_ms": summary(ttft)},
            }
        ],
    }
    return json.dumps(whole | more)


async def finished(server: Running, agent: AgentDouble, model: str, tps: float, **more: Any) -> str:
    job_id = await start(server, agent)
    await finish(agent, job_id, result(job_id, model, tps, 100 + tps, **more))
    return job_id


def column(page: Page, number: int) -> Any:
    return page.locator(f"tbody td:nth-child({number})")


async def test_results_of_all_machines_are_sorted_by_what_one_asks_for(bare: Page, server: Running) -> None:
    async with server.agent("alpha") as alpha, server.agent("beta") as beta:
        await finished(server, alpha, "small:1b", 90.0)
        await finished(server, beta, "middle:8b", 40.0)
        await finished(server, beta, "large:70b", 7.5)
        await bare.click("a.machine:has-text('Results')")
        decode, models = column(bare, 5).locator("strong"), column(bare, 2).locator("strong")
        await expect(models).to_have_text(["large:70b", "middle:8b", "small:1b"])  # the newest first
        await bare.click("button.sort:has-text('Decode')")
        await expect(decode).to_have_text(["90.0", "40.0", "7.50"])
        heading = bare.locator("th", has_text="Decode")
        await expect(heading).to_have_attribute("aria-sort", "descending")
        await expect(bare.locator("button.sort:has-text('Decode')")).to_be_focused()
        await bare.keyboard.press("Enter")
        await expect(decode).to_have_text(["7.50", "40.0", "90.0"])
        await expect(heading).to_have_attribute("aria-sort", "ascending")
        await expect(column(bare, 5).first).to_contain_text("5.50 … 9.50")
        await bare.click("button.sort:has-text('Model')")
        await expect(models).to_have_text(["large:70b", "middle:8b", "small:1b"])


async def test_the_table_is_narrowed_down_by_words_machine_and_plan(bare: Page, server: Running) -> None:
    async with server.agent("alpha") as alpha, server.agent("beta") as beta:
        await finished(server, alpha, "small:1b", 90.0)
        warned = [{"code": "noisy", "message": "It varied.", "action": "Close other programs."}]
        await finished(server, beta, "small:1b", 80.0, plan="b" * 64, warnings=warned)
    await bare.click("a.machine:has-text('Results')")
    rows = bare.locator("tbody tr")
    await expect(rows).to_have_count(2)
    await bare.get_by_label("Find", exact=True).fill("SMALL beta")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("beta")
    await bare.get_by_label("Find", exact=True).fill("no such thing")
    await expect(bare.locator("main")).to_contain_text("No result fits these choices.")
    await bare.get_by_label("Find", exact=True).fill("")
    await bare.get_by_label("Machine", exact=True).select_option(label="alpha")
    await expect(rows).to_have_count(1)
    await bare.get_by_label("Machine", exact=True).select_option(label="all")
    await bare.get_by_label("Plan", exact=True).select_option("b" * 64)
    await expect(rows).to_have_count(1)
    await rows.locator("summary", has_text="noisy").click()
    await expect(rows).to_contain_text("Close other programs.")
    await bare.get_by_label("without warnings only").check()
    await expect(rows).to_have_count(0)


async def test_two_results_are_picked_and_compared_with_a_verdict(bare: Page, server: Running) -> None:
    async with server.agent("alpha") as alpha, server.agent("beta") as beta:
        await finished(server, alpha, "small:1b", 80.0)
        await finished(server, beta, "small:1b", 40.0)
    await bare.click("a.machine:has-text('Results')")
    await bare.get_by_label(re.compile("Pick small:1b on alpha")).check()
    await expect(bare.locator(".picking")).to_contain_text("pick another of the same plan")
    await bare.get_by_label(re.compile("Pick small:1b on beta")).check()
    await bare.click("a.button:has-text('Compare')")
    row = bare.locator("#comparison tr", has_text="Decode, tok/s")
    await expect(row).to_contain_text("first is better by 100 %")
    await expect(bare.locator(".cards .card").first).to_contain_text("on alpha")
    slower = bare.locator("#comparison tr", has_text="Time to first token, ms").first
    await expect(slower).to_contain_text("second is better by 29 %")
    await bare.click("a:has-text('Swap')")
    await expect(row).to_contain_text("second is better by 100 %")
    await bare.reload()
    await expect(row).to_contain_text("second is better by 100 %")  # an address that can be passed on


async def test_results_of_different_plans_are_not_offered_for_comparison(bare: Page, server: Running) -> None:
    async with server.agent("alpha") as alpha:
        first = await finished(server, alpha, "small:1b", 80.0)
        second = await finished(server, alpha, "small:1b", 40.0, plan="b" * 64)
    await bare.click("a.machine:has-text('Results')")
    for number in (0, 1):
        await bare.locator("input[name=pick]").nth(number).check()
    await expect(bare.locator(".picking .error")).to_contain_text("their plans differ")
    await bare.goto(f"{server.url}/#/compare/{first}/{second}")
    await expect(bare.locator("#comparison .caution")).to_contain_text("These two cannot be compared")


async def test_a_result_has_an_address_and_shows_what_to_mind(bare: Page, server: Running) -> None:
    samples = [{"n": n, "t_ms": n * 500.0, "phase": "iteration", "gpu_percent": 90.0 + n} for n in range(4)]
    warned = [{"code": "noisy", "message": "It varied.", "action": "Close other programs."}]
    async with server.agent("alpha") as alpha:
        job_id = await finished(server, alpha, "small:1b", 80.0, samples=samples, warnings=warned)
    await bare.goto(f"{server.url}/#/result/{job_id}")
    await expect(bare.locator("h2")).to_have_text("small:1b")
    await expect(bare.locator("main .caution")).to_contain_text("Close other programs.")
    await expect(bare.locator("main tr", has_text="Decode, tok/s").first).to_contain_text("78.0 … 82.0")
    chart = bare.locator(".trace", has_text="GPU utilisation")
    await expect(chart.locator("svg")).to_have_attribute("aria-label", re.compile("from 90 % to 93 %"))
    await bare.click("summary:has-text('3 iterations, 1 with a flag')")
    await expect(bare.locator("main .badge.warn")).to_have_text("short_output")
    await bare.goto(f"{server.url}/#/result/nothing")
    await expect(bare.locator("main .caution")).to_contain_text("There is no job")


async def test_a_result_that_comes_while_one_looks_is_listed_and_one_can_be_deleted(
    bare: Page, server: Running
) -> None:
    bare.on("dialog", lambda dialog: dialog.accept())
    await bare.click("a.machine:has-text('Results')")
    await expect(bare.locator("main")).to_contain_text("No benchmark has ended yet.")
    async with server.agent("alpha") as alpha:
        await finished(server, alpha, "small:1b", 80.0)
        await expect(bare.locator("tbody tr")).to_have_count(1)
    await bare.get_by_label("Delete the result of small:1b on alpha").click()
    await expect(bare.locator("main")).to_contain_text("No benchmark has ended yet.")
    assert (await server.http.get("/api/v1/results")).json() == []


async def test_names_in_results_are_text_and_long_ones_fit_a_telephone(bare: Page, server: Running) -> None:
    warned = [{"code": HOSTILE, "message": HOSTILE, "action": HOSTILE}]
    async with server.agent(HOSTILE) as agent:
        await finished(server, agent, LONG, 80.0, warnings=warned)
        second = await finished(server, agent, HOSTILE, 70.0, status="completed", error=HOSTILE)
    await bare.set_viewport_size({"width": 360, "height": 740})
    await bare.click("a.machine:has-text('Results')")
    await expect(bare.locator("tbody tr")).to_have_count(2)
    await fits(bare)
    await bare.goto(f"{server.url}/#/result/{second}")
    await expect(bare.locator("h2")).to_have_text(HOSTILE)
    await fits(bare)
    assert await bare.locator("main img").count() == 0
    assert "owned" not in (await bare.title())
