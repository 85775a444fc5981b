"""What the page shows where there is little, much, or something wrong; what a keyboard and a reader get."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.async_api import Browser, Page, expect

from obt_agent.errors import NotPermitted
from obt_agent.ollama.payloads import InstalledModel
from obt_agent.protocol.envelope import Request
from tests.browser.conftest import fits, sign_in, watching
from tests.server.agent_double import AgentDouble, Answer, never
from tests.server.conftest import PASSWORD, Running, running
from tests.server.job_steps import accept

pytestmark = pytest.mark.asyncio(loop_scope="module")
GIB = 1 << 30
GPU = {
    "id": "gpu-0",
    "vendor": "nvidia",
    "provider": "nvml",
    "name": "A big GPU",
    "memory": {"total_bytes": 24 * GIB},
    "power_limit_watts": 350,
}
LONG = "hf.co/" + "a-very-long-organisation-name/" * 3 + "model-GGUF:Q4_K_M"


def inventory(**more: Any) -> dict[str, Any]:
    known = {"fingerprint": "f1", "collected_at": 1.0, "memory": {"total_bytes": 64 * GIB}}
    return {"fingerprint": "f1", "revision": 1, "inventory": known | more}


def sampled(n: int, gpu: dict[str, Any] | None = None, **more: Any) -> msgspec.Raw:
    sample: dict[str, Any] = {
        "t_wall": 1.0 + n,
        "t_mono_ns": n,
        "cpu": {"utilization_ratio": n / 10, "load": [1.5, 1.0, 0.5]},
        "memory": {"used_bytes": 16 * GIB, "available_bytes": 48 * GIB},
        "ollama": [{"pid": 7, "role": "runner", "cpu_ratio": 1.5, "rss_bytes": 2 * GIB}],
    }
    sample |= more
    if gpu is not None:
        sample["gpus"] = [{"id": "gpu-0", "state": "ok", **gpu}]
    return msgspec.Raw(json.dumps({"t_us": n, "n": n, "missed": 0, "sample": sample}).encode())


async def open_machine(page: Page, name: str, tab: str = "Hardware") -> None:
    await page.click(f"a.machine:has-text('{name}')")
    await page.click(f"nav.tabs >> text={tab}")


async def test_with_no_machine_yet_the_page_says_how_to_add_one_and_tells_when_it_is_there(
    bare: Page, server: Running
) -> None:
    await expect(bare.locator("h2")).to_have_text("No machine yet: add the first")
    command = bare.locator(".copy", has_text=f"service install --server {server.url}")
    await command.get_by_role("button").click()
    await expect(command.get_by_role("button")).to_have_text(re.compile("Copied|Selected"))
    await bare.goto(f"{server.url}/#/add")
    async with server.agent("newcomer"):
        await expect(bare.locator(".welcome")).to_contain_text("Here: newcomer")
        await bare.click(".welcome a")
        await expect(bare.locator("h2")).to_have_text("newcomer")


async def test_a_machine_with_no_model_says_how_to_pull_one(bare: Page, server: Running) -> None:
    async with server.agent("empty") as agent:
        await agent.sync_models()
        for tab in ("Models", "Generate", "Benchmarks"):
            await open_machine(bare, "empty", tab)
            await expect(bare.locator("main .copy code")).to_have_text("ollama pull llama3.2:1b")
        await agent.sync_models(InstalledModel(name="tiny:1b", digest="d", size_bytes=1), revision=2)
        await expect(bare.locator("select[name=model]")).to_have_value("tiny:1b")


async def test_a_machine_without_a_gpu_says_so_and_shows_no_empty_charts(bare: Page, server: Running) -> None:
    async with server.agent("plain") as agent:
        agent.handlers["hardware_watch"] = never
        await agent.ask("hardware.sync", inventory())
        await open_machine(bare, "plain")
        await expect(bare.locator("main")).to_contain_text("Ollama computes on the CPU")
        await agent.until(lambda: bool(agent.requests))
        await agent.stream_items(agent.requests[-1], sampled(1))
        await expect(bare.locator(".trace", has_text="Memory").first).to_contain_text("16.0 of 64.0 GiB")
        await expect(bare.locator(".trace", has_text="Power")).to_have_count(0)
        await expect(bare.locator(".card", has_text="Ollama's processes")).to_contain_text("150 % · 2.0 GiB")


async def test_a_gpu_is_drawn_live_with_memory_temperature_and_power(bare: Page, server: Running) -> None:
    async with server.agent("strong") as agent:
        agent.handlers["hardware_watch"] = never
        await agent.ask("hardware.sync", inventory(gpus=[GPU]))
        await open_machine(bare, "strong")
        await expect(bare.locator("main .card h3", has_text="A big GPU")).to_be_visible()
        await agent.until(lambda: bool(agent.requests))
        for n, busy in ((1, 0.2), (2, 0.9)):
            gpu = {"utilization_ratio": busy, "memory_used_bytes": n * 6 * GIB, "temperature_celsius": 50 + n}
            await agent.stream_items(agent.requests[-1], sampled(n, gpu | {"power_watts": 100 * n}))
        card = bare.locator(".card", has_text="Utilisation")
        await expect(card).to_contain_text("12.0 of 24.0 GiB")
        await expect(card).to_contain_text("52 °C")
        await expect(card).to_contain_text("200 W of 350 W")
        chart = card.locator(".trace", has_text="Utilisation").locator("svg")
        await expect(chart).to_have_attribute("aria-label", re.compile("90 %; from 20 % to 90 %"))


async def test_whatever_else_is_measured_is_shown(bare: Page, server: Running) -> None:
    def everything(n: int) -> dict[str, Any]:
        return {
            "cpu": {
                "utilization_ratio": 0.5,
                "per_core_ratio": [0.1, 0.9],
                "throttled_seconds_total": 7.0 + n,
            },
            "memory": {"used_bytes": 1, "cgroup_available_bytes": 3 * GIB},
            "pressure": {"cpu_ratio": 0.25, "memory_ratio": 0.0, "io_ratio": 0.5},
            "disk": {"read_bytes_per_second": 5 << 20, "write_bytes_per_second": 0},
            "network": {"receive_bytes_per_second": 2048, "transmit_bytes_per_second": 1024},
        }

    async with server.agent("whole") as agent:
        agent.handlers["hardware_watch"] = never
        await agent.ask("hardware.sync", inventory(gpus=[GPU]))
        await open_machine(bare, "whole")
        await expect(bare.locator("main .card h3", has_text="A big GPU")).to_be_visible()
        await agent.until(lambda: bool(agent.requests))
        gpu = {"fan_ratio": 0.4, "ecc_uncorrected": 2, "clocks": {"graphics_hertz": 1_500_000_000}}
        for n in (1, 2):
            await agent.stream_items(agent.requests[-1], sampled(n, gpu, **everything(n)))
        main = bare.locator("main")
        for words in (
            "Heat held the CPU back for 1.0 s",
            "3.0 GiB left in Ollama's control group",
            "busiest 90 %",
        ):
            await expect(main).to_contain_text(words)
        for words in ("fan 40 % · 1500 MHz", "2 memory errors that ECC could not correct"):
            await expect(main).to_contain_text(words)
        for name, figure in (
            ("Waited for a disk", "50 %"),
            ("Disks, read", "5 MiB/s"),
            ("Network, sent", "1 KiB/s"),
        ):
            await expect(bare.locator(".trace", has_text=name)).to_contain_text(figure)
        cores = bare.locator(".trace", has_text="Cores").locator("svg")
        await expect(cores).to_have_attribute("aria-label", "Cores: 2, the busiest 90 %")


async def test_what_a_machines_owner_refuses_is_said_where_it_would_be_shown(
    bare: Page, server: Running
) -> None:
    async def refuse(_: AgentDouble, __: Request) -> Answer:
        return NotPermitted("The policy of this machine does not allow hardware_watch.")

    async with server.agent("private") as agent:
        agent.handlers["hardware_watch"] = refuse
        await open_machine(bare, "private")
        await expect(bare.locator("main [role=status]", has_text="does not allow")).to_be_visible()


async def test_a_machine_that_leaves_is_shown_as_offline_and_as_online_when_it_is_back(
    bare: Page, server: Running
) -> None:
    credentials = await server.enrol("wanderer")
    async with server.agent("wanderer", credentials=credentials):
        await open_machine(bare, "wanderer", "Generate")
        await expect(bare.locator("main .badge.good")).to_have_text("online")
    await expect(bare.locator("main .badge.bad")).to_have_text(re.compile("offline, last seen .* ago"))
    await expect(bare.locator("main .caution")).to_contain_text("obt-agent status")
    await expect(bare.locator("main button:has-text('Generate')")).to_have_count(0)
    await expect(bare.locator("a.machine", has_text="wanderer")).to_contain_text("offline, last seen")
    async with server.agent("wanderer", credentials=credentials):
        await expect(bare.locator("main .badge.good")).to_have_text("online")


async def test_revoking_the_credential_ends_the_session(bare: Page, server: Running) -> None:
    bare.on("dialog", lambda dialog: dialog.accept())
    async with server.agent("suspect") as agent:
        await open_machine(bare, "suspect", "Access")
        await bare.click("main button:has-text('Revoke')")
        assert await agent.until_closed() == (4401, "revoked")
        await expect(bare.locator("main .badge.bad").first).to_have_text(re.compile("offline"))


async def test_a_machine_of_thirty_is_found_by_its_name(bare: Page, server: Running) -> None:
    for number in range(30):
        await server.enrol(f"box-{number:02d}")
    async with server.agent("the-one-with-" + "a-very-long-name-" * 4) as agent:
        await agent.sync_models(InstalledModel(name=LONG, digest="d" * 64, size_bytes=GIB))
        await expect(bare.locator("tbody tr")).to_have_count(31)
        await expect(bare.locator(".machine.entry").first).to_contain_text("1 of 31 online")
        await bare.get_by_label("Find a machine").fill("one-with")
        await expect(bare.locator("#machines .machine:not(.entry)")).to_have_count(1)
        await bare.set_viewport_size({"width": 360, "height": 740})
        await fits(bare)
        for tab in ("Models", "Generate", "Benchmarks"):
            await open_machine(bare, "the-one-with", tab)
            await expect(bare.locator("main .card").first).to_contain_text(LONG)
            await fits(bare)


async def test_models_that_differ_between_machines_are_marked_with_the_other_machine(
    bare: Page, server: Running
) -> None:
    async with server.agent("alpha") as alpha, server.agent("beta") as beta:
        await alpha.sync_models(InstalledModel(name="small:1b", digest="a" * 64, size_bytes=GIB))
        await beta.sync_models(InstalledModel(name="small:1b", digest="b" * 64, size_bytes=GIB))
        await open_machine(bare, "alpha", "Models")
        await expect(bare.locator("main .badge.bad")).to_have_text("differs from beta")


async def test_a_benchmark_that_was_refused_says_why(bare: Page, server: Running) -> None:
    async def refuse(_: AgentDouble, __: Request) -> Answer:
        return NotPermitted("Quiet hours last until 07:00.")

    async with server.agent("sleeper") as agent:
        await agent.sync_models(InstalledModel(name="small:1b", digest="a" * 64, size_bytes=GIB))
        agent.handlers["run_benchmark"] = refuse
        await open_machine(bare, "sleeper", "Benchmarks")
        await bare.click("button:has-text('Start')")
        await expect(bare.locator(".notice")).to_contain_text("Quiet hours last until 07:00.")
        await bare.click("button:has-text('Start')")
        await expect(bare.locator("button:has-text('Start')")).to_be_enabled()
        await expect(bare.locator(".notice")).to_have_count(1)
        await bare.get_by_label("Dismiss").click()
        await expect(bare.locator(".notice")).to_have_count(0)
        agent.handlers["run_benchmark"] = accept
        await bare.click("button:has-text('Start')")
        await expect(bare.locator("#running")).to_contain_text("small:1b")
        plan = msgspec.json.decode(agent.requests[-1].params)["plan"]
        assert plan["prompts"] == [{"prompt_tokens": 512, "completion_tokens": 128}], "as `obt-agent bench`"


@contextlib.asynccontextmanager
async def opened_at(browser: Browser, url: str) -> AsyncIterator[Page]:
    async with watching(browser, url) as watched:
        await sign_in(watched.page, PASSWORD)
        yield watched.page


async def test_the_page_says_that_the_server_is_gone_and_comes_back_by_itself(
    browser: Browser, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with contextlib.AsyncExitStack() as stack:
        async with running(tmp_path, port=port) as server:
            page = await stack.enter_async_context(opened_at(browser, server.url))
            await server.enrol("first")
            await server.enrol("second")
            async with server.agent("third"):
                await expect(page.locator("tbody tr")).to_have_count(3)
            await expect(page.locator("#lost")).to_be_hidden()
            server.uvicorn.config.timeout_graceful_shutdown = 0  # the page's stream would be waited for
        await expect(page.locator("#lost")).to_contain_text("The server does not answer.")
        await expect(page.locator("tbody tr")).to_have_count(3)
        async with running(tmp_path, port=port) as server:
            await expect(page.locator("#lost")).to_be_hidden()
            async with server.agent("fourth"):
                await expect(page.locator("tbody tr")).to_have_count(4)


async def test_whoever_was_signed_out_elsewhere_is_asked_to_sign_in_again(
    bare: Page, server: Running
) -> None:
    await server.enrol("box")
    await expect(bare.locator("a.machine", has_text="box")).to_be_visible()
    await bare.context.clear_cookies()
    await bare.click("a.machine:has-text('Results')")
    await expect(bare.locator(".sign-in input[name=password]")).to_be_visible()
    assert await bare.locator(".machine:visible").count() == 0
    await sign_in(bare, PASSWORD)
    await expect(bare.locator("h2")).to_have_text("Results")


async def test_a_page_whose_sign_in_ended_asks_for_it_without_being_touched(
    bare: Page, server: Running
) -> None:
    await server.enrol("box")
    await expect(bare.locator("a.machine", has_text="box")).to_be_visible()
    assert (await bare.context.request.delete(f"{server.url}/api/v1/session")).ok
    await expect(bare.locator(".sign-in input[name=password]")).to_be_visible()
    await expect(bare.locator("#lost")).to_be_hidden()


async def test_a_keyboard_reaches_everything_and_news_do_not_take_the_focus(
    bare: Page, server: Running
) -> None:
    async with server.agent("alpha") as agent:
        await bare.get_by_role("link", name=re.compile("alpha")).first.focus()
        entry = bare.locator("a.machine", has_text="alpha")
        await entry.focus()
        await agent.sync_models(InstalledModel(name="small:1b", digest="a" * 64, size_bytes=GIB))
        await expect(entry).to_contain_text("1 model")
        await expect(entry).to_be_focused()
        await bare.keyboard.press("Enter")
        await expect(bare.locator("h2")).to_be_focused()
        assert await bare.title() == "alpha, Hardware · OBT"
        await bare.locator("nav.tabs >> text=Models").focus()
        await bare.keyboard.press("Enter")
        await expect(bare.locator("nav.tabs [aria-current]")).to_have_text("Models")
        await expect(bare.locator("nav.tabs [aria-current]")).to_be_focused()
        await bare.locator(".skip").focus()
        await bare.keyboard.press("Enter")
        await expect(bare.locator("#main")).to_be_focused()
        await expect(bare.locator("nav.tabs [aria-current]")).to_have_text("Models")


CONTROLS = """() => [...document.querySelectorAll("input, select, textarea, button, a, svg[role=img]")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.labels?.length || one.textContent.trim() || one.getAttribute("aria-label")))
  .map((one) => one.outerHTML)"""
FAINT = """() => {
  const channel = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const parts = [0.2126, 0.7152, 0.0722];
  const light = (colour) => parts.reduce((sum, weight, at) => sum + weight * channel(colour[at] / 255), 0);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = rgb(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || one.disabled || !one.checkVisibility() || one.closest("svg, noscript, option")) continue;
    const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) faint.push(`${one.outerHTML.slice(0, 120)}: ${ratio.toFixed(2)}`);
  }
  return faint;
}"""


async def test_every_control_has_a_name_and_every_text_enough_contrast(bare: Page, server: Running) -> None:
    await server.enrol("gone")
    async with server.agent("alpha") as agent, server.agent("beta") as beta:
        agent.handlers["hardware_watch"] = never
        await agent.ask("hardware.sync", inventory(gpus=[GPU]))
        await agent.sync_models(InstalledModel(name="small:1b", digest="a" * 64, size_bytes=GIB))
        await beta.sync_models(InstalledModel(name="small:1b", digest="b" * 64, size_bytes=GIB))
        paths = [
            f"machine/{agent.agent_id}/{tab}" for tab in ("hardware", "models", "generate", "benchmarks")
        ]
        for path in ("", "add", "results", "compare/1/2", *paths, f"machine/{agent.agent_id}/access"):
            await bare.goto(f"{server.url}/#/{path}")
            await expect(bare.locator("main h2")).to_be_visible()
            await expect(bare.locator(".loading")).to_have_count(0)
            assert await bare.evaluate(CONTROLS) == [], path
            for scheme in ("light", "dark"):
                await bare.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                assert await bare.evaluate(FAINT) == [], (path, scheme)
