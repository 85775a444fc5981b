"""The real page in a real browser, against a real server, a real agent and a stand-in for Ollama."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright, expect

from obt_server.demo.environment import DemoEnvironment, demo_environment, free_port
from obt_standin import StandIn
from obt_standin.script import Behaviour, Model, Script
from tests.server.conftest import PASSWORD, Running, running

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
SLOW_MS = 20_000
"""Longest wait for what a machine does; the page itself answers at once."""
expect.set_options(timeout=SLOW_MS)
HOSTILE = "<img src=x onerror=document.title='owned'>"
"""What an ill-meaning machine would put wherever it can."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ollama() -> AsyncIterator[StandIn]:
    """A small believable Ollama: 60 tokens a second, some prefill."""
    answers = Behaviour(text=(HOSTILE,), tokens=3, decode_tps=100)
    hostile = Model(name="hostile:1b", size=1 << 30, quantization_level=HOSTILE, behaviour=answers)
    script = Script(decode_tps=60, prefill_tps=4000, tokens=600, load_s=0.1)
    script.models.append(hostile)
    async with StandIn(script) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo(tmp_path_factory: pytest.TempPathFactory, ollama: StandIn) -> AsyncIterator[DemoEnvironment]:
    """Server and agent, the agent admitted: one for all tests of a module, for they take seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_URL", ollama.url)
        async with demo_environment(tmp_path_factory.mktemp("demo"), free_port(0)) as ready:
            yield ready


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Headless Chromium, Debian's."""
    async with async_playwright() as playwright:
        one = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield one
        await one.close()


class Watched:
    """A page, what went wrong in it, and which hosts it asked."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._logged)
        page.on("request", self._requested)

    def _requested(self, request: Request) -> None:
        if not request.url.startswith(("blob:", "data:")):
            self.hosts.add(request.url.split("/")[2])

    def _logged(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            self.errors.append(message.text)


@contextlib.asynccontextmanager
async def watching(browser: Browser, url: str) -> AsyncIterator[Watched]:
    """The page as it opens; at the end it had no error and asked nobody but its own server."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    watched = Watched(await context.new_page())
    await watched.page.goto(url)
    yield watched
    await context.close()
    assert watched.errors == []
    assert watched.hosts == {url.split("/")[2]}


async def sign_in(page: Page, password: str) -> None:
    """As an operator does."""
    await page.fill("input[name=password]", password)
    await page.click("button:has-text('Sign in')")
    await expect(page.locator("#navigation")).to_be_attached()


async def visit(page: Page, view: str) -> None:
    """Go to an address of the page, and wait for the view that it names."""
    await page.evaluate("address => { location.hash = address }", f"#/{view}")
    await expect(page.locator("main h1")).to_be_visible()


async def fits(page: Page) -> None:
    """Nothing makes the page wider than the screen."""
    wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{page.url} is {wide} px too wide"


@pytest_asyncio.fixture(loop_scope="module")
async def opened(browser: Browser, demo: DemoEnvironment) -> AsyncIterator[Watched]:
    """The demonstration's page."""
    async with watching(browser, demo.url) as watched:
        yield watched


@pytest_asyncio.fixture(loop_scope="module")
async def page(opened: Watched, demo: DemoEnvironment) -> Page:
    """Signed in at the demonstration."""
    await sign_in(opened.page, demo.password)
    return opened.page


@pytest_asyncio.fixture(loop_scope="module")
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    """A server of its own, with no machine; tests let scripted agents dial it."""
    async with running(tmp_path, recheck_s=0.5) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="module")
async def bare(browser: Browser, server: Running) -> AsyncIterator[Page]:
    """The page of that server, signed in."""
    async with watching(browser, server.url) as watched:
        await sign_in(watched.page, PASSWORD)
        yield watched.page
