"""Every view by axe, in light and dark, on a telephone; by keyboard alone; under a path of a site."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from obt_server.demo.environment import DemoEnvironment
from tests.browser.conftest import Watched, fits, sign_in, visit, watching
from tests.browser.simulated import GIB, GPU, LONG, finished, inventory, model, progress, sampled
from tests.project.paths import ROOT
from tests.server.conftest import PASSWORD, Running, running
from tests.server.job_steps import start

pytestmark = pytest.mark.asyncio(loop_scope="session")
AXE = ROOT / "console/node_modules/axe-core/axe.min.js"
SMALL = "standin-small:latest"
VIOLATIONS = """async () => {
  const found = (await axe.run(document)).violations;
  const said = (kind, node) => `${kind}: ${node.html.slice(0, 160)} ${node.failureSummary.slice(0, 200)}`;
  return found.flatMap((one) => one.nodes.map((node) => said(one.id, node)));
}"""


@pytest_asyncio.fixture(loop_scope="session")
async def views(server: Running) -> AsyncIterator[dict[str, str]]:
    """Each view's address and a text that is there when it has everything, with something in each."""
    async with server.agent("alpha") as alpha, server.agent("beta") as beta:
        await server.enrol("gone")
        alpha.handlers["hardware_watch"] = watch
        await alpha.ask("hardware.sync", inventory(gpus=[GPU]))
        await alpha.sync_models(model(LONG, capabilities=("completion",)), model("small:1b", "a"))
        await beta.sync_models(model("small:1b", "b"))
        warned = [{"code": "noisy", "message": "It varied.", "action": "Close other programs."}]
        samples = [{"n": n, "t_ms": n * 500.0, "phase": "iteration", "gpu_percent": 90.0} for n in range(4)]
        first = await finished(server, alpha, LONG, 80.0, warnings=warned, samples=samples)
        second = await finished(server, beta, "small:1b", 40.0)
        open_job = await start(server, alpha)
        await progress(alpha, open_job, phase="iteration", cell="512:128", iteration=2, iterations_planned=4)
        one, two = f"{alpha.agent_id}/{first}", f"{beta.agent_id}/{second}"
        yield {
            "": "Needs attention",
            f"machine/{alpha.agent_id}": "A big GPU",
            **{
                f"machine/{alpha.agent_id}?tab={tab}": "" for tab in ("inventory", "models", "jobs", "access")
            },
            "models": "other digest",
            f"models?model=small:1b&machine={beta.agent_id}": "Nothing changed",
            "models?tab=rollouts": "Nothing was rolled out yet",
            "models?tab=sets": "No set yet",
            "campaigns": "No campaign yet",
            "campaigns?tab=schedules": "No schedule yet",
            "campaigns?tab=regressions": "No open regression",
            "campaigns?tab=plans": "No plan is saved yet",
            "campaigns/new?models=small:1b&plans=quick": "Before it starts",
            f"campaigns/history?agent={beta.agent_id}&model=small:1b&plan={'a' * 64}": "Dots are results",
            "add": "Join tokens",
            f"run?on={alpha.agent_id}": "Takes about",
            "jobs": "running",
            f"jobs/{alpha.agent_id}/{open_job}": "2 of 4",
            "results": "2 results",
            f"result/{one}": "Close other programs.",
            f"compare?r={one},{two}": "reference",
            f"leaderboard?plan={'a' * 64}": "95 % interval",
            f"playground?on={alpha.agent_id}": "Nothing was said yet.",
            "settings": "API tokens",
        }


async def watch(agent: Any, request: Any) -> Any:
    """Samples until it is cancelled, as an agent sends them: whoever comes late waits for the next."""
    gpu = {
        "utilization_ratio": 0.9,
        "memory_used_bytes": 6 * GIB,
        "temperature_celsius": 60,
        "power_watts": 200,
    }
    for n in itertools.count(1):
        await agent.stream_items(request, sampled(n, gpu))
        await asyncio.sleep(0.5)


async def test_axe_finds_nothing_in_any_view_in_light_and_dark(bare: Page, views: dict[str, str]) -> None:
    found: list[str] = []
    for scheme in ("light", "dark"):
        await bare.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        await bare.reload()  # no colour of the other scheme is left
        await bare.evaluate(AXE.read_text())
        for address, words in views.items():
            await visit(bare, address)
            await expect(bare.locator("main")).to_contain_text(words)
            found += [f"{scheme} #/{address}: {one}" for one in await bare.evaluate(VIOLATIONS)]
    await bare.click("nav button:has-text('Sign out')")
    await expect(bare.locator("input[name=password]")).to_be_visible()
    found += [f"signed out: {one}" for one in await bare.evaluate(VIOLATIONS)]
    assert not found, "\n".join(found)


async def test_every_view_fits_a_telephone(bare: Page, views: dict[str, str]) -> None:
    for width in (360, 390):
        await bare.set_viewport_size({"width": width, "height": 780})
        for address, words in views.items():
            await visit(bare, address)
            await expect(bare.locator("main")).to_contain_text(words)
            await fits(bare)
    await bare.get_by_role("button", name="Menu").click()
    await bare.get_by_role("link", name="Settings").click()
    await expect(bare.locator("h1")).to_have_text("Settings")


async def test_the_page_works_under_a_path_of_a_site(browser: Browser, tmp_path: Path) -> None:
    async with (
        running(tmp_path, root_path="/obt") as server,
        watching(browser, f"{server.url}/obt") as watched,
    ):
        await sign_in(watched.page, PASSWORD)
        assert watched.page.url.startswith(f"{server.url}/obt/")
        await watched.page.click("a:has-text('Add the first machine')")
        await expect(watched.page.locator("code", has_text="/obt").first).to_be_visible()


