"""Campaigns over the fleet: built, followed live, read as a matrix and a history, and begun by schedules."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from playwright.async_api import Browser, Locator, Page, expect

from obt_agent.errors import NotPermitted
from obt_agent.ollama.payloads import OllamaState
from obt_agent.protocol.commands import ListModelsResult
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.errors import WireError
from obt_agent.protocol.jobs import JobStarted
from tests.browser.conftest import fits, sign_in, visit, watching
from tests.browser.simulated import model, progress, result, summary
from tests.browser.test_accessibility import AXE, VIOLATIONS
from tests.server.agent_double import AgentDouble, Answer
from tests.server.conftest import PASSWORD, Running
from tests.server.job_steps import finish
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
SMALL, OTHER = "small:1b", "other:3b"
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


@contextlib.asynccontextmanager
async def machines(server: Running, count: int, **options: Any) -> AsyncIterator[list[AgentDouble]]:
    """Agents with two small models each, whose benchmarks run until a test ends them."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for number in range(count):
            agent = await stack.enter_async_context(server.agent(f"box-{number:02}", **options))
            agent.handlers["run_benchmark"] = begun
            await agent.sync_models(model(SMALL), model(OTHER, "b"))
            found.append(agent)
        yield found


async def begun(_: AgentDouble, request: Request) -> Answer:
    """As an agent answers with nothing else to do."""
    return JobStarted(job_id=msgspec.json.decode(request.params)["job_id"], state="running")


async def refused(_: AgentDouble, __: Request) -> Answer:
    """As an agent answers whose owner forbids benchmarks."""
    return NotPermitted("Benchmarks are forbidden.", policy_key="policy.commands.deny")


async def job_of(agent: AgentDouble, number: int = 0) -> str:
    """The job of that number, once it was asked for."""

    def runs() -> list[Any]:
        return [one for one in agent.requests if one.method == "run_benchmark"]

    await agent.until(lambda: len(runs()) > number)
    job_id: str = msgspec.json.decode(runs()[number].params)["job_id"]
    return job_id


async def begin(server: Running, **body: Any) -> dict[str, Any]:
    """A campaign that somebody else began."""
    asked = {"plans": [{"name": "quick"}], "models": [SMALL], "targets": {"all": True}} | body
    answer = await server.http.post("/api/v1/campaigns", json=asked)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def end(agent: AgentDouble, campaign: dict[str, Any], number: int, tps: float, **more: Any) -> None:
    """The job of that number ends with a result."""
    job_id = await job_of(agent, number)
    text = result(job_id, SMALL, tps, plan=campaign["plans"][0]["hash"], **more)
    await finish(agent, job_id, text)


def place(page: Page, name: str) -> Locator:
    """The cell of the grid whose words begin so."""
    return page.get_by_role("gridcell", name=re.compile(f"^{re.escape(name)}"))


def plan(page: Page, name: str) -> Locator:
    """The choice of a plan in the builder."""
    plans = page.get_by_role("group", name="Plans", exact=True)
    return plans.get_by_role("checkbox", name=re.compile(f"^{name}"))


async def test_a_campaign_is_built_reloaded_begun_and_followed_in_two_browsers(
    bare: Page, browser: Browser, server: Running
) -> None:
    async with machines(server, 2) as agents:
        await visit(bare, "campaigns")
        await bare.get_by_role("link", name="Start the first campaign").click()
        await bare.get_by_role("group", name="Models", exact=True).get_by_label(SMALL).check()
        await plan(bare, "quick").check()
        preview = bare.get_by_role("region", name="What would happen")
        await expect(preview).to_contain_text("2 cells on 2 machines")
        await bare.reload()
        await expect(preview).to_contain_text("2 cells on 2 machines")  # the address holds what was chosen
        await expect(preview.get_by_role("row", name="box-01")).to_contain_text("not known")
        await bare.get_by_role("button", name="Start the campaign").click()
        await expect(bare.get_by_role("grid")).to_be_visible()
        jobs = [await job_of(agent) for agent in agents]
        await progress(
            agents[0], jobs[0], phase="iteration", cell="512:128", iteration=2, iterations_planned=4
        )
        await expect(place(bare, f"{SMALL}, quick on box-00")).to_contain_text("running")
        async with watching(browser, bare.url) as other:
            await sign_in(other.page, PASSWORD)
            await expect(place(other.page, f"{SMALL}, quick on box-00")).to_contain_text("running")
            for agent, job_id in zip(agents, jobs, strict=True):
                await finish(agent, job_id, result(job_id, SMALL, 40))
            for page in (bare, other.page):
                await expect(page.get_by_role("gridcell", name=re.compile("done, 40"))).to_have_count(2)
                await expect(page.get_by_role("status").filter(has_text="done").first).to_be_visible()


