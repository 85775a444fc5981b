"""Models over the fleet: the matrix, rollouts that outlive the page, sets, and what owners forbid."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec
import pytest
from playwright.async_api import Browser, Locator, Page, expect

from obt_agent.protocol.envelope import Request
from obt_agent.protocol.errors import WireError
from tests.browser.conftest import fits, sign_in, visit, watching
from tests.browser.simulated import model, progress
from tests.browser.test_accessibility import AXE, VIOLATIONS
from tests.server.agent_double import AgentDouble, Answer
from tests.server.conftest import PASSWORD, Running
from tests.server.job_steps import accept, finish

pytestmark = pytest.mark.asyncio(loop_scope="session")
NEW = "new:7b"
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
CHANGES = tuple(f"{action}_model" for action in ("pull", "create", "copy", "delete", "load", "unload"))


@contextlib.asynccontextmanager
async def machines(server: Running, count: int, **options: Any) -> AsyncIterator[list[AgentDouble]]:
    """Agents with one small model each; their owners allow everything unless said otherwise."""
    options = {"capabilities": ("list_models", *CHANGES)} | options
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for number in range(count):
            agent = await stack.enter_async_context(server.agent(f"box-{number:02}", **options))
            agent.handlers |= {"pull_model": accept, "delete_model": _done}
            await agent.sync_models(model("small:1b"))
            found.append(agent)
        yield found


async def _done(_: AgentDouble, __: Request) -> Answer:
    return {}


async def asked(agent: AgentDouble, method: str) -> None:
    """Wait until the server asked for it."""
    await agent.until(lambda: any(one.method == method for one in agent.requests))


async def job_of(agent: AgentDouble, number: int = 0) -> str:
    """The job of the pull of that number, once it was asked for."""

    def pulls() -> list[Request]:
        return [one for one in agent.requests if one.method == "pull_model"]

    await agent.until(lambda: len(pulls()) > number)
    job_id: str = msgspec.json.decode(pulls()[number].params)["job_id"]
    return job_id


async def end(agent: AgentDouble, job_id: str, state: str, **more: Any) -> None:
    """The pull's end, and the machine's list where it has the model then."""
    text = json.dumps({"model": NEW, "digest": "f" * 64})
    await finish(agent, job_id, text, kind="pull", state=state, **more)
    if state == "completed":
        await agent.sync_models(model("small:1b"), model(NEW, "f"), revision=2)


async def pull(page: Page, name: str, *, at_once: int = 20) -> Locator:
    """Pull a name that is typed to all machines; the sheet that opens."""
    await visit(page, "models")
    await expect(page.get_by_role("grid")).to_be_visible()
    await page.get_by_role("button", name="Pull a model").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Model, as Ollama names it").fill(name)
    await dialog.get_by_label("Machines at once").fill(str(at_once))
    await dialog.get_by_role("button", name="Pull:").click()
    sheet = page.get_by_label("Rollout", exact=True)
    await expect(sheet).to_contain_text(f"pull {name}")
    return sheet


async def test_a_pull_to_twenty_machines_is_reloaded_half_cancelled_and_retried(
    bare: Page, browser: Browser, server: Running
) -> None:
    async with machines(server, 20) as agents:
        sheet = await pull(bare, NEW)
        jobs = {agent: await job_of(agent) for agent in agents}
        for agent, job_id in jobs.items():
            await progress(agent, job_id, phase="pulling", completed_bytes=40, total_bytes=100)
        await expect(sheet.locator("li progress")).to_have_count(20)
        await expect(bare.get_by_role("gridcell", name="pulling").first).to_contain_text("40 %")
        await bare.reload()
        await expect(sheet.locator("li progress")).to_have_count(20)  # the address holds it
        async with watching(browser, bare.url) as other:
            await sign_in(other.page, PASSWORD)
            await expect(other.page.get_by_label("Rollout", exact=True).locator("li progress")).to_have_count(
                20
            )
            await _cancel_half(sheet, agents, jobs)
            elsewhere = other.page.get_by_label("Rollout", exact=True)
            await expect(elsewhere.locator("li", has_text="cancelled")).to_have_count(10)
        await _end_and_retry(sheet, agents[10:], jobs)
        await expect(bare.get_by_role("rowheader", name=NEW)).to_contain_text("10 of 20")


async def _cancel_half(sheet: Locator, agents: list[AgentDouble], jobs: dict[AgentDouble, str]) -> None:
    for agent in agents[:10]:
        await sheet.get_by_label(str(agent.identity["name"]), exact=True).check()
    await sheet.get_by_role("button", name="Cancel 10 chosen").click()
    for agent in agents[:10]:
        await asked(agent, "cancel")
        await end(agent, jobs[agent], "cancelled")
    await expect(sheet.locator("li", has_text="cancelled")).to_have_count(10)


async def _end_and_retry(sheet: Locator, agents: list[AgentDouble], jobs: dict[AgentDouble, str]) -> None:
    error = WireError(code=-32000, message="The registry does not answer.")
    for agent in agents[:2]:
        await end(agent, jobs[agent], "failed", error=error)
    for agent in agents[2:]:
        await end(agent, jobs[agent], "completed")
    await expect(sheet).to_contain_text("The registry does not answer.")
    await expect(sheet).to_contain_text("8 of 20 machines done")
    await sheet.get_by_role("button", name="Retry 2 failed").click()
    for agent in agents[:2]:
        await end(agent, await job_of(agent, 1), "completed")
    await expect(sheet).to_contain_text("10 of 20 machines done")
    await expect(sheet.get_by_role("button", name="Retry 10 cancelled")).to_be_visible()


async def test_what_deletes_asks_with_sizes_and_free_space_before_it(bare: Page, server: Running) -> None:
    async with machines(server, 2) as agents:
        await visit(bare, "models")
        await bare.get_by_role("rowheader", name="small:1b").click()
        await expect(bare.get_by_role("toolbar")).to_contain_text("1 model on 2 machines: 2 cells")
        await bare.get_by_role("toolbar").get_by_role("button", name="Delete").click()
        dialog = bare.get_by_role("dialog")
        await expect(dialog.get_by_role("row", name="box-01")).to_contain_text("1.0 GiB")
        await expect(dialog).to_contain_text("2 changes, 2.0 GiB of files")
        await bare.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        assert not [one for one in agents[0].requests if one.method == "delete_model"]
        await bare.get_by_role("toolbar").get_by_role("button", name="Delete").click()
        await dialog.get_by_role("button", name="Delete: 2 changes").click()
        for agent in agents:
            await asked(agent, "delete_model")
        await expect(bare.get_by_label("Rollout", exact=True)).to_contain_text("2 of 2 machines done")


async def test_the_matrix_says_what_is_where_in_words(bare: Page, server: Running) -> None:
    async with machines(server, 3) as (first, second, third):
        await first.sync_models(model("small:1b", "a", quantization_level="Q4_K_M"), revision=2)
        await second.sync_models(model("small:1b", "a"), model("other:3b"), revision=2)
        await third.sync_models(model("small:1b", "b"), revision=2)
        await visit(bare, "models")
        row = bare.get_by_role("row", name="small:1b")
        await expect(row.get_by_role("gridcell")).to_have_text(
            [re.compile("installed.*Q4_K_M · 1.0 GiB"), re.compile("installed"), re.compile("other digest")]
        )
        await expect(row.get_by_role("rowheader")).to_contain_text("digests differ")
        await expect(bare.get_by_role("row", name="other:3b").get_by_role("gridcell").first).to_contain_text(
            "–"
        )
        await bare.get_by_label("Which models").select_option("drifted")
        await expect(bare.get_by_role("rowheader")).to_have_count(1)
        assert "only=drifted" in bare.url


async def test_the_matrix_is_used_by_keyboard(bare: Page, server: Running) -> None:
    async with machines(server, 3) as agents:
        await visit(bare, "models")
        grid = bare.get_by_role("grid")
        await grid.focus()
        await bare.keyboard.press("ArrowRight")
        await bare.keyboard.press(" ")
        await bare.keyboard.press("Shift+ArrowRight")
        await expect(bare.locator("[role=gridcell][aria-selected=true]")).to_have_count(2)
        await bare.keyboard.press("ArrowUp")
        await bare.keyboard.press(" ")
        await expect(bare.locator("[role=columnheader][aria-selected=true]")).to_contain_text("box-02")
        await bare.keyboard.press("ArrowDown")
        await bare.keyboard.press("Enter")
        details = bare.get_by_label("Details").first
        await expect(details).to_contain_text("small:1b on box-02")
        assert f"machine={agents[2].agent_id}" in bare.url
        await bare.keyboard.press("Escape")
        await expect(details).to_have_count(0)
        await expect(grid).to_be_focused()


async def test_an_action_that_the_owner_forbids_is_grey_and_says_which_line_allows_it(
    bare: Page, server: Running
) -> None:
    async with machines(server, 1, capabilities=("list_models", "delete_model")):
        await visit(bare, "models")
        await bare.get_by_role("gridcell").first.click()
        toolbar = bare.get_by_role("toolbar")
        await expect(toolbar.get_by_role("button", name="Pull")).to_have_attribute("aria-disabled", "true")
        await expect(toolbar.get_by_role("button", name="Delete")).to_have_attribute("aria-disabled", "false")
        why = bare.locator("#why-pull")
        await expect(why).to_contain_text("forbidden by policy.allow_changes on box-00")
        await expect(why).to_contain_text("policy.allow_changes: [")
        await toolbar.get_by_role("button", name="Pull").click(force=True)
        await expect(bare.get_by_role("dialog")).to_be_hidden()


async def test_a_set_shows_its_drift_and_brings_machines_to_it(bare: Page, server: Running) -> None:
    async with machines(server, 2, labels=("gpu",)) as (first, second):
        await second.sync_models(model("small:1b"), model(NEW, "f"), revision=2)
        await visit(bare, "models?tab=sets")
        await bare.get_by_role("button", name="New set").click()
        await bare.get_by_label("Name", exact=True).fill("base")
        await bare.get_by_label("Models, one on a line").fill(f"small:1b\n{NEW}")
        await bare.get_by_label("gpu", exact=True).check()
        await bare.get_by_role("button", name="Save").click()
        shown = bare.get_by_label("The set base")
        await expect(shown).to_contain_text("1 of 2 machines have what the set names")
        await expect(shown.get_by_role("row", name="box-00")).to_contain_text(re.compile(f"missing.*{NEW}"))
        await shown.get_by_role("button", name="What would happen?").click()
        await expect(shown).to_contain_text(f"box-00: pull {NEW}")
        await shown.get_by_role("button", name="Do it: 1 change").click()
        text = json.dumps({"model": NEW, "digest": "f" * 64})
        await finish(first, await job_of(first), text, kind="pull")
        await expect(bare.get_by_label("Rollout", exact=True)).to_contain_text("1 of 1 machine done")
        # An agent lists what it pulled a moment after the pull's end.
        await first.sync_models(model("small:1b"), model(NEW, "f"), revision=2)
        await expect(shown).to_contain_text("2 of 2 machines have what the set names")
        assert not [one for one in second.requests if one.method == "pull_model"]


async def test_a_change_is_in_the_history_with_who_did_it(bare: Page, server: Running) -> None:
    async with machines(server, 1) as (agent,):
        await pull(bare, NEW)
        await end(agent, await job_of(agent), "completed")
        await bare.get_by_label("Close").click()
        await bare.get_by_role("row", name=NEW).get_by_role("gridcell").first.dblclick()
        details = bare.get_by_label("Details").first
        await expect(details).to_contain_text(f"{NEW} on box-00")
        await expect(details.locator("li", has_text="new on box-00")).to_contain_text("by admin")


async def test_five_hundred_machines_and_a_hundred_models_are_drawn_as_far_as_they_are_in_view(
    bare: Page, server: Running
) -> None:
    names = [f"model-{number:03}:7b" for number in range(100)]
    ids = [f"a{number}" for number in range(500)]
    cell = {"digest": "d", "size_bytes": 1 << 30, "quantization": "Q4_K_M", "loaded": False, "drift": False}
    models = [
        {
            "name": name,
            "drifted": False,
            "digests": ["d"],
            "size_bytes": 1 << 30,
            "cells": [cell | {"agent_id": one, "last_seen": 1.0} for one in ids],
        }
        for name in names
    ]
    agents = [
        {"id": one, "name": f"box-{one}", "presence": "online", "labels": [], "allowed": None}
        | dict.fromkeys(("free_bytes", "vram_bytes", "ram_bytes"))
        for one in ids
    ]
    body = json.dumps({"agents": agents, "models": models})
    await bare.route(
        "**/models/matrix", lambda route: route.fulfill(body=body, content_type="application/json")
    )
    await visit(bare, "models")
    grid = bare.get_by_role("grid")
    await expect(grid).to_have_attribute("aria-colcount", "501")
    assert await bare.get_by_role("gridcell").count() < 1_000
    await grid.focus()
    await bare.keyboard.press("Control+End")
    last = bare.locator("#cell-99-499")
    await expect(last).to_be_in_viewport()
    await expect(bare.get_by_role("rowheader", name="model-099")).to_be_in_viewport()
    await expect(grid).to_have_attribute("aria-activedescendant", "cell-99-499")
    assert await bare.get_by_role("gridcell").count() < 1_000


async def test_the_matrix_and_its_sheet_fit_a_telephone(bare: Page, server: Running) -> None:
    async with machines(server, 6) as agents:
        await bare.set_viewport_size({"width": 390, "height": 780})
        sheet = await pull(bare, NEW)
        await job_of(agents[0])
        await fits(bare)
        await sheet.get_by_label("Close").click()
        await bare.get_by_role("gridcell").first.click()
        await fits(bare)
        await visit(bare, "models?tab=sets")
        await bare.get_by_role("button", name="New set").click()
        await fits(bare)
        await visit(bare, "models?tab=rollouts")
        await fits(bare)


async def test_axe_finds_nothing_with_a_rollout_a_selection_and_the_dialog(
    bare: Page, server: Running
) -> None:
    async with machines(server, 2, capabilities=("list_models", "pull_model")) as agents:
        sheet = await pull(bare, NEW)
        await progress(
            agents[0], await job_of(agents[0]), phase="pulling", completed_bytes=40, total_bytes=100
        )
        found: list[str] = []
        for scheme in SCHEMES:
            await bare.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            await bare.reload()
            await bare.evaluate(AXE.read_text())
            await expect(sheet.locator("li progress")).to_have_count(1)
            await bare.get_by_role("rowheader", name="small:1b").click()
            await bare.locator(".why summary").click()
            found += await bare.evaluate(VIOLATIONS)
            await bare.get_by_role("toolbar").get_by_role("button", name="Pull").click()
            await expect(bare.get_by_role("dialog")).to_contain_text("2 changes")
            found += await bare.evaluate(VIOLATIONS)
        assert not found, "\n".join(found)


async def test_without_a_machine_the_view_says_what_to_do(bare: Page) -> None:
    await visit(bare, "models")
    await bare.get_by_role("link", name="Add the first machine").click()
    await expect(bare.locator("h1")).to_have_text("Add a machine")
