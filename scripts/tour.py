"""Take the pictures of docs/tutorial/tour.md: ``python scripts/tour.py [--to FOLDER] [--all]``.

Starts the demonstration with all its machines, has one of them work, and drives the page in Chromium. Every
view is taken on a desktop in light; those of ``ALSO`` in dark or on a phone too, or all with ``--all``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import logging
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog
from playwright.async_api import Browser, Page, async_playwright

from obt_server.client import JsonObject
from obt_server.demo.environment import DemoEnvironment, demo_environment
from obt_server.demo.fleet import PLANS, DemoFleet, demo_fleet
from tests.ports import free_port

FOLDER: Final = Path(__file__).parents[1] / "docs/tutorial/tour"
SIZES: Final = {"desktop": (1280, 800), "phone": (390, 844)}
Scheme = Literal["light", "dark"]
SCHEMES: Final[tuple[Scheme, ...]] = ("light", "dark")
ALSO: Final = frozenset(
    {
        ("fleet", "desktop", "dark"),
        ("result", "desktop", "dark"),
        ("fleet", "phone", "light"),
        ("result", "phone", "light"),
        ("machine", "phone", "dark"),
        ("playground", "phone", "dark"),
        ("campaign", "phone", "light"),
    }
)
PREPARED_WITHIN_S: Final = 600
# Charts have a few samples then; more make no better picture.
LIVE_FOR_MS: Final = 12_000
# A machine that does much else meanwhile is slow, and the pictures are the same.
SLOW_MS: Final = 90_000
MODEL: Final = "standin-8b:q4_k_m"
# What is in memory on the pictures, by machine.
LOADED: Final = {"demo": "standin-small:latest", "gpu-desk": MODEL, "cpu-box": "standin-1b:q8_0"}
# What the campaign of the pictures measures: the machines are all of them, and some lack one of the models.
CAMPAIGN: Final[JsonObject] = {
    "name": "nightly",
    "plans": [{"name": "short answers"}],
    "models": ["standin-1b:q8_0", MODEL, "standin-8b:q8_0"],
    "targets": {"all": True},
}
# A history has as many points.
NIGHTS: Final = 4
# As many bytes as all pictures together may have: the repository keeps every version of them.
MOST_BYTES: Final = 2_000_000
# A picture with few colours; the quality at which words stay sharp.
TO_WEBP: Final = """async ([picture, quality]) => {
    const image = new Image();
    image.src = `data:image/png;base64,${picture}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.width, image.height];
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL("image/webp", quality).split(",")[1];
}"""
QUALITY: Final = 0.72


@dataclass(frozen=True)
class Shot:
    """One view: its ``address``, a ``text`` that is there once it is complete, and what is done before."""

    address: str
    text: str
    act: Callable[[Page], Awaitable[None]] | None = None


async def _watch(page: Page) -> None:
    await page.wait_for_timeout(LIVE_FOR_MS)


async def _chat(page: Page) -> None:
    await page.click("button:has-text('Add a column')")
    await page.locator(".column select").nth(3).wait_for()
    await page.fill("textarea >> nth=0", "Why is the sky blue?")
    await page.keyboard.press("Enter")
    await page.locator("article.assistant", has_text="tokens/s").nth(1).wait_for()


async def _change_plan(page: Page) -> None:
    await page.click("summary:has-text('Change it')")


# By the name of the picture. Words in braces are those of ``_addresses``.
SHOTS: Final = {
    "fleet": Shot("", "gpu-tower", _watch),
    "machine": Shot("machine/{tower}", "GPU 1", _watch),
    "models": Shot("models", "installed"),
    "builder": Shot("run?on={desk}&model={model}", "Takes about", _change_plan),
    "campaigns": Shot("campaigns", "nightly"),
    "campaign": Shot("campaigns/{campaign}", "running"),
    "campaign-matrix": Shot("campaigns/{measured}?tab=matrix", "A figure leads to its history"),
    "campaign-history": Shot("campaigns/history?agent={desk}&model={model}&plan={plan}", "Dots are results"),
    "run": Shot("jobs/{live}", "Tokens/s", _watch),
    "result": Shot("result/{sweep}", "All figures"),
    "compare": Shot("compare?r={three}", "reference"),
    "results": Shot("results", "results"),
    "leaderboard": Shot("leaderboard", "Dots are means"),
    "playground": Shot("playground?on={tower}&model={model}", "Model", _chat),
    "add": Shot("add", "Join tokens"),
    "settings": Shot("settings", "API tokens"),
}


async def main(arguments: Sequence[str] | None = None) -> int:
    """Take them; return 1 when they are larger together than they may be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=FOLDER, help="folder to write to")
    parser.add_argument(
        "--all", action="store_true", help="every view, whole, in both schemes and both sizes"
    )
    options = parser.parse_args(arguments)
    # The server runs in this process.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    # No Ollama of this machine: the pictures are to be the same everywhere.
    os.environ["OLLAMA_URL"] = f"http://127.0.0.1:{free_port()}"
    options.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="obt-tour-") as folder:
        async with (
            demo_environment(Path(folder), free_port()) as demo,
            demo_fleet(Path(folder), demo, on_change=print) as fleet,
            async_playwright() as playwright,
        ):
            async with asyncio.timeout(PREPARED_WITHIN_S):
                await fleet.ready()
            chromium = shutil.which("chromium") or "/usr/bin/chromium"
            browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            try:
                addresses = await _addresses(demo, fleet)
                await _take_all(browser, demo, addresses, options.to, every=options.all)
            finally:
                await browser.close()
    size = sum(path.stat().st_size for path in options.to.glob("*.webp"))
    print(f"{len(list(options.to.glob('*.webp')))} pictures, {size / 1e6:.2f} MB")  # noqa: T201 - a script prints
    return 1 if size > MOST_BYTES and not options.all else 0


async def _addresses(demo: DemoEnvironment, fleet: DemoFleet) -> dict[str, str]:
    """Return what the addresses of the views hold, once a machine works for as long as the pictures take."""
    lines = (await demo.client.get("/results?sort=-decode_tps_corrected"))["results"]
    tower = fleet.machines["gpu-tower"]
    plan = {**PLANS["prompt lengths"], "model_name": "standin-8b:q8_0"}
    plan |= {"num_iterations": 40, "max_iterations": 40}
    nights = [await _measured(demo) for _ in range(NIGHTS)]
    for name, model in LOADED.items():
        agent = fleet.machines.get(name, demo.agent_id)
        await demo.client.command(agent, "load_model", {"model": model, "keep_alive": "1h"})
    started = await demo.client.post("/benchmarks", {"agent": tower, "plan": plan})
    # After that job: the run on the pictures does not wait behind the campaign.
    running = await demo.client.post("/campaigns", CAMPAIGN | {"name": "before the upgrade", "repeat": 10})
    return {
        "campaign": running["id"],
        "measured": nights[-1]["id"],
        "plan": nights[-1]["plans"][0]["hash"],
        "tower": tower,
        "desk": fleet.machines["gpu-desk"],
        "model": MODEL,
        "live": f"{tower}/{started['job_id']}",
        "sweep": _of(lines, "prompt lengths", MODEL)[0],
        # One model on three machines.
        "three": ",".join(_of(lines, "short answers", "standin-1b:q8_0")[:3]),
    }


async def _measured(demo: DemoEnvironment) -> JsonObject:
    """Return a campaign that has ended."""
    made = await demo.client.post("/campaigns", CAMPAIGN)
    async with asyncio.timeout(PREPARED_WITHIN_S):
        while made["state"] == "running":
            await asyncio.sleep(1)  # it may end before one could follow its events
            made = await demo.client.get(f"/campaigns/{made['id']}")
    return dict(made)


def _of(lines: list[JsonObject], plan: str, model: str) -> list[str]:
    return [
        f"{one['agent_id']}/{one['job_id']}"
        for one in lines
        if (one["plan_name"], one["model"]) == (plan, model)
    ]


async def _take_all(
    browser: Browser, demo: DemoEnvironment, addresses: dict[str, str], folder: Path, *, every: bool
) -> None:
    encoder = await browser.new_page()
    for scheme in SCHEMES:
        for size, (width, height) in SIZES.items():
            context = await browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                reduced_motion="reduce",
                locale="en-GB",
            )
            context.set_default_timeout(SLOW_MS)
            page = await context.new_page()
            await page.goto(demo.url)
            await page.fill("input[name=password]", demo.password)
            await page.click("button:has-text('Sign in')")
            await page.locator("main h1").wait_for()
            for name, shot in SHOTS.items():
                if every or (scheme, size) == ("light", "desktop") or (name, size, scheme) in ALSO:
                    picture = await _take(page, shot, shot.address.format(**addresses), whole=every)
                    encoded = await encoder.evaluate(TO_WEBP, [base64.b64encode(picture).decode(), QUALITY])
                    (folder / f"{name}-{size}-{scheme}.webp").write_bytes(base64.b64decode(encoded))
            await context.close()


async def _take(page: Page, shot: Shot, address: str, *, whole: bool) -> bytes:
    await page.evaluate("address => { location.hash = address }", f"#/{address}")
    await page.locator("main", has_text=shot.text).wait_for()
    if shot.act is not None:
        await shot.act(page)
    # No field has the focus, and what follows a click has come to rest.
    await page.evaluate("document.activeElement?.blur()")
    await page.wait_for_timeout(400)
    return await page.screenshot(full_page=whole)


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