async def test_the_idle_check_and_the_figure_that_decides_are_set_and_kept_by_the_next_one(
    bare: Page, server: Running
) -> None:
    async with machines(server, 1):
        await visit(bare, f"campaigns/new?models={SMALL}&plans=quick")
        await bare.get_by_label("Figure that decides").select_option("first_token_ms")
        await bare.get_by_text("Hours, idle check, baseline").click()
        longest = bare.get_by_label("Waited for at most, seconds")
        await expect(longest).to_be_disabled()  # nothing is waited for that is not checked
        await bare.get_by_label("Idle before each cell, seconds").fill("30")
        await longest.fill("7200")
        await bare.get_by_role("button", name="Start the campaign").click()
        await bare.get_by_role("link", name="Again").click()
        await expect(longest).to_have_value("7200")
        await expect(bare.get_by_label("Idle before each cell, seconds")).to_have_value("30")
        await expect(bare.get_by_label("Figure that decides")).to_have_value("first_token_ms")
        (made,) = (await server.http.get("/api/v1/campaigns")).json()
        view = (await server.http.get(f"/api/v1/campaigns/{made['id']}")).json()
        assert view["settle"] == {"idle_for_s": 30, "max_wait_s": 7200}
        assert view["metric"] == "first_token_ms"


async def test_a_pull_shows_how_far_it_is(bare: Page, server: Running) -> None:
    async with machines(server, 1, capabilities=("list_models", "run_benchmark", "pull_model")) as (agent,):
        agent.handlers["pull_model"] = begun
        agent.handlers["list_models"] = no_models
        made = await begin(server, models=["new:1b"], pull_missing=True)
        await visit(bare, f"campaigns/{made['id']}")
        await agent.until(lambda: any(one.method == "pull_model" for one in agent.requests))
        (asked,) = (one for one in agent.requests if one.method == "pull_model")
        job_id = msgspec.json.decode(asked.params)["job_id"]
        cell = place(bare, "new:1b, quick on box-00")
        for percent in (20, 60):
            much = {"completed_bytes": percent * 10**7, "total_bytes": 10**9, "bytes_per_second": 1e6}
            await progress(agent, job_id, phase="pulling", **much)
            await expect(cell).to_have_attribute("aria-label", re.compile(f"pulling, {percent} %"))
            await expect(cell.get_by_role("progressbar")).to_have_attribute("value", str(percent / 100))
        await cell.focus()
        detail = bare.get_by_label("The cell")
        await expect(detail).to_contain_text("pulling, 60 %")
        await expect(detail).to_contain_text(re.compile("572 of 954 MiB · 977 KiB/s"))


async def no_models(_: AgentDouble, __: Request) -> Answer:
    """As an agent answers whose Ollama has none."""
    return ListModelsResult(models=(), list_digest="none", ollama=OllamaState(reachable=True))


async def test_what_an_owner_forbids_is_refused_with_its_remedy_before_and_after_the_start(
    bare: Page, server: Running
) -> None:
    async with machines(server, 1, capabilities=("list_models",)) as (agent,):
        agent.handlers["run_benchmark"] = refused
        await visit(bare, f"campaigns/new?models={SMALL}&plans=quick")
        preview = bare.get_by_role("region", name="What would happen")
        await expect(preview).to_contain_text("1 cell refused")
        await expect(preview.locator("code")).to_contain_text("policy.")
        made = await begin(server)
        await visit(bare, f"campaigns/{made['id']}")
        cell = place(bare, f"{SMALL}, quick on box-00: refused")
        await cell.focus()
        detail = bare.get_by_label("The cell")
        await expect(detail).to_contain_text("Its owner allows it")
        await expect(detail.locator("code").last).to_contain_text("policy.")


