"""Results over machines and models: searched, sorted and paged by the server, compared, ranked."""

from __future__ import annotations

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.conftest import HOSTILE, fits, visit
from tests.browser.simulated import LONG, finished
from tests.server.conftest import Running

pytestmark = pytest.mark.asyncio(loop_scope="session")


def models(page: Page) -> Locator:
    return page.locator("tbody th[scope=row] a")


async def test_results_are_sorted_by_the_server_over_all_pages(bare: Page, server: Running) -> None:
    async with server.agent("alpha") as alpha:
        for number in range(60):
            await finished(server, alpha, f"model-{number:02d}", 10.0 + number)
    await visit(bare, "results")
    await expect(models(bare)).to_have_count(50)
    await expect(models(bare).first).to_have_text("model-59")  # the newest
    heading = bare.locator("th", has_text="Decode").get_by_role("button")
    await heading.click()
    await expect(models(bare).first).to_have_text("model-59")
    await bare.evaluate("for (const row of document.querySelectorAll('main tbody tr')) row.made = true")
    await heading.press("Enter")
    await expect(models(bare).first).to_have_text("model-00")  # which is not among the fifty newest
    # Rows are filled anew, not made anew.
    assert await bare.evaluate("[...document.querySelectorAll('main tbody tr')].every((row) => row.made)")
    await expect(heading).to_be_focused()
    await expect(bare.locator("th", has_text="Decode")).to_have_attribute("aria-sort", "ascending")
    await bare.click("button:has-text('Further')")
    await expect(models(bare)).to_have_text([f"model-{number}" for number in range(50, 60)])
    await expect(bare.locator("main")).to_contain_text("51 to 60 of 60")
    await bare.reload()
    await expect(models(bare).first).to_have_text("model-50")  # an address that can be passed on
    # It is on the second page of this order: who looked among the rows that are loaded would not find it.
    await bare.get_by_label("Search results").fill("model-57")
    await expect(models(bare)).to_have_text(["model-57"])
    assert "q=model-57" in bare.url


async def test_results_are_found_by_words_machine_and_plan(bare: Page, server: Running) -> None:
    async with server.agent("alpha") as alpha, server.agent("beta") as beta:
        await finished(server, alpha, "small:1b", 90.0)
        warned = [{"code": "noisy", "message": "It varied.", "action": "Close other programs."}]
        await finished(server, beta, "small:1b", 80.0, plan="b" * 64, warnings=warned)
    await visit(bare, "results")
    rows = bare.locator("tbody tr")
    await expect(rows).to_have_count(2)
    await bare.get_by_label("Search results").fill("SMALL beta")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("1 warning")
    await bare.get_by_label("Search results").fill("no such thing")
    await expect(bare.locator("main")).to_contain_text("No result matches.")
    await bare.get_by_label("Search results").fill("")
    await bare.get_by_label("Machine", exact=True).select_option(label="alpha")
    await expect(rows).to_have_count(1)
    await bare.get_by_label("Machine", exact=True).select_option(label="All machines")
    await bare.get_by_label("Plan", exact=True).select_option("b" * 64)
    await expect(rows).to_have_count(1)


async def test_columns_are_chosen_and_kept(bare: Page, server: Running) -> None:
    async with server.agent("alpha") as alpha:
        await finished(server, alpha, "small:1b", 90.0)
    await visit(bare, "results")
    headings = bare.locator("thead th")
    await expect(headings.filter(has_text="Decode")).to_have_count(1)
    before = await headings.count()
    await bare.click("summary:has-text('Columns')")
    await bare.locator(".choices").get_by_label("Time to first token, ms", exact=True).uncheck()
    await expect(headings).to_have_count(before - 1)
    await bare.reload()
    await expect(headings).to_have_count(before - 1)


async def test_a_table_of_all_columns_scrolls_beside_the_models_name(bare: Page, server: Running) -> None:
    async with server.agent("alpha") as alpha:
        await finished(server, alpha, "small:1b", 90.0)
    await bare.set_viewport_size({"width": 1440, "height": 900})
    await visit(bare, "results")
    await bare.click("summary:has-text('Columns')")
    for box in await bare.locator(".choices").get_by_role("checkbox").all():
        await box.check()
    await bare.click("summary:has-text('Columns')")
    await fits(bare)
    table = bare.locator("main .scroll")
    assert await table.evaluate("one => one.scrollWidth - one.clientWidth") > 200
    await table.evaluate("one => { one.scrollLeft = one.scrollWidth }")
    name, place = await models(bare).bounding_box(), await table.bounding_box()
    assert name is not None
    assert place is not None
    assert place["x"] <= name["x"] < place["x"] + 60
    last = bare.locator("thead th").last
    await expect(last).to_be_in_viewport()


async def test_a_plan_is_called_by_its_name(bare: Page, server: Running) -> None:
    named = {one["name"]: one["plan_hash"] for one in (await server.http.get("/api/v1/plans")).json()}
    async with server.agent("alpha") as alpha:
        job_id = await finished(server, alpha, "small:1b", 90.0, plan=named["quick"])
        await visit(bare, "results")
        await expect(bare.locator("tbody tr").get_by_role("cell", name="quick", exact=True)).to_be_visible()
        await expect(bare.get_by_label("Plan", exact=True)).to_contain_text("quick (1)")
        await bare.get_by_label("Search results").fill("small")
        await visit(bare, f"leaderboard?plan={named['quick']}")
        await expect(bare.get_by_role("combobox", name="Plan")).to_contain_text("quick (1)")
        await visit(bare, f"result/{alpha.agent_id}/{job_id}")
        await expect(bare.locator("main p", has_text="On alpha")).to_contain_text("quick: 512:128")


