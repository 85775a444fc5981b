"""The real page in a real browser, against a real server, a real agent and a stand-in for Ollama."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Request, async_playwright

from obt_server.demo.scene import Scene, free_port, scene
from obt_standin import StandIn
from obt_standin.script import Behaviour, Model, Script

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
HOSTILE = "<img src=x onerror=document.title='owned'>"
"""What an ill-meaning machine would put wherever it can."""


@pytest.fixture
async def ollama() -> AsyncIterator[StandIn]:
    """A small believable Ollama: 60 tokens a second, some prefill."""
    answers = Behaviour(text=(HOSTILE,), tokens=3, decode_tps=100)
    hostile = Model(name="hostile:1b", size=1 << 30, quantization_level=HOSTILE, behaviour=answers)
    script = Script(decode_tps=60, prefill_tps=4000, tokens=600, load_s=0.1)
    script.models.append(hostile)
    async with StandIn(script) as running:
        yield running


@pytest.fixture
async def stage(tmp_path: Path, ollama: StandIn, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """Server and agent, the agent admitted."""
    monkeypatch.setenv("OLLAMA_URL", ollama.url)
    async with scene(tmp_path, free_port(0)) as ready:
        yield ready


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Headless Chromium, Debian's."""
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield running
        await running.close()


class Watched:
    """A page, what went wrong in it, and which hosts it asked."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._asked)

    def _asked(self, request: Request) -> None:
        self.hosts.add(request.url.split("/")[2])


@pytest.fixture
async def opened(browser: Browser, stage: Scene) -> AsyncIterator[Watched]:
    """The page as it opens; at the end it had no error and asked nobody but its own server."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    watched = Watched(await context.new_page())
    await watched.page.goto(stage.url)
    yield watched
    await context.close()
    assert watched.errors == []
    assert watched.hosts == {stage.url.split("/")[2]}


@pytest.fixture
async def page(opened: Watched, stage: Scene) -> Page:
    """Signed in, the agent's view open."""
    page = opened.page
    await page.fill("input[name=password]", stage.password)
    await page.click("button:has-text('Sign in')")
    await page.click("a.machine:has-text('demo')")
    return page
