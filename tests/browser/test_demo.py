"""What an operator does, done in a browser against a real agent."""

from __future__ import annotations

import json
import re

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from playwright.async_api import Page, expect

from obt_agent.policy.signing import sign_text
from obt_server.demo.environment import DemoEnvironment
from obt_standin import StandIn
from tests.browser.conftest import HOSTILE, Watched, sign_in, visit
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
SMALL = "standin-small:latest"


async def build(page: Page, **fields: str) -> None:
    """Fill the builder in; what is in `fields` is under "Change it"."""
    await visit(page, f"run?model={SMALL}")
    await expect(page.locator("select[name=models] option:checked")).to_contain_text(SMALL)
    if fields:
        await page.click("summary:has-text('Change it')")
    for name, text in fields.items():
        await page.fill(f"input[name={name}]", text)
    await expect(page.locator("[aria-label=Estimate]")).to_be_visible()


async def cancel(page: Page) -> None:
    await page.locator("main").get_by_role("button", name=re.compile("^Cancel")).first.click()
    await page.click("dialog button:has-text('Cancel it')")


async def test_a_wrong_password_is_refused_in_words(opened: Watched) -> None:
    await opened.page.fill("input[name=password]", "wrong")
    await opened.page.click("button:has-text('Sign in')")
    await expect(opened.page.get_by_role("alert")).to_contain_text(re.compile("password|name", re.IGNORECASE))
    await expect(opened.page.locator("input[name=password]")).to_be_focused()


async def test_the_machine_is_a_card_and_a_row(page: Page) -> None:
    card = page.locator("article.machine", has_text="demo")
    await expect(card).to_contain_text("online")
    await expect(card).to_contain_text("stand-in")
    await page.click("button:has-text('Table')")
    await expect(page.locator("tbody tr", has_text="demo")).to_contain_text(re.compile(r"\d+ %"))
    await page.reload()
    await expect(page.locator("tbody tr", has_text="demo")).to_be_visible()  # this browser remembers the form
    await page.click("button:has-text('Cards')")
    await expect(card).to_be_visible()


async def test_charts_of_a_machine_are_live_and_have_a_table(page: Page) -> None:
    await page.click("article.machine h2 a")
    memory = page.locator("figure", has_text="Memory used")
    await expect(memory).to_contain_text(re.compile(r"\d [MGT]iB"))
    await expect(memory.locator("[role=img]")).to_have_attribute("aria-label", re.compile("Memory used: All"))
    await expect(memory.locator("canvas")).to_be_visible()
    await memory.locator("summary").click()
    await expect(memory.locator("tbody tr").nth(2)).to_be_visible()  # samples go on coming


async def test_the_inventory_says_what_the_machine_is(page: Page) -> None:
    await page.click("article.machine h2 a")
    await page.click("#tab-inventory")
    await expect(page.locator("#panel")).to_contain_text(re.compile("[GM]iB"))
    await expect(page.locator("#panel")).to_contain_text("Linux")


async def test_a_model_is_loaded_and_unloaded(page: Page) -> None:
    await page.click("article.machine h2 a")
    await page.click("#tab-models")
    row = page.locator("tbody tr", has_text=SMALL)
    await row.get_by_role("button", name="Load").click()
    await row.get_by_role("button", name="Unload").click()
    await expect(row.get_by_role("button", name=f"Load {SMALL}")).to_be_visible()


async def test_a_benchmark_is_built_followed_and_read(page: Page) -> None:
    await build(page, iterations="3", mostIterations="3")
    await expect(page.locator("[aria-label=Estimate]")).to_contain_text("3 iterations")
    await page.click("button:has-text('Start the benchmark')")
    await expect(page.locator("main h1")).to_contain_text(f"{SMALL} on demo")
    await expect(page.locator("main .figures")).to_contain_text(re.compile(r"\d of 3"))
    await expect(page.locator("figure", has_text="Tokens/s")).to_contain_text(re.compile(r"\d\d\.\d"))
    await page.click("a.primary:has-text('Result')", timeout=60_000)
    headline = page.locator(".headline")
    await expect(headline).to_contain_text("TTFT")
    await expect(headline).to_contain_text("tok/s")
    await expect(page.locator("main")).to_contain_text("stand-in")
    await expect(page.locator("figure").first).to_be_visible()


async def test_progress_never_falls_back_over_the_cells_of_a_sweep(page: Page) -> None:
    await page.evaluate(
        """() => {
          window.shares = [];
          new MutationObserver(() => {
            const bar = document.querySelector("main progress");
            if (bar !== null && bar.value !== window.shares.at(-1)) window.shares.push(bar.value);
          }).observe(document.body, { subtree: true, childList: true, attributes: true });
        }"""
    )
    await build(page, sweepPrompts="64, 128, 256", iterations="2", mostIterations="2", cooldown="0")
    await expect(page.locator("[aria-label=Estimate]")).to_contain_text("3 cells")
    await page.click("button:has-text('Start the benchmark')")
    await expect(page.locator("main .cells li")).to_have_count(3, timeout=60_000)
    await page.locator("a.primary:has-text('Result')").wait_for(timeout=60_000)
    shares = await page.evaluate("window.shares")
    assert shares == sorted(shares)
    assert len(shares) > 1, shares
    await page.click("a.primary:has-text('Result')")
    await expect(page.locator("main svg[aria-label*='over prompt tokens']").first).to_be_visible()


