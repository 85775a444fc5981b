"""The page in Chromium with 500 machines online, heartbeats every 15 s, and 5,000 results.

Times are the browser's own: from the navigation to the frame with the first row, and from a key or a click to
the frame that shows its effect, the worst of several. CPU is that of the page's renderer, of Chromium's other
processes and of the server, each apart, read from outside while nobody touches the page.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from playwright.async_api import Locator, Page, async_playwright
from sqlalchemy.orm import Session
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from benchmarks import fleet
from benchmarks.enrolment import enrol
from benchmarks.processes import Program
from benchmarks.table import Column, print_table
from obt_agent.protocol import limits
from obt_server import app as application
from obt_server.auth import secrets
from obt_server.hub.storage import JobResult
from obt_server.store import AgentQuota, jobs
from tests.ports import free_port

PASSWORD: Final = "benchmark"  # noqa: S105 - of a server that lives as long as the measurement
CHROMIUM: Final = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS: Final = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
MODELS: Final = ("llama3.2:1b", "qwen3:8b", "gemma3:12b", "gpt-oss:20b", "llama3.3:70b")
INSTALLED: Final = 5
"""Models of each machine."""
SETTLED_S: Final = 3.0
"""After the first table: what loading leaves to be done is not the steady state."""
LATEST_MS: Final = 20_000

FIRST_ROW: Final = """addEventListener("DOMContentLoaded", () => {
  const look = () => {
    if (document.querySelector("main tbody tr, main article") === null) return;
    watcher.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() => { window.firstAt = performance.now(); }));
  };
  const watcher = new MutationObserver(look);
  watcher.observe(document.documentElement, { childList: true, subtree: true });
});"""
"""Notes when the frame with the first row was drawn: the second callback comes after that frame."""

UNTIL_FIRST: Final = """() => new Promise((resolve) => {
  const look = () => (window.firstAt ? resolve(window.firstAt) : requestAnimationFrame(look));
  look();
})"""

EFFECT: Final = """(element, [action, text]) => new Promise((resolve) => {
  const rows = () => document.querySelector("main tbody")?.textContent;
  const before = rows();
  const started = performance.now();
  const wait = () => {
    if (rows() !== before) requestAnimationFrame(() => resolve(performance.now() - started));
    else if (performance.now() - started > LATEST) resolve(NaN);
    else requestAnimationFrame(wait);
  };
  if (action === "click") element.click();
  else { element.value = text; element.dispatchEvent(new Event("input", { bubbles: true })); }
  requestAnimationFrame(wait);
})""".replace("LATEST", str(LATEST_MS))
"""Does something, and gives the milliseconds until a frame shows other rows."""


@dataclass(frozen=True)
class Figure:
    """What was measured, what it is to be at most (None: no aim), and the machine's load meanwhile."""

    name: str
    value: float
    aim: float | None
    load: float

    @property
    def verdict(self) -> str:
        """Whether the aim is met; a figure that is none (nothing happened) is not."""
        return "" if self.aim is None else "met" if self.value <= self.aim else "missed"


def _figure(name: str, value: float, aim: float | None = None) -> Figure:
    # The load beside each figure: what else the machine did decides whether it says anything of the page.
    found = Figure(name, value, aim, os.getloadavg()[0])
    print(f"{name}: {value:.2f} {found.verdict}", flush=True)
    return found


class Agent(fleet.Agent):
    """A minimal agent that reports moving figures."""

    async def _speak(self, socket: ClientConnection) -> None:
        with contextlib.suppress(WebSocketException):
            while not self.admitted_at:  # noqa: ASYNC110 - five hundred events are no better
                await asyncio.sleep(0.1)
            # Spread over the interval, as agents are that were started at different times.
            await asyncio.sleep(random.random() * limits.ALIVE_INTERVAL_S * 3)
            await socket.send(fleet.as_frame(id="hardware", method="hardware.sync", params=_INVENTORY))
            while True:
                await socket.send(fleet.as_frame(method="heartbeat", params=_heartbeat()))
                for _ in range(3):
                    await asyncio.sleep(limits.ALIVE_INTERVAL_S)
                    await socket.send(fleet.as_frame(method="link.alive", params={}))


_GPU: Final = {"id": "gpu-0", "vendor": "nvidia", "provider": "nvidia", "name": "A GPU of 24 GiB"}
_INVENTORY: Final = {
    "revision": 1,
    "inventory": {
        "fingerprint": "f",
        "collected_at": 0.0,
        "gpus": [{**_GPU, "memory": {"total_bytes": 24 << 30}}],
    },
}
"""Without the total there is no share of GPU memory, and nothing to sort by."""