async def test_cells_are_chosen_by_keyboard_and_cancelled(bare: Page, server: Running) -> None:
    async with machines(server, 2) as agents:
        made = await begin(server, models=[SMALL, OTHER])
        await job_of(agents[0])
        await visit(bare, f"campaigns/{made['id']}")
        await place(bare, f"{SMALL}, quick on box-00").focus()
        await bare.keyboard.press("ArrowRight")
        await expect(place(bare, f"{OTHER}, quick on box-00")).to_be_focused()
        await bare.keyboard.press(" ")
        await bare.keyboard.press("ArrowDown")
        await bare.keyboard.press(" ")
        await expect(bare.locator("[role=gridcell][aria-selected=true]")).to_have_count(2)
        await bare.get_by_role("button", name="Cancel 2 chosen").click()
        await expect(bare.get_by_role("gridcell", name=re.compile("cancelled"))).to_have_count(2)
        await expect(bare.get_by_label("The cell")).to_contain_text(f"{OTHER} on box-01")


async def test_a_failed_cell_says_why_and_is_run_again(bare: Page, server: Running) -> None:
    async with machines(server, 1) as (agent,):
        made = await begin(server)
        await visit(bare, f"campaigns/{made['id']}")
        error = WireError(code=-32000, message="Ollama ended while the model was loaded.")
        await finish(agent, await job_of(agent), "{}", state="failed", error=error)
        cell = place(bare, f"{SMALL}, quick on box-00")
        await expect(cell).to_have_attribute("aria-label", re.compile("failed, .*Ollama ended"))
        await bare.get_by_role("button", name="Rerun 1 without a result").click()
        await end(agent, made, 1, 40)
        await expect(cell).to_contain_text("done")


async def test_machines_are_added_later(bare: Page, server: Running) -> None:
    async with machines(server, 2) as agents:
        made = await begin(server, targets={"agents": [agents[0].agent_id]})
        await visit(bare, f"campaigns/{made['id']}")
        await bare.get_by_role("button", name="Add machines").click()
        await bare.get_by_role("dialog").get_by_label("box-01").check()
        await bare.get_by_role("button", name="Add 1 machine").click()
        await job_of(agents[1])
        await expect(place(bare, f"{SMALL}, quick on box-01")).to_be_visible()


async def test_the_matrix_says_what_is_missing_and_why_and_is_saved(
    bare: Page, server: Running, tmp_path: Path
) -> None:
    async with machines(server, 2) as agents:
        made = await begin(server)
        await end(agents[0], made, 0, 40)
        error = WireError(code=-32000, message="Ollama ended while the model was loaded.")
        await finish(agents[1], await job_of(agents[1]), "{}", state="failed", error=error)
        await visit(bare, f"campaigns/{made['id']}?tab=matrix")
        map_ = bare.get_by_role("table").first
        await expect(map_.get_by_role("row", name="box-00")).to_contain_text(re.compile("40.*38 … 42"))
        await expect(map_.get_by_role("row", name="box-01")).to_contain_text("Ollama ended")
        async with bare.expect_download() as saved:
            await bare.get_by_role("button", name="Save as CSV").click()
        await (await saved.value).save_as(tmp_path / "matrix.csv")
        lines = (tmp_path / "matrix.csv").read_text().splitlines()
        assert lines[1].startswith(f"box-00,{SMALL},quick,done,40,38,42,")
        await bare.get_by_label("Metric").select_option("first_token_ms")
        await expect(map_.get_by_role("row", name="box-00")).to_contain_text("140")
        assert "metric=first_token_ms" in bare.url
        await map_.get_by_role("link", name="140").click()
        await expect(bare.locator("h1")).to_have_text(f"{SMALL} on box-00")
        await expect(bare.get_by_role("img", name=re.compile("result by result"))).to_be_visible()
        await expect(bare.get_by_label("Metric")).to_have_value("first_token_ms")


