"""Machines in every condition, jobs among others, and a server that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from playwright.async_api import Browser, Page, Route, expect

from obt_agent.errors import NotPermitted
from obt_agent.protocol.envelope import Request
from obt_server.storage import Enrolment
from tests.browser.conftest import fits, sign_in, visit, watching
from tests.browser.simulated import GIB, GPU, LONG, heartbeat, inventory, model, progress, sampled
from tests.ports import free_port
from tests.server.agent_double import AgentDouble, Answer, never, uuid7
from tests.server.conftest import PASSWORD, Running, running
from tests.server.enrolling import enrol
from tests.server.job_steps import accept, finish, start

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def machine(page: Page, agent: AgentDouble, tab: str = "live") -> None:
    await visit(page, f"machine/{agent.agent_id}?tab={tab}")
    await expect(page.locator("[role=tab][aria-selected=true]")).to_have_attribute("id", f"tab-{tab}")


async def test_the_first_machine_is_said_how_to_add_and_seen_when_it_connects(
    bare: Page, server: Running
) -> None:
    await expect(bare.locator("main")).to_contain_text("No machine yet")
    await bare.click("a:has-text('Add the first machine')")
    # New is who comes while the view is there.
    await expect(bare.locator("h1")).to_have_text("Add a machine")
    async with server.agent("newcomer"):
        await expect(bare.locator("main")).to_contain_text("newcomer is here")
        await bare.click("main a:has-text('newcomer')")
        await expect(bare.locator("h1")).to_have_text("newcomer")


async def test_a_machine_with_no_model_says_how_to_pull_one(bare: Page, server: Running) -> None:
    async with server.agent("empty") as agent:
        await agent.sync_models()
        await machine(bare, agent, "models")
        await expect(bare.locator("#panel")).to_contain_text("ollama pull llama3.2:1b")
        await agent.sync_models(model("tiny:1b"), revision=2)
        await expect(bare.locator("tbody tr")).to_contain_text("tiny:1b")


async def test_a_machine_without_a_gpu_says_so_and_has_no_empty_charts(bare: Page, server: Running) -> None:
    async with server.agent("plain") as agent:
        agent.handlers["hardware_watch"] = never
        await agent.ask("hardware.sync", inventory())
        await machine(bare, agent)
        await agent.until(lambda: bool(agent.requests))
        for n in (1, 2):
            await agent.stream_items(agent.requests[-1], sampled(n))
        await expect(bare.locator("figure", has_text="Memory used")).to_contain_text("16.0 GiB")
        await expect(bare.locator("figure", has_text="Power")).to_have_count(0)
        await expect(bare.locator("tr", has_text="runner")).to_contain_text("150 %")


async def test_a_gpu_is_drawn_live_with_memory_temperature_and_power(bare: Page, server: Running) -> None:
    async with server.agent("strong") as agent:
        agent.handlers["hardware_watch"] = never
        await agent.ask("hardware.sync", inventory(gpus=[GPU]))
        await machine(bare, agent)
        await agent.until(lambda: bool(agent.requests))
        for n, busy in ((1, 0.2), (2, 0.9)):
            gpu = {
                "utilization_ratio": busy,
                "memory_used_bytes": n * 6 * GIB,
                "temperature_celsius": 50 + n,
                "power_watts": 100 * n,
                "fan_ratio": 0.4,
                "ecc_uncorrected": 2,
            }
            await agent.stream_items(agent.requests[-1], sampled(n, gpu))
        panel = bare.locator("#panel")
        await expect(panel).to_contain_text("A big GPU")
        await expect(bare.locator(".gpu")).to_contain_text("12.0 of 24.0 GiB")
        await expect(bare.locator("figure", has_text="Temperature").first).to_contain_text("52 °C")
        await expect(bare.locator(".gpu")).to_contain_text("200 W of 350 W")
        await expect(bare.locator(".gpu")).to_contain_text("2 uncorrected")


async def test_leaving_a_machine_starts_no_watch_on_it(alone: Page, server: Running) -> None:
    go = asyncio.Event()

    async def later(route: Route) -> None:
        await go.wait()
        await route.continue_()

    async with server.agent("left") as agent:
        await alone.route("**/assets/Add.*", later)
        await alone.reload()
        await machine(alone, agent, "models")
        await alone.evaluate("location.hash = '#/add'")
        await expect(alone).to_have_title("Add a machine · OBT")
        await expect(alone.locator("[role=tab][aria-selected=true]")).to_have_attribute("id", "tab-models")
        go.set()
        await expect(alone.locator("main")).to_contain_text("Join tokens")
        assert [one.method for one in agent.requests] == []


async def test_what_a_machines_owner_refuses_stands_where_it_would_be(bare: Page, server: Running) -> None:
    async def refuse(_: AgentDouble, __: Request) -> Answer:
        return NotPermitted("The policy of this machine does not allow hardware_watch.")

    async with server.agent("private") as agent:
        agent.handlers["hardware_watch"] = refuse
        await machine(bare, agent)
        await expect(bare.locator("#panel")).to_contain_text("does not allow")


async def test_a_machine_that_leaves_is_offline_and_online_when_it_is_back(
    bare: Page, server: Running
) -> None:
    credentials = await server.enrol("wanderer")
    async with server.agent("wanderer", credentials=credentials) as agent:
        await machine(bare, agent, "models")
        await expect(bare.locator(".status.good")).to_have_text(re.compile("online"))
    await expect(bare.locator(".status.bad")).to_have_text(re.compile("offline, last heard from .* ago"))
    await expect(bare.locator("main")).to_contain_text("sudo obt-agent status")
    await visit(bare, "")
    await expect(bare.get_by_label("Needs attention")).to_contain_text("wanderer")
    async with server.agent("wanderer", credentials=credentials):
        await expect(bare.get_by_label("Needs attention")).to_have_count(0)


async def test_revoking_the_credential_ends_the_session(bare: Page, server: Running) -> None:
    async with server.agent("suspect") as agent:
        await machine(bare, agent, "access")
        await bare.get_by_role("button", name=re.compile("^Revoke")).click()
        await bare.click("dialog button:has-text('Revoke')")
        assert await agent.until_closed() == (4401, "revoked")
        await expect(bare.locator(".status.bad").first).to_have_text(re.compile("offline"))


async def test_one_of_many_machines_is_found_by_its_name(bare: Page, server: Running) -> None:
    for number in range(30):
        await server.enrol(f"box-{number:02d}")
    async with server.agent("the-one-with-" + "a-very-long-name-" * 4) as agent:
        await agent.sync_models(model(LONG))
        await expect(bare.locator("article.machine")).to_have_count(31)
        await expect(bare.locator("nav")).to_contain_text("1/31")
        await bare.get_by_label("Search machines").fill("one-with")
        await expect(bare.locator("article.machine")).to_have_count(1)
        assert "q=one-with" in bare.url
        await bare.set_viewport_size({"width": 360, "height": 740})
        await fits(bare)
        for tab in ("live", "inventory", "models", "jobs", "access"):
            await machine(bare, agent, tab)
            await fits(bare)


async def test_heartbeats_leave_scroll_focus_and_typed_text(bare: Page, server: Running) -> None:
    for number in range(40):
        await server.enrol(f"box-{number:02d}")
    async with server.agent("zebra") as agent:
        await bare.click("button:has-text('Table')")
        await expect(bare.locator("tbody tr")).to_have_count(41)
        search = bare.get_by_label("Search machines")
        await search.focus()
        await bare.evaluate("scrollTo(0, 400)")
        before = await bare.evaluate("scrollY")
        assert before > 0
        row = bare.locator("tr", has_text="zebra")
        for cpu in (0.11, 0.22):
            await heartbeat(agent, cpu)
            await expect(row).to_contain_text(f"{cpu:.0%}".replace("%", " %"))
        assert await bare.evaluate("scrollY") == before
        await expect(search).to_be_focused()
        await visit(bare, "add")
        await bare.fill("input[placeholder*=gpu-box]", "half typed")
        await heartbeat(agent, 0.33)
        await expect(bare.locator("input[placeholder*=gpu-box]")).to_have_value("half typed")


TOUCHED = """() => {
  window.touched = new Set();
  new MutationObserver((changes) => {
    const row = (node) => node.closest?.("tr") ?? node.parentElement?.closest("tr");
    for (const { target, addedNodes } of changes)
      for (const node of [target, ...addedNodes]) window.touched.add(row(node)?.textContent ?? "table");
  }).observe(document.querySelector("main table"),
    { subtree: true, childList: true, characterData: true, attributes: true });
}"""
"""Notes which rows of the table change, by their text."""


async def enrol_many(server: Running, count: int) -> None:
    """Machines that are offline, without the way over HTTP for each."""
    for number in range(count):
        one = Enrolment(
            agent_id=uuid7(), name=f"box-{number:03d}", version="1", secret_sha256=f"{number:064x}"
        )
        await enrol(server.parts.storage, one, 1.0)
    await server.parts.hub.directory.refresh()


async def test_a_heartbeat_of_one_machine_touches_one_row(bare: Page, server: Running) -> None:
    await enrol_many(server, 40)
    async with server.agent("zebra") as agent:
        await bare.click("button:has-text('Table')")
        row = bare.locator("tr", has_text="zebra")
        await heartbeat(agent, 0.11)
        await expect(row).to_contain_text("11 %")
        await bare.evaluate(TOUCHED)
        for cpu in (0.22, 0.33):
            await heartbeat(agent, cpu)
            await expect(row).to_contain_text(f"{cpu:.0%}".replace("%", " %"))
        touched = await bare.evaluate("[...window.touched]")
        assert touched
        assert all(text.startswith("zebra") for text in touched), touched


async def test_of_hundreds_of_machines_those_in_view_are_drawn(bare: Page, server: Running) -> None:
    await enrol_many(server, 300)
    await expect(bare.locator("nav")).to_contain_text("0/300")
    seen = "(card) => card.querySelector('p').checkVisibility({ contentVisibilityAuto: true })"
    cards = bare.locator("article.machine")
    assert await cards.first.evaluate(seen)
    assert not await cards.nth(150).evaluate(seen)
    await bare.click("button:has-text('Table')")
    await expect(bare.locator("tbody tr", has_text="box-000")).to_be_visible()
    assert await bare.locator("tbody tr").count() < 100
    await bare.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    await expect(bare.locator("tbody tr", has_text="box-299")).to_be_in_viewport()
    await expect(bare.locator("tbody tr", has_text="box-000")).to_have_count(0)
    assert await bare.locator("tbody tr").count() < 100


async def test_cancel_after_a_reload_cancels_the_job_that_runs(bare: Page, server: Running) -> None:
    async with server.agent("busy") as agent:
        first = await start(server, agent)
        await start(server, agent)
        await progress(agent, first, phase="iteration", iteration=2, iterations_planned=4)
        await visit(bare, "jobs")
        await bare.reload()
        running_row = bare.locator("tbody tr", has=bare.locator(".status", has_text="running"))
        await expect(running_row).to_have_count(1)
        await expect(bare.locator("tbody .status", has_text="queued")).to_have_count(1)
        await running_row.get_by_role("button").click()
        await bare.click("dialog button:has-text('Cancel it')")
        await agent.until(lambda: agent.requests[-1].method == "cancel")
        assert msgspec.json.decode(agent.requests[-1].params)["job_id"] == first
        await finish(agent, first, state="cancelled")
        await expect(bare.locator("tbody .status", has_text="cancelled")).to_have_count(1)
        await expect(bare.locator("tbody .status", has_text="queued")).to_have_count(1)


async def test_a_new_estimate_never_moves_the_bar_back(bare: Page, server: Running) -> None:
    async with server.agent("busy") as agent:
        job_id = await start(server, agent)
        await progress(agent, job_id, phase="iteration", cell="128:16", iteration=3, iterations_planned=4)
        await visit(bare, f"jobs/{agent.agent_id}/{job_id}")
        bar = bare.locator("main progress")
        await expect(bar).to_have_js_property("value", 0.5)
        await progress(agent, job_id, phase="iteration", cell="512:16", iteration=4, iterations_planned=12)
        await expect(bare.locator(".figures")).to_contain_text("4 of 12")
        await expect(bar).to_have_js_property("value", 0.5)


async def test_older_jobs_that_were_opened_stay_when_a_job_ends(bare: Page, server: Running) -> None:
    async with server.agent("busy") as agent:
        for _ in range(60):
            await finish(agent, await start(server, agent))
        last = await start(server, agent)
        await visit(bare, "jobs")
        await expect(bare.locator("tbody tr")).to_have_count(50)
        await bare.click("button:has-text('Show older')")
        await expect(bare.locator("tbody tr")).to_have_count(61)
        await finish(agent, last)
        await expect(bare.locator("tbody .status", has_text="completed")).to_have_count(61)


async def test_a_jobs_times_say_what_they_are(bare: Page, server: Running) -> None:
    async with server.agent("busy") as agent:
        await finish(agent, await start(server, agent))
        waits = await start(server, agent)
        await visit(bare, "jobs")
        headings = bare.locator("thead th")
        await expect(headings.filter(has_text="Queued")).to_have_count(1)
        await expect(headings.filter(has_text="Ended")).to_have_count(1)
        await expect(headings.filter(has_text="Started")).to_have_count(0)
        await visit(bare, f"jobs/{agent.agent_id}/{waits}")
        await expect(bare.locator("main")).to_contain_text(re.compile("queued .* ago"))
        await expect(bare.locator("main")).not_to_contain_text(re.compile("started", re.IGNORECASE))


async def test_a_benchmark_that_is_refused_says_why(bare: Page, server: Running) -> None:
    async def refuse(_: AgentDouble, __: Request) -> Answer:
        return NotPermitted("Quiet hours last until 07:00.")

    async with server.agent("sleeper") as agent:
        await agent.sync_models(model("small:1b"))
        agent.handlers["run_benchmark"] = refuse
        await visit(bare, f"run?on={agent.agent_id}")
        start_button = bare.get_by_role("button", name=re.compile("^Start"))
        await start_button.click()
        await expect(bare.locator(".toast")).to_contain_text("Quiet hours last until 07:00.")
        await bare.locator(".toast").get_by_label("Dismiss").click()
        await expect(bare.locator(".toast")).to_have_count(0)
        agent.handlers["run_benchmark"] = accept
        await start_button.click()
        await expect(bare.locator("h1")).to_contain_text("small:1b on sleeper")


async def test_a_partial_answer_survives_the_machine(bare: Page, server: Running) -> None:
    async with server.agent("mortal") as agent:
        agent.handlers["chat"] = never
        await agent.sync_models(model("small:1b", capabilities=("completion",)))
        await visit(bare, f"playground?on={agent.agent_id}&model=small:1b")
        await expect(bare.get_by_role("combobox", name="Model")).to_have_value("small:1b")
        await bare.fill("textarea >> nth=0", "Tell me.")
        await bare.keyboard.press("Enter")
        await agent.until(lambda: bool(agent.requests) and agent.requests[-1].method == "chat")
        chunk = (
            b'{"model":"small:1b","message":{"role":"assistant","content":"Once upon a time"},"done":false}'
        )
        await agent.stream(agent.requests[-1], chunk)
        await expect(bare.locator("article.assistant")).to_contain_text("Once upon a time")
    await expect(bare.locator("article.assistant").get_by_role("alert")).to_be_visible()
    await expect(bare.locator("article.assistant")).to_contain_text("Once upon a time")


@contextlib.asynccontextmanager
async def opened_at(browser: Browser, url: str, without: str = "") -> AsyncIterator[Page]:
    """A page that is signed in; the view of that name never loads."""
    async with watching(browser, url) as watched:
        if without:
            await watched.page.route(f"**/assets/{without}.*", lambda route: route.abort())
        await sign_in(watched.page, PASSWORD)
        yield watched.page


async def test_a_lost_server_is_said_and_is_no_error_any_more_when_it_is_back(
    browser: Browser, tmp_path: Path
) -> None:
    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        async with running(tmp_path, port=port) as server:
            # The page loads all views by itself, and may have done so before the server is gone.
            page = await stack.enter_async_context(opened_at(browser, server.url, "Leaderboard"))
            await server.enrol("first")
            # One has to be loaded to be shown without the server.
            heads = {"add": "Add a machine", "jobs": "Runs", "results": "Results", "": "Fleet"}
            for view, head in heads.items():
                await visit(page, view)
                await expect(page.locator("main h1")).to_have_text(head)
            await expect(page.locator("article.machine")).to_have_count(1)
            server.uvicorn.config.timeout_graceful_shutdown = 0  # the page's stream would be waited for
        await expect(page.locator(".lost")).to_contain_text("The server does not answer.")
        await expect(page.locator("article.machine")).to_have_count(1)
        await page.evaluate("location.hash = '#/leaderboard'")
        await expect(page.locator(".lost", has_text="could not be loaded")).to_be_visible()
        await visit(page, "")
        await expect(page.locator("article.machine")).to_have_count(1)
        await expect(page.locator(".lost")).to_have_count(1)
        await visit(page, "add")
        await page.click("button:has-text('Issue')")
        await expect(page.locator(".toast")).to_contain_text("does not answer")
        # What is asked for now is answered when the server is back, and leaves no error.
        await visit(page, "results")
        await visit(page, "jobs")
        async with running(tmp_path, port=port) as server:
            await expect(page.locator(".lost")).to_have_count(0)
            await expect(page.locator("main")).to_contain_text("No job yet")
            await expect(page.locator("main .notice.bad")).to_have_count(0)
            await visit(page, "results")
            await expect(page.locator("main")).to_contain_text("No benchmark has ended yet.")
            await visit(page, "add")
            await expect(page.locator("tr", has_text="used")).to_have_count(1)  # asked for again, by itself
            async with server.agent("second"):
                await expect(page.locator("main")).to_contain_text("second is here")


async def test_whoever_was_signed_out_elsewhere_signs_in_and_goes_on(bare: Page, server: Running) -> None:
    await server.enrol("box")
    await expect(bare.locator("article.machine")).to_be_visible()
    await bare.context.clear_cookies()
    await bare.evaluate("location.hash = '#/results'")
    await expect(bare.locator("input[name=password]")).to_be_visible()
    assert await bare.locator("article.machine").count() == 0
    await sign_in(bare, PASSWORD)
    await expect(bare.locator("h1")).to_have_text("Results")


async def test_a_sign_in_that_ended_is_noticed_without_a_touch(bare: Page, server: Running) -> None:
    await server.enrol("box")
    await expect(bare.locator("article.machine")).to_be_visible()
    assert (await bare.context.request.delete(f"{server.url}/api/v1/session")).ok
    await expect(bare.locator("input[name=password]")).to_be_visible()
