"""What an operator does, done in a browser."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Page, expect

from obt_server.demo.environment import DemoEnvironment
from obt_standin import StandIn
from tests.browser.conftest import HOSTILE, Watched, fits

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def tab(page: Page, name: str) -> None:
    await page.click(f"nav.tabs >> text={name}")


async def start_short(page: Page) -> None:
    await page.select_option("select[name=model]", "standin-small:latest")
    await page.select_option("select[name=preset]", "short")
    await page.click("button:has-text('Start')")


async def test_a_wrong_password_is_refused_in_words(opened: Watched) -> None:
    await opened.page.fill("input[name=password]", "wrong")
    await opened.page.click("button:has-text('Sign in')")
    await expect(opened.page.locator("#refused")).to_contain_text(re.compile("password|name", re.IGNORECASE))
    await expect(opened.page.locator("input[name=password]")).to_be_focused()
    await expect(opened.page.locator(".sign-in")).to_be_visible()


async def test_after_signing_in_the_agent_appears_with_live_hardware(page: Page) -> None:
    await expect(page.locator("main .badge.good")).to_have_text("online")
    await expect(page.locator("main .badge.standin").first).to_contain_text("stand-in")
    memory = page.locator(".trace", has_text="Memory").first
    await expect(memory).to_contain_text(re.compile(r"\d of \d.* [MGT]iB"))
    await expect(page.locator(".trace svg").first).to_have_attribute("aria-label", re.compile("CPU: .*from"))


async def test_an_answer_streams_and_stops_when_told(page: Page, ollama: StandIn) -> None:
    await tab(page, "Generate")
    await page.select_option("form select", "standin-small:latest")
    await page.fill("input[name=limit]", "600")
    await page.click("form button:has-text('Generate')")
    answer = page.locator(".answer")
    await expect(answer).to_contain_text("stand-in")
    await expect(answer).to_have_text(re.compile(r"(stand-in.*){3}", re.DOTALL))
    await page.click("button:has-text('Stop')")
    await expect(page.locator(".figures")).to_contain_text("stop")
    await expect(page.locator("button:has-text('Stop')")).to_be_disabled()
    assert ollama.open_streams == 0


async def test_a_benchmark_is_started_followed_and_read(page: Page) -> None:
    await tab(page, "Benchmarks")
    await start_short(page)
    running = page.locator("#running")
    await expect(running.locator("h3")).to_contain_text("Running: standin-small")
    await expect(running.locator(".figures", has_text="iteration")).to_contain_text("of 3")
    await expect(running.locator(".trace", has_text="Tokens/s")).to_contain_text(re.compile(r"\d\d\.\d"))
    result = page.locator("#result")
    await expect(result).to_contain_text("Result: standin-small")
    await expect(result).to_contain_text("Time to first token, ms")
    await expect(result).to_contain_text("Decode, tok/s")
    await expect(result.locator(".badge.standin")).to_be_visible()
    await expect(page.locator("table .badge.good", has_text="completed").first).to_be_visible()


async def test_a_benchmark_is_cancelled(page: Page) -> None:
    await tab(page, "Benchmarks")
    await page.fill("input[name=iterations]", "500")
    await start_short(page)
    await page.click("button:has-text('Cancel')")
    await expect(page.locator("table .badge.bad", has_text="cancelled")).to_be_visible()


async def test_a_join_token_is_issued_with_the_command_to_copy_and_revoked(
    page: Page, stage: DemoEnvironment
) -> None:
    await page.click("text=Add a machine")
    await page.fill("input[placeholder*=gpu-box]", "the box under the desk")
    await page.click("button:has-text('Issue')")
    commands = page.locator(".copy code")
    await expect(commands.filter(has_text="obtj_")).to_have_count(1)
    await expect(commands.filter(has_text=f"service install --server {stage.url}")).to_have_count(1)
    row = page.locator("tr", has_text="the box under the desk")
    await expect(row).to_contain_text("good until")
    await row.locator("button:has-text('Revoke')").click()
    await expect(row).to_contain_text("revoked")


async def test_what_a_machine_says_is_text_whatever_it_holds(page: Page) -> None:
    await tab(page, "Models")
    await expect(page.locator("td", has_text=HOSTILE)).to_be_visible()
    await tab(page, "Generate")
    await page.select_option("form select", "hostile:1b")
    await page.click("form button:has-text('Generate')")
    await expect(page.locator(".answer")).to_contain_text(HOSTILE * 3)
    assert await page.title() == "demo, Generate · OBT"
    assert await page.locator("main img").count() == 0


async def test_the_page_fits_a_telephone(page: Page) -> None:
    await page.set_viewport_size({"width": 360, "height": 740})
    for name in ("Hardware", "Models", "Generate", "Benchmarks", "Access"):
        await tab(page, name)
        await expect(page.locator("main .card").first).to_be_visible()
        await fits(page)


async def test_signing_out_takes_everything_away(page: Page) -> None:
    await page.click("button:has-text('Sign out')")
    await expect(page.locator(".sign-in")).to_be_visible()
    assert await page.locator(".machine:visible").count() == 0
