"""What an operator does, done in a browser."""

from __future__ import annotations

import re

from playwright.async_api import Page, expect

from obt_server.demo.scene import Scene
from obt_standin import StandIn
from tests.browser.conftest import HOSTILE, Watched

SLOW_MS = 20_000
"""Longest wait for what a machine does; the page itself answers at once."""

expect.set_options(timeout=SLOW_MS)


async def tab(page: Page, name: str) -> None:
    await page.click(f"nav.tabs >> text={name}")


async def start_short(page: Page) -> None:
    await page.select_option("form select >> nth=0", "standin-small:latest")
    await page.select_option("form select >> nth=1", "short")
    await page.click("button:has-text('Start')")


async def test_a_wrong_password_is_refused_in_words(opened: Watched) -> None:
    await opened.page.fill("input[name=password]", "wrong")
    await opened.page.click("button:has-text('Sign in')")
    await expect(opened.page.locator(".notice")).to_contain_text(
        re.compile("password|refused", re.IGNORECASE)
    )
    await expect(opened.page.locator(".sign-in")).to_be_visible()


async def test_after_signing_in_the_agent_appears_with_live_hardware(page: Page) -> None:
    await expect(page.locator("main .badge.good")).to_have_text("online")
    await expect(page.locator("main .badge.standin").first).to_contain_text("stand-in")
    memory = page.locator(".meter", has_text="Memory").first
    await expect(memory).to_contain_text(re.compile(r"\d [MG]iB of \d"))


async def test_an_answer_streams_and_stops_when_told(page: Page, ollama: StandIn) -> None:
    await tab(page, "Generate")
    await page.select_option("form select", "standin-small:latest")
    await page.fill("input[type=number]", "600")
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
    await expect(page.locator("h3:has-text('Running:')")).to_be_visible()
    await expect(page.locator(".figures", has_text="iteration")).to_contain_text("of 3")
    result = page.locator("#result")
    await expect(result).to_contain_text("Result: standin-small")
    await expect(result).to_contain_text("TTFT, ms")
    await expect(result).to_contain_text("Decode, tokens/s")
    await expect(result.locator(".badge.standin")).to_be_visible()
    await expect(page.locator("table .badge.good", has_text="completed")).to_be_visible()


async def test_a_benchmark_is_cancelled(page: Page) -> None:
    await tab(page, "Benchmarks")
    await page.fill("input[type=number] >> nth=0", "500")
    await start_short(page)
    await page.click("button:has-text('Cancel')")
    await expect(page.locator("table .badge.bad", has_text="cancelled")).to_be_visible()


async def test_two_results_are_compared(page: Page) -> None:
    await tab(page, "Benchmarks")
    for count in (1, 2):
        await start_short(page)
        await expect(page.locator("table .badge.good", has_text="completed")).to_have_count(count)
    await page.click("button:has-text('Compare')")
    await expect(page.locator("#comparison")).to_contain_text("Decode")


async def test_a_join_token_is_issued_with_the_command_to_copy_and_revoked(page: Page, stage: Scene) -> None:
    await page.click("text=Add a machine")
    await page.fill("input[placeholder*=gpu-box]", "the box under the desk")
    await page.click("button:has-text('Issue')")
    await expect(page.locator(".copy code").first).to_contain_text("obtj_")
    await expect(page.locator(".copy code").nth(1)).to_contain_text(f"service install --server {stage.url}")
    row = page.locator("tr", has_text="the box under the desk")
    await expect(row).to_contain_text("good until")
    await row.locator("button:has-text('Revoke')").click()
    await expect(row).to_contain_text("revoked")


async def test_revoking_the_credential_ends_the_session(page: Page) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    await tab(page, "Access")
    await page.click("button:has-text('Revoke') >> nth=0")
    await expect(page.locator("main .badge.bad").first).to_have_text("offline")


async def test_what_a_machine_says_is_text_whatever_it_holds(page: Page) -> None:
    await tab(page, "Models")
    await expect(page.locator("td", has_text=HOSTILE)).to_be_visible()
    await tab(page, "Generate")
    await page.select_option("form select", "hostile:1b")
    await page.click("form button:has-text('Generate')")
    await expect(page.locator(".answer")).to_contain_text(HOSTILE * 3)
    assert await page.title() == "OBT"
    assert await page.locator("main img").count() == 0


async def test_the_page_fits_a_telephone(page: Page) -> None:
    await page.set_viewport_size({"width": 360, "height": 740})
    for name in ("Hardware", "Models", "Generate", "Benchmarks", "Access"):
        await tab(page, name)
        await expect(page.locator("main .card").first).to_be_visible()
        wide = await page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, f"{name} is {wide} px too wide"


async def test_signing_out_takes_everything_away(page: Page) -> None:
    await page.click("button:has-text('Sign out')")
    await expect(page.locator(".sign-in")).to_be_visible()
    assert await page.locator(".machine:visible").count() == 0
