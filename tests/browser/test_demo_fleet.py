"""The page with several machines that have measured: what one machine alone cannot show."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from obt_server.demo.environment import DemoEnvironment, demo_environment
from obt_server.demo.fleet import MACHINES, DemoFleet, DemoMachine, demo_fleet
from obt_standin import StandIn
from tests.browser.conftest import fits, visit
from tests.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")
MODEL = "standin-8b:q4_k_m"
PREPARED_WITHIN_S = 240


def quick(machine: DemoMachine) -> DemoMachine:
    """The machine with one model, many times as fast: what is tested is the page, not the demonstration."""
    script = msgspec.json.decode(machine.script)
    script["models"] = [one for one in script["models"] if one["name"] in (MODEL, "standin-1b:q8_0")][-1:]
    for model in script["models"]:
        fast = {name: model["behaviour"][name] * 8 for name in ("prefill_tps", "decode_tps")}
        model["behaviour"] |= {**fast, "load_s": 0.05}
    return msgspec.structs.replace(machine, script=msgspec.Raw(msgspec.json.encode(script)))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def demo(tmp_path_factory: pytest.TempPathFactory, ollama: StandIn) -> AsyncIterator[DemoEnvironment]:
    """The first machine, before the others come: the fixtures of one machine work with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_URL", ollama.url)
        async with demo_environment(tmp_path_factory.mktemp("demo"), free_port()) as ready:
            yield ready


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fleet(demo: DemoEnvironment, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DemoFleet]:
    """The others, with their benchmarks finished."""
    folder: Path = tmp_path_factory.mktemp("fleet")
    async with demo_fleet(folder, demo, [quick(one) for one in MACHINES]) as one:
        async with asyncio.timeout(PREPARED_WITHIN_S):
            await one.ready()
        yield one


async def result_of(demo: DemoEnvironment, plan: str) -> list[str]:
    """Agent and job of each result of a plan, the fastest first."""
    lines = (await demo.client.get("/results?sort=-decode_tps_corrected"))["results"]
    return [f"{one['agent_id']}/{one['job_id']}" for one in lines if one["plan_name"] == plan]


async def test_cards_name_the_gpus_and_say_who_takes_their_memory(
    page: Page, demo: DemoEnvironment, fleet: DemoFleet
) -> None:
    tower = page.locator("article.machine", has_text="gpu-tower")
    await expect(tower).to_contain_text("2 × Scripted GPU, 24 GiB")
    await expect(tower).to_contain_text(re.compile(r"\d of 48\.0 GiB\s+GPU memory"))
    await expect(tower).to_contain_text("stand-in")
    await expect(page.locator("article.machine", has_text="cpu-box")).to_contain_text("no GPU")
    await demo.client.command(fleet.machines["gpu-tower"], "load_model", {"model": MODEL})
    await expect(tower.locator("li", has_text=MODEL)).to_contain_text(re.compile(r"\d+:\d\d left"))
    await expect(tower.locator("svg.bar title")).to_have_text(re.compile(rf"{MODEL} \d+ %, other \d+ %"))


async def test_a_card_leads_to_the_job_that_runs(page: Page, demo: DemoEnvironment, fleet: DemoFleet) -> None:
    plan = {"model_name": MODEL, "num_iterations": 500, "max_iterations": 500, "cooldown_s": 0}
    agent = fleet.machines["gpu-desk"]
    job = (await demo.client.post("/benchmarks", {"agent": agent, "plan": plan}))["job_id"]
    card = page.locator("article.machine", has_text="gpu-desk")
    await expect(card.locator("a.job")).to_contain_text("iteration")
    await card.locator("a.job").click()
    await expect(page.locator("main h1")).to_contain_text(f"{MODEL} on gpu-desk")
    await demo.client.command(agent, "cancel", {"job_id": job})
    await expect(page.locator("main .status", has_text="cancelled")).to_be_visible()
    await visit(page, "")
    await expect(card.locator("a.job")).to_have_count(0)


async def test_several_gpus_are_told_apart(page: Page, fleet: DemoFleet) -> None:
    await visit(page, f"machine/{fleet.machines['gpu-tower']}")
    power = page.locator("figure", has_text="Power").first
    await expect(power.locator("[role=img]")).to_have_attribute(
        "aria-label", re.compile(r"GPU 0 \d+ W, GPU 1 \d+ W")
    )
    await page.click("#tab-inventory")
    await expect(page.locator("#panel")).to_contain_text("this GPU does not exist")


async def test_a_sweep_has_a_curve_for_each_number_of_requests(
    page: Page, demo: DemoEnvironment, fleet: DemoFleet
) -> None:
    (first, *_) = await result_of(demo, "prompt lengths")
    await visit(page, f"result/{first}")
    drawing = page.locator("svg[aria-label*='over prompt tokens']")
    curve = page.locator("figure", has=drawing).first
    await expect(curve).to_contain_text("2 at once")
    await expect(curve).to_contain_text("4 at once")
    await expect(page.locator("main")).to_contain_text("which stays above zero")
    await expect(page.locator("figure", has_text="Power")).to_be_visible()


async def test_three_machines_are_compared_and_ranked(
    page: Page, demo: DemoEnvironment, fleet: DemoFleet
) -> None:
    results = await result_of(demo, "short answers")
    assert len(results) == 3
    await visit(page, f"compare?r={','.join(results)}")
    await expect(page.locator("main section h2", has_text="over")).to_have_count(2)
    await expect(page.locator("main")).to_contain_text("worse by")
    await visit(page, "leaderboard")
    await page.locator("select").first.select_option(label="short answers (3)")
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(3)
    await expect(rows.last).to_contain_text("cpu-box")


async def test_every_view_with_several_machines_fits_a_telephone(
    page: Page, demo: DemoEnvironment, fleet: DemoFleet
) -> None:
    sweep, short = await result_of(demo, "prompt lengths"), await result_of(demo, "short answers")
    tower = fleet.machines["gpu-tower"]
    await page.set_viewport_size({"width": 390, "height": 844})
    for address, words in {
        "": "gpu-tower",
        f"machine/{tower}": "GPU 1",
        f"machine/{tower}?tab=inventory": "Scripted",
        "results": "results",
        f"result/{sweep[0]}": "All figures",
        f"compare?r={','.join(short)}": "reference",
        "leaderboard": "Dots are means",
    }.items():
        await visit(page, address)
        await expect(page.locator("main")).to_contain_text(words)
        await fits(page)
