"""The real page in a real browser, against a real server, a real agent and a stand-in for Ollama."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    ViewportSize,
    async_playwright,
    expect,
)

from obt_server.demo.environment import DemoEnvironment, demo_environment
from obt_standin import StandIn
from obt_standin.script import Behaviour, Model, Script
from tests.ports import free_port
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
SCREEN: ViewportSize = {"width": 1280, "height": 900}
HOSTILE = "<img src=x onerror=document.title='owned'>"
"""What an ill-meaning machine would put wherever it can."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ollama() -> AsyncIterator[StandIn]:
    """A small believable Ollama: 60 tokens a second, some prefill."""
    answers = Behaviour(text=(HOSTILE,), tokens=3, decode_tps=100)
    hostile = Model(name="hostile:1b", size=1 << 30, quantization_level=HOSTILE, behaviour=answers)
    script = Script(decode_tps=60, prefill_tps=4000, tokens=600, load_s=0.1)
    script.models.append(hostile)
    async with StandIn(script) as one:
        yield one


@pytest.fixture(scope="session")
def port() -> int:
    """Where each test's server listens in its turn: the browser has the page's files of it already."""
    return free_port()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def demo(
    tmp_path_factory: pytest.TempPathFactory, ollama: StandIn, port: int
) -> AsyncIterator[DemoEnvironment]:
    """Server and agent, the agent admitted: one for all tests of a module, for they take seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_URL", ollama.url)
        async with demo_environment(tmp_path_factory.mktemp("demo"), free_port()) as ready:
            yield ready


@pytest_asyncio.fixture(scope="session", loop_scope="session")
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

    def check(self, url: str) -> None:
        """The page had no error and asked nobody but its own server."""
        assert self.errors == []
        assert self.hosts == {url.split("/")[2]}


async def new_context(browser: Browser) -> BrowserContext:
    """A browser that knows nothing yet."""
    return await browser.new_context(viewport=SCREEN, locale="en-GB")


@contextlib.asynccontextmanager
async def watching(browser: Browser, url: str) -> AsyncIterator[Watched]:
    """The page as it opens in a browser of its own, for what the shared one cannot do."""
    context = await new_context(browser)
    watched = Watched(await context.new_page())
    await watched.page.goto(url)
    yield watched
    await context.close()
    watched.check(url)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared(browser: Browser) -> AsyncIterator[Watched]:
    """One page for all tests: a new one, and the files of the page anew, cost more than most tests."""
    context = await new_context(browser)
    yield Watched(await context.new_page())
    await context.close()


@contextlib.asynccontextmanager
async def turn(shared: Watched, url: str) -> AsyncIterator[Watched]:
    """The shared page for one test; at its end all that tests change is as it was."""
    shared.errors, shared.hosts = [], set()
    page = shared.page
    try:
        yield shared
    finally:
        await page.unroute_all(behavior="ignoreErrors")
        # Of the same server: it ends what the page had open, and keeps the browser's process and its cache.
        await page.goto(f"{url}/licenses.txt")
        await page.evaluate("localStorage.clear(), sessionStorage.clear()")
        await page.context.clear_cookies()
        await page.set_viewport_size(SCREEN)
        await page.emulate_media(color_scheme="light", reduced_motion="no-preference")
    shared.check(url)


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


async def open_signed_in(page: Page, url: str, password: str) -> None:
    """The page as whoever signed in before opens it: without the form, which has tests of its own."""
    answer = await page.context.request.post(f"{url}/api/v1/session", data={"password": password})
    assert answer.ok, await answer.text()
    await page.goto(url)
    await expect(page.locator("#navigation")).to_be_attached()


@pytest_asyncio.fixture(loop_scope="session")
async def opened(shared: Watched, demo: DemoEnvironment) -> AsyncIterator[Watched]:
    """The demonstration's page; nobody is signed in."""
    async with turn(shared, demo.url) as watched:
        await watched.page.goto(demo.url)
        yield watched


@pytest_asyncio.fixture(loop_scope="session")
async def page(shared: Watched, demo: DemoEnvironment) -> AsyncIterator[Page]:
    """Signed in at the demonstration."""
    async with turn(shared, demo.url) as watched:
        await open_signed_in(watched.page, demo.url, demo.password)
        yield watched.page


@pytest_asyncio.fixture(loop_scope="session")
async def server(tmp_path: Path, port: int) -> AsyncIterator[Running]:
    """A server of its own, with no machine; tests let scripted agents dial it."""
    async with running(tmp_path, recheck_s=0.5, port=port) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def bare(shared: Watched, server: Running) -> AsyncIterator[Page]:
    """The page of that server, signed in."""
    async with turn(shared, server.url) as watched:
        await open_signed_in(watched.page, server.url, PASSWORD)
        yield watched.page


@pytest_asyncio.fixture(loop_scope="session")
async def alone(browser: Browser, server: Running) -> AsyncIterator[Page]:
    """As ``bare``, in a browser that has none of the page's files yet."""
    async with watching(browser, server.url) as watched:
        await sign_in(watched.page, PASSWORD)
        yield watched.page