def _heartbeat() -> dict[str, Any]:
    gpu = {
        "id": "gpu-0",
        "state": "ok",
        "utilization_ratio": random.random(),
        "memory_used_bytes": random.randrange(24 << 30),
        "temperature_celsius": 40 + random.random() * 40,
        "power_watts": random.random() * 350,
    }
    hardware = {
        "cpu_utilization_ratio": random.random(),
        "memory_used_bytes": random.randrange(1, 32 << 30),
        "memory_available_bytes": 32 << 30,
        "gpus": [gpu],
    }
    return {"ollama": {"reachable": True, "version": "0.9.0"}, "t_mono_us": 0, "hardware": hardware}


def _result(agent_id: str, number: int, at: float) -> JobResult:
    tps = random.uniform(5, 150)
    figures = {"n": 3, "mean": tps, "median": tps, "stddev": 1.0, "cv": 0.02, "min": tps - 1, "max": tps + 1}
    figures |= {"ci_low": tps - 2, "ci_high": tps + 2, "confidence": 0.95}
    model = random.choice(MODELS)
    environment = {"plan_hash": "a" * 64, "agent_version": "0", "ollama_version": "0.9.0", "model": model}
    cell = {"index": 0, "label": "512:128", "num_ctx": 4096, "concurrency": 1, "prompt_tokens_target": 512}
    cell |= {"completion_tokens": 128, "stopping": {"reason": "fixed", "iterations": 3, "measured_s": 1.0}}
    cell |= {"summary": {"decode_tps_corrected": figures, "first_token_ms": figures}}
    job_id = f"{agent_id}-{number}"
    result = {"id": job_id, "benchmark_id": job_id, "status": "completed", "environment": environment}
    text = json.dumps(result | {"metrics": [], "cells": [cell], "config": {"model_name": model}}).encode()
    return JobResult(
        agent_id=agent_id,
        job_id=job_id,
        kind="benchmark",
        state="completed",
        text=text,
        sha256=hashlib.sha256(text).hexdigest(),
        model=model,
        model_digest=None,
        error=None,
        at=at,
    )


def _store(db: Session, results: Sequence[JobResult]) -> None:
    """All in one transaction: each of its own would wait for the disk five thousand times."""
    for one in results:
        jobs.finish(db, one, AgentQuota())