NAME = """() => {
  const one = document.activeElement;
  const labels = [...(one.labels ?? [])].map((label) => (label.firstElementChild ?? label).textContent);
  return [one.getAttribute("aria-label"), ...labels, one.getAttribute("placeholder"),
    one.tagName === "SELECT" ? "" : one.textContent].filter(Boolean).join(" | ").trim();
}"""


async def tab_to(page: Page, name: str, *, most: int = 90) -> None:
    """Press Tab until what has the focus is called so."""
    for _ in range(most):
        await page.keyboard.press("Tab")
        if re.search(name, await page.evaluate(NAME)):
            assert await page.evaluate("document.activeElement.matches(':focus-visible')"), name
            return
    raise AssertionError(f"no Tab leads to {name}")


async def go(page: Page, words: str, heading: str) -> None:
    """By the palette."""
    await page.keyboard.press("Control+k")
    await expect(page.get_by_role("combobox", name="A view, a machine")).to_be_focused()
    await page.keyboard.type(words)
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text(heading)


async def test_ten_tasks_are_done_by_keyboard_alone(opened: Watched, demo: DemoEnvironment) -> None:
    await _sign_in_and_look_at_machines(opened.page, demo)
    await _measure_and_read(opened.page)
    await _compare_ask_and_leave(opened.page)


async def _sign_in_and_look_at_machines(page: Page, demo: DemoEnvironment) -> None:
    keyboard = page.keyboard
    # 1. Sign in.
    await expect(page.locator("input[name=password]")).to_be_visible()
    if "Password" not in await page.evaluate(NAME):
        await tab_to(page, "Password")
    await keyboard.type(demo.password)
    await keyboard.press("Enter")
    await expect(page.locator("article.machine")).to_be_visible()
    # 2. Add a machine.
    await go(page, "add a", "Add a machine")
    await tab_to(page, "gpu-box")
    await keyboard.type("by keyboard")
    await keyboard.press("Enter")
    await expect(page.locator("code", has_text="obtj_")).to_be_visible()
    # 3. Look at a machine, tab by tab.
    await go(page, "demo", "demo")
    await tab_to(page, "^Live$")
    await keyboard.press("ArrowRight")
    await keyboard.press("ArrowRight")
    await expect(page.locator("#tab-models")).to_be_focused()
    # 4. Load a model.
    await tab_to(page, f"^Load {SMALL}")
    await keyboard.press("Enter")
    await expect(page.get_by_label(f"Unload {SMALL}")).to_be_visible()


async def _measure_and_read(page: Page) -> None:
    keyboard = page.keyboard
    # 5. Start a sweep and follow it.
    await tab_to(page, f"Benchmark {SMALL}")
    await keyboard.press("Enter")
    await expect(page.locator("h1")).to_have_text("New benchmark")
    await tab_to(page, "Change it")
    await keyboard.press("Enter")
    await tab_to(page, "Sweep over prompt")
    await keyboard.type("64, 128")
    for field in ("^Iterations \\|?|^Iterations$", "Iterations, at most"):
        await tab_to(page, field)
        await keyboard.type("2")
    await tab_to(page, "^Start")
    await keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text(f"{SMALL} on demo")
    await tab_to(page, "^Result$|Cancel")
    await expect(page.locator("a.primary:has-text('Result')")).to_be_visible(timeout=90_000)
    # 6. Read its result.
    await go(page, "results", "Results")
    await keyboard.press("/")
    await expect(page.get_by_label("Search results")).to_be_focused()
    await keyboard.type("small")
    await tab_to(page, f"^{SMALL}")
    await keyboard.press("Enter")
    await expect(page.locator(".headline")).to_be_visible()
    # 7. Start another and cancel it.
    await go(page, "benchmark on demo", "New benchmark")
    await tab_to(page, "^Start")
    await keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("on demo")
    await tab_to(page, "^Cancel")
    await keyboard.press("Enter")
    await tab_to(page, "^Cancel it", most=4)
    await keyboard.press("Enter")
    await expect(page.locator("main .status", has_text="cancelled")).to_be_visible()


async def _compare_ask_and_leave(page: Page) -> None:
    keyboard = page.keyboard
    # 8. Find the fastest of a model.
    await go(page, "leader", "Leaderboard")
    await keyboard.press("/")
    await keyboard.type("small")
    await expect(page.locator("tbody tr").first).to_contain_text(SMALL)
    # 9. Ask, and stop the answer.
    await go(page, "chat on demo", "Playground")
    await tab_to(page, "Message")
    await keyboard.type("Why?")
    await keyboard.press("Enter")
    await expect(page.locator("article.assistant")).to_contain_text("stand-in")
    await keyboard.press("Escape")
    await expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    # 10. Change the theme, and sign out.
    await go(page, "settings", "Settings")
    await tab_to(page, "Theme")
    await keyboard.type("Dark")
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await tab_to(page, "^Sign out")
    await keyboard.press("Enter")
    await expect(page.locator("input[name=password]")).to_be_visible()


async def test_a_link_leads_to_the_views_heading(bare: Page, server: Running) -> None:
    await server.enrol("box")
    await bare.locator("article.machine a").focus()
    await bare.keyboard.press("Enter")
    await expect(bare.locator("h1")).to_be_focused()
    await bare.locator(".skip").focus()
    await bare.keyboard.press("Enter")
    await expect(bare.locator("#main")).to_be_focused()