async def test_the_matrix_and_a_history_show_the_point_of_a_sweep_that_is_chosen(
    bare: Page, server: Running
) -> None:
    prompts = [{"prompt_tokens": 512, "completion_tokens": 128}]
    swept = {"prompts": prompts, "sweep": {"prompt_tokens": [512, 2048]}}
    short, long = (f"{length}:128 ctx 4096 x1" for length in (512, 2048))
    async with machines(server, 1) as (agent,):
        made = await begin(server, plans=[{"plan": swept, "label": "swept"}, {"name": "quick"}])
        cells = [
            {"index": index, "label": label, "summary": {"decode_tps_corrected": summary(tps)}}
            for index, (label, tps) in enumerate(((short, 40), (long, 30)))
        ]
        await end(agent, made, 0, 40, cells=cells)
        await visit(bare, f"campaigns/{made['id']}?tab=matrix")
        row = bare.get_by_role("table").first.get_by_role("row", name="box-00")
        await expect(row).to_contain_text(re.compile("40.*38 … 42"))
        await bare.get_by_label("Point of the sweep").select_option(long)
        await expect(row).to_contain_text(re.compile("30.*28 … 32"))
        await expect(row).to_contain_text("its plan does not measure this point")
        await row.get_by_role("link", name="30").click()
        await expect(bare.locator("h1")).to_have_text(f"{SMALL} on box-00")
        point = bare.get_by_label("Point of the sweep")
        await expect(point).to_have_value(long)
        await point.select_option(short)
        await expect(bare.get_by_role("row").nth(1)).to_contain_text("40")
        await fits(bare)


async def test_a_schedule_is_saved_paused_with_its_reason_run_and_deleted(
    bare: Page, server: Running
) -> None:
    async with machines(server, 1) as (agent,):
        await visit(bare, f"campaigns/new?models={SMALL}&plans=quick")
        await expect(bare.get_by_role("region", name="What would happen")).to_contain_text("1 cell")
        await bare.get_by_text("Run it by a schedule").click()
        await bare.get_by_label("Name of the schedule").fill("nightly")
        await bare.get_by_label("Time zone").fill("Europe/Berlin")
        await bare.get_by_role("button", name="Save the schedule").click()
        card = bare.get_by_label("The schedule nightly")
        await expect(card).to_contain_text(re.compile(r"0 2 \* \* \* in Europe/Berlin"))
        await expect(card).to_contain_text("02:00")
        await card.get_by_role("button", name="Pause nightly").click()
        await bare.keyboard.type("box-00 is being repaired")
        await bare.keyboard.press("Enter")
        await expect(card).to_contain_text("Paused by admin")
        await expect(card).to_contain_text("box-00 is being repaired")
        await card.get_by_role("button", name="Resume nightly").click()
        await expect(card).not_to_contain_text("Paused by")
        await card.get_by_role("button", name="Run now nightly").click()
        await job_of(agent)
        await expect(bare.get_by_role("grid")).to_be_visible()
        await visit(bare, "campaigns?tab=schedules")
        await card.get_by_role("button", name="Delete nightly").click()
        await bare.get_by_role("button", name="Delete it").click()
        await expect(bare.get_by_role("tabpanel")).to_contain_text("No schedule yet")


async def test_a_plan_is_saved_from_the_builder_and_has_versions(bare: Page, server: Running) -> None:
    async with machines(server, 1):
        for iterations in ("5", "7"):
            await visit(bare, "campaigns/new")
            await bare.get_by_text("Make another plan").click()
            await bare.get_by_label("Iterations", exact=True).fill(iterations)
            await bare.get_by_label("Save it as").fill("ours")
            await bare.get_by_role("button", name="Save the plan").click()
            await expect(plan(bare, "ours")).to_be_checked()
            await visit(bare, "campaigns?tab=plans")
            await expect(bare.get_by_role("row", name="ours").first).to_contain_text(
                f"{iterations} iterations"
            )
        await bare.get_by_role("button", name="2 versions of ours").click()
        await expect(bare.get_by_role("row")).to_have_count(4)
        await bare.get_by_role("link", name="Use ours").click()
        await expect(plan(bare, "ours")).to_be_checked()