async def prepare(database: Path, agents: Sequence[Agent], results: int) -> None:
    """A database with an operator, the agents enrolled and their results stored."""
    parts = application.build(application.AppSettings(database=database))
    await parts.operators.store.set_password("admin", secrets.hash_password(PASSWORD), time.time())
    parts.database.close()
    await enrol(database, [agent.enrolment for agent in agents])
    parts = application.build(application.AppSettings(database=database))
    each = -(-results // len(agents))
    made = [_result(agent.id, number, time.time()) for agent in agents for number in range(each)]
    await parts.database.run(_store, made[:results])
    parts.database.close()


async def first(page: Page, url: str, view: str, form: str = "table") -> float:
    """Load a view afresh; seconds until its first row or card is drawn. The page is signed in."""
    await page.evaluate(
        "form => localStorage.setItem('obt-console', JSON.stringify({ fleetView: form }))", form
    )
    # By way of an empty page: an address that differs behind the "#" alone would load nothing.
    await page.goto("about:blank")
    await page.goto(f"{url}/#/{view}", wait_until="commit")
    # Not wait_for_function, which the page's content security policy forbids.
    async with asyncio.timeout(LATEST_MS / 1000):
        found: float = await page.evaluate(UNTIL_FIRST)
    return found / 1000


async def steady(program: Program, seconds: float) -> dict[str, float]:
    """Percent of one core: of the page's renderer, of the rest of Chromium, and of the server."""

    def used() -> dict[str, float]:
        found = {"renderer": 0.0, "rest of Chromium": 0.0, "server": program.cpu_s()}
        for process in psutil.Process().children(recursive=True):
            # A process may end between the list and the look.
            with contextlib.suppress(psutil.Error):
                if "chrom" in process.name():
                    kind = "renderer" if "--type=renderer" in process.cmdline() else "rest of Chromium"
                    times = process.cpu_times()
                    found[kind] += times.user + times.system
        return found

    await asyncio.sleep(SETTLED_S)
    before, started = used(), time.monotonic()
    await asyncio.sleep(seconds)
    passed = time.monotonic() - started
    return {name: 100 * (now - before[name]) / passed for name, now in used().items()}


async def _worst(element: Locator, *actions: tuple[str, str]) -> float:
    took = [await element.evaluate(EFFECT, list(action)) for action in actions]
    # NaN, where nothing changed, compares with nothing: it must not be lost among the others.
    return max(took) if all(one == one for one in took) else float("nan")  # noqa: PLR0124 - how NaN is told


async def effects(page: Page) -> list[Figure]:
    """What an operator's keys and clicks take; the table of machines is shown."""
    search, head = page.get_by_label("Search machines"), page.locator("main thead")
    typed = [("input", "box-1"), ("input", "box-12"), ("input", "box-123"), ("input", "")]
    figures = [_figure("filter machines, ms", await _worst(search, *typed), 100)]
    click = ("click", "")
    for name in ("CPU", "GPU memory"):
        button = head.get_by_role("button", name=name, exact=False).first
        figures.append(_figure(f"sort machines by {name}, ms", await _worst(button, click, click), 100))
    await page.evaluate("location.hash = '#/results'")
    await page.wait_for_selector("main tbody input[type=checkbox]")
    decode = head.get_by_role("button", name="Decode").first
    figures.append(_figure("sort results, ms", await _worst(decode, click, click, click), 100))
    words = [("input", "llama3.3"), ("input", "box-1"), ("input", "")]
    figures.append(
        _figure("search results, ms", await _worst(page.get_by_label("Search results"), *words), 100)
    )
    further = page.get_by_role("button", name="Further")
    figures.append(_figure("page results, ms", await _worst(further, click, click), 100))
    return figures


async def measure(page: Page, url: str, server: Program, seconds: float) -> list[Figure]:
    """The page's figures; it is signed in."""
    figures = [_figure("first cards, s", await first(page, url, "", "cards"), 2)]
    shares = await steady(server, seconds)
    figures.append(_figure("cards: renderer, % of a core", shares["renderer"], 5))
    figures.append(_figure("first table, s", await first(page, url, ""), 2))
    shares = await steady(server, seconds)
    aims = {"renderer": 5.0}
    figures += [
        _figure(f"table: {name}, % of a core", share, aims.get(name)) for name, share in shares.items()
    ]
    figures += await effects(page)
    figures.append(_figure("first results, s", await first(page, url, "results"), 2))
    return figures


async def run(machines: int, results: int, seconds: float) -> list[Figure]:
    """A server with that many machines and results, and the page's figures."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    agents = [Agent(url, INSTALLED, f"box-{number:03d}") for number in range(machines)]
    with tempfile.TemporaryDirectory(prefix="obt-bench-") as folder:
        database = Path(folder) / "server.sqlite3"
        await prepare(database, agents, results)
        async with fleet.running_server(database, port) as server:
            running = [asyncio.create_task(agent.run(), name=f"agent {agent.id}") for agent in agents]
            try:
                await fleet.all_admitted(agents)
                print(f"{machines} machines are online, {results} results are stored", flush=True)
                # One round of heartbeats: every machine has its figures, as after a minute's work.
                await asyncio.sleep(limits.ALIVE_INTERVAL_S * 3)
                return await _in_chromium(url, server, seconds)
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)


async def _in_chromium(url: str, server: Program, seconds: float) -> list[Figure]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            page = await browser.new_page(viewport={"width": 1280, "height": 900})
            await page.add_init_script(FIRST_ROW)
            await page.goto(url)
            await page.fill("input[name=password]", PASSWORD)
            await page.click("button:has-text('Sign in')")
            await page.wait_for_selector("#navigation")
            # As on a server that is in use: each result was read in short once, when it was new.
            await page.request.get(f"{url}/api/v1/results", timeout=6 * LATEST_MS)
            return await measure(page, url, server, seconds)
        finally:
            await browser.close()


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks console", description=__doc__)
    parser.add_argument("--machines", type=int, default=500)
    parser.add_argument("--results", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long CPU is measured")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(argv)
    figures = asyncio.run(run(options.machines, options.results, 15.0 if options.quick else options.seconds))
    print_table(
        f"{options.machines} machines, {options.results} results",
        [Column("figure"), Column("value", 2), Column("aim, at most", 0), Column(""), Column("load", 1)],
        [
            (one.name, one.value, one.aim if one.aim is not None else "", one.verdict, one.load)
            for one in figures
        ],
    )
    return 0