async def test_results_are_saved_as_files(bare: Page, server: Running) -> None:
    async with server.agent("=alpha") as alpha:
        await finished(server, alpha, "small:1b", 90.0)
    await visit(bare, "results")
    for name, words in (
        ("CSV", "'=alpha,small:1b"),
        ("JSON", '"model": "small:1b"'),
        ("Markdown", "| small:1b |"),
    ):
        async with bare.expect_download() as caught:
            await bare.get_by_role("button", name=name).click()
        path = await (await caught.value).path()
        assert words in path.read_text(), name


async def test_results_are_picked_and_compared_with_a_verdict(bare: Page, server: Running) -> None:
    async with server.agent("alpha") as alpha, server.agent("beta") as beta:
        await finished(server, alpha, "small:1b", 80.0)
        await finished(server, beta, "small:1b", 40.0)
    await visit(bare, "results")
    for name in ("alpha", "beta"):
        await bare.get_by_label(f"Pick small:1b on {name}").check()
    await bare.click("a.button:has-text('Compare 2')")
    row = bare.locator("tr", has_text="Decode").last
    await expect(row).to_contain_text("worse by 100 %")  # beta over alpha
    await expect(bare.locator("main")).to_contain_text("higher is better")
    await bare.click("button:has-text('Make it the reference')")
    await expect(row).to_contain_text("better by 100 %")
    await bare.reload()
    await expect(row).to_contain_text("better by 100 %")  # an address that can be passed on


async def test_results_of_different_plans_are_not_compared(bare: Page, server: Running) -> None:
    async with server.agent("alpha") as alpha:
        first = await finished(server, alpha, "small:1b", 80.0)
        second = await finished(server, alpha, "small:1b", 40.0, plan="b" * 64)
        keys = f"{alpha.agent_id}/{first},{alpha.agent_id}/{second}"
    await visit(bare, f"compare?r={keys}")
    await expect(bare.locator("main")).to_contain_text("These two cannot be compared")


async def test_a_result_has_an_address_and_shows_what_to_mind(bare: Page, server: Running) -> None:
    samples = [{"n": n, "t_ms": n * 500.0, "phase": "iteration", "gpu_percent": 90.0 + n} for n in range(4)]
    warned = [{"code": "noisy", "message": "It varied.", "action": "Close other programs."}]
    async with server.agent("alpha") as alpha:
        job_id = await finished(server, alpha, "small:1b", 80.0, samples=samples, warnings=warned)
        await visit(bare, f"result/{alpha.agent_id}/{job_id}")
        await expect(bare.locator("h1")).to_contain_text("small:1b")
        await expect(bare.locator("main")).to_contain_text("Close other programs.")
        await expect(bare.locator(".headline")).to_contain_text("78 … 82")
        await expect(bare.locator("figure", has_text="GPU").first).to_be_visible()
        await bare.click("summary:has-text('iterations')")
        await expect(bare.locator("main")).to_contain_text("short_output")
        await visit(bare, f"result/{alpha.agent_id}/nothing")
        await expect(bare.get_by_role("alert")).to_contain_text("no job")


async def test_a_result_that_comes_while_one_reads_is_listed(bare: Page, server: Running) -> None:
    await visit(bare, "results")
    await expect(bare.locator("main")).to_contain_text("No benchmark has ended yet.")
    async with server.agent("alpha") as alpha:
        await finished(server, alpha, "small:1b", 80.0)
        await expect(models(bare)).to_have_text(["small:1b"])


async def test_the_leaderboard_ranks_one_plan_by_one_metric(bare: Page, server: Running) -> None:
    async with server.agent("alpha") as alpha, server.agent("beta") as beta:
        await finished(server, alpha, "slow:7b", 20.0, ttft=50.0)
        await finished(server, beta, "fast:7b", 60.0, ttft=500.0)
        await finished(server, beta, "other-plan:7b", 99.0, plan="b" * 64)
    await visit(bare, f"leaderboard?plan={'a' * 64}")
    await expect(models(bare)).to_have_text(["fast:7b", "slow:7b"])
    await expect(bare.locator("tbody tr").first).to_contain_text("58 … 62")
    await bare.get_by_role("combobox", name="By").select_option("first_token_ms")
    await expect(models(bare)).to_have_text(["slow:7b", "fast:7b"])
    await expect(bare.locator("main")).to_contain_text("lower is better")


async def test_names_in_results_are_text_and_long_ones_fit_a_telephone(bare: Page, server: Running) -> None:
    warned = [{"code": HOSTILE, "message": HOSTILE, "action": HOSTILE}]
    async with server.agent(HOSTILE) as agent:
        await finished(server, agent, LONG, 80.0, warnings=warned)
        second = await finished(server, agent, HOSTILE, 70.0, error=HOSTILE)
        agent_id = agent.agent_id
    await bare.set_viewport_size({"width": 360, "height": 740})
    await visit(bare, "results")
    await expect(bare.locator("tbody tr")).to_have_count(2)
    await fits(bare)
    await visit(bare, f"result/{agent_id}/{second}")
    await expect(bare.locator("h1")).to_contain_text(HOSTILE)
    await fits(bare)
    assert await bare.locator("main img").count() == 0
    assert "owned" not in (await bare.title())