async def test_axe_finds_nothing_in_the_views_of_a_campaign_and_they_fit_a_telephone(
    bare: Page, server: Running
) -> None:
    async with machines(server, 3, capabilities=("list_models", "run_benchmark")) as agents:
        made = await begin(server, models=[SMALL, OTHER], name="nightly")
        await end(agents[0], made, 0, 40)
        agent, hashed = agents[0].agent_id, made["plans"][0]["hash"]
        views = {
            "campaigns": "nightly",
            f"campaigns/new?models={SMALL}&plans=quick&on=machines&machines={agent}": "1 cell on 1 machine",
            f"campaigns/{made['id']}?machine={agent}&model={SMALL}&plan={hashed}": "Result",
            f"campaigns/{made['id']}?tab=matrix": "A figure leads to its history",
            f"campaigns/{made['id']}?tab=verdicts": "when the campaign has ended",
            f"campaigns/history?agent={agent}&model={SMALL}&plan={hashed}": "Dots are results",
        }
        found: list[str] = []
        for scheme in SCHEMES:
            await bare.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            await bare.reload()
            await bare.evaluate(AXE.read_text())
            for width in (1280, 380):
                await bare.set_viewport_size({"width": width, "height": 800})
                for address, words in views.items():
                    await visit(bare, address)
                    await expect(bare.locator("main")).to_contain_text(words)
                    await fits(bare)
                    found += [f"{scheme} #/{address}: {one}" for one in await bare.evaluate(VIOLATIONS)]
        assert not found, "\n".join(found)


async def test_what_became_slower_is_said_in_words_and_acknowledged(bare: Page, server: Running) -> None:
    async with machines(server, 1) as (agent,):
        for night, tps in enumerate((100, 101, 99, 100, 101, 99, 100, 100, 70, 71, 69, 70)):
            await end(agent, await begin(server), night, tps)
            await until_judged(server)
        await visit(bare, "campaigns")
        await expect(bare.get_by_role("row").nth(1)).to_contain_text("1 slower")
        await visit(bare, "campaigns?tab=regressions")
        card = bare.get_by_role("article", name=f"{SMALL} on box-00: slower")
        await expect(card).to_contain_text(re.compile("−30 %|−29 %|−31 %"))
        await card.get_by_role("link", name=f"{SMALL} on box-00").click()
        await expect(bare.get_by_role("img", name=re.compile("from here on"))).to_be_visible()
        await bare.get_by_role("button", name="Pin the result").first.click()
        await expect(bare.get_by_role("button", name="Unpin the result")).to_have_count(1)
        # What is back as it was stays listed: somebody has to know of it.
        await end(agent, await begin(server), 12, 100)
        await until_judged(server)
        await visit(bare, "campaigns?tab=regressions")
        await expect(card).to_contain_text(re.compile("Back since.*at its baseline again"))
        await expect(card).to_contain_text("It stays listed until somebody acknowledges it.")
        await card.get_by_label(f"Note on {SMALL} on box-00").fill("a new driver")
        await card.get_by_role("button", name="Acknowledge").click()
        await expect(card).to_have_count(0)
        await bare.get_by_label("Which regressions").select_option("acknowledged")
        await expect(card).to_contain_text("Acknowledged by admin")
        await expect(card).to_contain_text("a new driver")


async def until_judged(server: Running) -> None:
    """Wait until the newest campaign has been compared with its baseline."""

    async def judged() -> bool:
        newest = (await server.http.get("/api/v1/campaigns", params={"limit": 1})).json()[0]
        return newest["verdicts"] is not None

    await until(judged)
