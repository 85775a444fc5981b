"""The page in Chromium with 500 machines online, heartbeats every 15 s, and 5,000 results.

Times are the browser's own: from loading to the first row, and from a key or a click to the frame that shows
its effect. CPU is that of all processes of Chromium, read from outside.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import psutil
from playwright.async_api import Page, async_playwright
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from benchmarks import fleet
from benchmarks.table import Column, print_table
from obt_agent.protocol import limits
from obt_server import app as application
from obt_server.auth import secrets
from obt_server.demo.environment import free_port

PASSWORD: Final = "benchmark"  # noqa: S105 - of a server that lives as long as the measurement
CHROMIUM: Final = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS: Final = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
MODELS: Final = ("llama3.2:1b", "qwen3:8b", "gemma3:12b", "gpt-oss:20b", "llama3.3:70b")
EFFECT: Final = """([action, selector, text]) => new Promise((resolve) => {
  const started = performance.now();
  const rows = () => document.querySelector("main tbody")?.textContent;
  const before = rows();
  const wait = () => {
    if (rows() !== before) requestAnimationFrame(() => resolve(performance.now() - started));
    else if (performance.now() - started > 20000) resolve(NaN);
    else requestAnimationFrame(wait);
  };
  const element = document.querySelector(selector);
  if (action === "click") element.click();
  else { element.value = text; element.dispatchEvent(new Event("input", { bubbles: true })); }
  requestAnimationFrame(wait);
})"""
"""Does something, and gives the milliseconds until a frame shows other rows."""


class Agent(fleet.Agent):
    """A minimal agent that reports moving figures, and results at first."""

    def __init__(self, url: str, results: int) -> None:
        super().__init__(url)
        self.left = results

    async def _speak(self, socket: ClientConnection) -> None:
        with contextlib.suppress(WebSocketException):
            while not self.admitted_at:  # noqa: ASYNC110 - five hundred events are no better
                await asyncio.sleep(0.1)
            for number in itertools.count(100):
                if self.left == 0:
                    break
                self.left -= 1
                await socket.send(
                    fleet.as_frame(id=number, method="job.finished", params=_job(self.id, number))
                )
            await asyncio.sleep(random.random() * limits.ALIVE_INTERVAL_S * 3)
            while True:
                await socket.send(fleet.as_frame(method="heartbeat", params=_heartbeat()))
                for _ in range(3):
                    await asyncio.sleep(limits.ALIVE_INTERVAL_S)
                    await socket.send(fleet.as_frame(method="link.alive", params={}))


def _heartbeat() -> dict[str, Any]:
    gpu = {
        "id": "gpu-0",
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


def _job(agent_id: str, number: int) -> dict[str, Any]:
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
    text = json.dumps(result | {"metrics": [], "cells": [cell], "config": {"model_name": model}})
    return {
        "job_id": job_id,
        "kind": "benchmark",
        "state": "completed",
        "bytes": len(text),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "result": text,
    }


async def measure(page: Page, seconds: float) -> dict[str, float]:
    """The page's figures; it is signed in, and nothing of it is loaded yet."""
    await page.evaluate("""localStorage.setItem("obt-console", '{"fleetView":"table"}')""")
    await page.reload(wait_until="commit")
    await page.wait_for_selector("main tbody tr")
    first = await page.evaluate("performance.now()")
    found = {"first table, s": first / 1000}
    await asyncio.sleep(3.0)  # what loading leaves to be done is not the steady state
    found["CPU steady, %"] = await _cpu(seconds)
    for name, what in (
        ("filter machines, ms", ["input", "main input[type=search]", "1"]),
        ("sort machines, ms", ["click", "main thead th:nth-child(7) button", ""]),
    ):
        found[name] = await page.evaluate(EFFECT, what)
    await page.evaluate("location.hash = '#/results'")
    await page.wait_for_selector("main tbody input[type=checkbox]")
    for name, what in (
        ("sort results, ms", ["click", "main thead th:nth-child(5) button", ""]),
        ("search results, ms", ["input", "main input[type=search]", "llama3.3"]),
        ("page results, ms", ["click", "main .row:last-child button:last-child", ""]),
    ):
        found[name] = await page.evaluate(EFFECT, what)
    return found


async def _cpu(seconds: float) -> float:
    """The share of one core, in percent, that all of this process's browsers use."""

    def used() -> float:
        total = 0.0
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "chrom" in process.name():
                    times = process.cpu_times()
                    total += times.user + times.system
        return total

    before, started = used(), time.monotonic()
    await asyncio.sleep(seconds)
    return 100 * (used() - before) / (time.monotonic() - started)


async def run(machines: int, results: int, seconds: float) -> dict[str, float]:
    """A server with that many machines and results, and the page's figures."""
    port = free_port(0)
    url = f"http://127.0.0.1:{port}"
    agents = [Agent(url, results // machines) for _ in range(machines)]
    with tempfile.TemporaryDirectory(prefix="obt-bench-") as folder:
        database = Path(folder) / "server.sqlite3"
        await _prepare(database, agents)
        async with fleet.running_server(database, port, uvloop=True), asyncio.TaskGroup() as group:
            running = [group.create_task(agent.run(), name=f"agent {agent.id}") for agent in agents]
            try:
                await fleet.all_admitted(agents)
                async with asyncio.timeout(fleet.WITHIN_S), async_playwright() as playwright:
                    while any(agent.left for agent in agents):  # noqa: ASYNC110 - as in fleet
                        await asyncio.sleep(0.1)
                    browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
                    page = await browser.new_page(viewport={"width": 1280, "height": 900})
                    await page.goto(url)
                    await page.fill("input[name=password]", PASSWORD)
                    await page.click("button:has-text('Sign in')")
                    await page.wait_for_selector("#navigation")
                    found = await measure(page, seconds)
                    await browser.close()
                    return found
            finally:
                for task in running:
                    task.cancel()


async def _prepare(database: Path, agents: list[Agent]) -> None:
    parts = application.build(application.AppSettings(database=database))
    await parts.operators.store.set_password("admin", secrets.hash_password(PASSWORD), time.time())
    parts.database.close()
    await fleet.enrol(database, agents)


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks console", description=__doc__)
    parser.add_argument("--machines", type=int, default=500)
    parser.add_argument("--results", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long CPU is measured")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(argv)
    found = asyncio.run(run(options.machines, options.results, 15.0 if options.quick else options.seconds))
    title = f"{options.machines} machines, {options.results} results"
    print_table(title, [Column("figure"), Column("value", 1)], list(found.items()))
    return 0