async def test_a_benchmark_is_cancelled(page: Page) -> None:
    await build(page, iterations="500", mostIterations="500")
    await page.click("button:has-text('Start the benchmark')")
    await expect(page.locator("main .figures")).to_contain_text("of 500")
    await cancel(page)
    await expect(page.locator("main .status", has_text="cancelled")).to_be_visible()


async def test_an_answer_streams_survives_other_views_and_stops(page: Page, ollama: StandIn) -> None:
    await visit(page, f"playground?model={SMALL}")
    await expect(page.get_by_role("combobox", name="Model")).to_have_value(SMALL)
    await page.fill("textarea >> nth=0", "Why is the sky blue?")
    await page.keyboard.press("Enter")
    answer = page.locator("article.assistant")
    await expect(answer).to_contain_text("stand-in")
    await visit(page, "settings")
    await visit(page, "playground")
    await expect(page.locator("article.user")).to_contain_text("Why is the sky blue?")
    await expect(answer).to_contain_text(re.compile(r"(stand-in.*){3}", re.DOTALL))
    await page.click("button:has-text('Stop')")
    await expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    await expect(answer).to_contain_text("stand-in")
    await until(lambda: ollama.open_streams == 0)
    await page.fill("textarea >> nth=0", "half a thought")
    await visit(page, "jobs")
    await visit(page, "playground")
    await expect(page.locator("textarea >> nth=0")).to_have_value("half a thought")


async def test_two_models_answer_side_by_side(page: Page) -> None:
    await visit(page, f"playground?model={SMALL}")
    await page.click("button:has-text('Add a column')")
    await page.click("summary:has-text('System prompt')")
    await page.fill("input[type=number] >> nth=1", "8")
    await page.fill("textarea >> nth=0", "Both of you?")
    await page.click("button:has-text('Send')")
    await expect(page.locator("article.assistant")).to_have_count(2)
    for number in (0, 1):
        await expect(page.locator("article.assistant").nth(number)).to_contain_text("tokens/s")
    await page.get_by_label("Show column 1 as a curl command").click()
    await expect(page.locator("code", has_text="curl -N")).to_contain_text("/commands/chat")


async def test_what_a_machine_answers_is_text_whatever_it_holds(page: Page) -> None:
    await page.click("article.machine h2 a")
    await page.click("#tab-models")
    await expect(page.locator("td", has_text=HOSTILE)).to_be_visible()
    await visit(page, "playground?model=hostile:1b")
    await expect(page.get_by_role("combobox", name="Model")).to_have_value("hostile:1b")
    await page.fill("textarea >> nth=0", HOSTILE)
    await page.keyboard.press("Enter")
    await expect(page.locator("article.assistant")).to_contain_text("tokens/s")
    assert await page.title() == "Playground · OBT"
    assert await page.locator("main img").count() == 0


async def test_a_join_token_is_issued_with_the_commands_to_copy_and_revoked(
    page: Page, demo: DemoEnvironment
) -> None:
    await visit(page, "add")
    await page.fill("input[placeholder*=gpu-box]", "the box under the desk")
    await page.click("button:has-text('Issue')")
    await expect(page.locator("code", has_text="obtj_")).to_be_visible()
    await expect(page.locator("code", has_text=f"service install --server {demo.url}")).to_be_visible()
    # The demonstration's own address leads another machine to itself.
    await expect(page.get_by_text("open this page at the address that reaches")).to_be_visible()
    row = page.locator("tr", has_text="the box under the desk")
    await expect(row).to_contain_text("good until")
    await row.get_by_role("button").click()
    await expect(row).to_contain_text("revoked")


async def test_an_api_token_is_made_and_revoked(page: Page) -> None:
    await visit(page, "settings")
    await page.fill("input[placeholder*=nightly]", "a program")
    await page.click("button:has-text('Make a token')")
    await expect(page.locator("code", has_text=re.compile("^obtk_"))).to_be_visible()
    await page.get_by_label("Revoke the token a program").click()
    await expect(page.locator("tr", has_text="a program")).to_have_count(0)


async def test_theme_and_units_are_this_browsers(page: Page) -> None:
    await visit(page, "settings")
    await page.get_by_label("Theme").select_option("dark")
    await page.get_by_label("Bytes").select_option("decimal")
    await page.reload()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await visit(page, "")
    # How much memory is in use is the machine's own affair: a small one may stay below 1 GB.
    await expect(page.locator("article.machine")).to_contain_text(re.compile(r"\d [MG]B"))


async def test_signing_out_takes_everything_away(page: Page, demo: DemoEnvironment) -> None:
    await page.click("nav button:has-text('Sign out')")
    await expect(page.locator("input[name=password]")).to_be_visible()
    assert await page.locator("article.machine").count() == 0
    await sign_in(page, demo.password)
    await expect(page.locator("article.machine")).to_be_visible()


async def test_a_request_is_prepared_signed_elsewhere_and_sent(page: Page, demo: DemoEnvironment) -> None:
    await visit(page, f"machine/{demo.agent_id}?tab=access")
    plan = {"plan": {"model_name": SMALL, "num_iterations": 1}}
    await page.fill("textarea[name=params]", json.dumps(plan))
    await page.click("button:has-text('Prepare')")
    text = await page.locator("section:has-text('Signed request') code", has_text="purpose").text_content()
    assert text is not None
    await page.fill("textarea[name=signature]", json.dumps(sign_text(Ed25519PrivateKey.generate(), text)))
    await page.click("button:has-text('Send')")
    await expect(page.locator("text=The machine took the signed request.")).to_be_visible()
    assert (await demo.client.get(f"/benchmarks/{json.loads(text)['id']}"))["requested"]
