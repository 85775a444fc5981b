"""What open pages hear of campaigns."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.campaigns.machines import MODELS, ONE, QUICK, begin, connected, measuring, only, post, until_over
from tests.rollouts.machines import QUICK as QUICK_ROLLOUTS
from tests.rollouts.test_news import listening, until_heard
from tests.server.conftest import running
from tests.waiting import until


async def test_a_page_hears_of_a_campaign_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    async with running(tmp_path, campaigns=QUICK) as server:
        first, second = await measuring(server, 2, measures=False)
        async with connected(server, [first, second]), listening(server) as heard:
            await until_heard(heard, "current")
            campaign = await begin(server, models=MODELS[:1], targets={"agents": [first.id]})
            begun = await until_heard(heard, "campaign", id=campaign["id"])
            assert (begun["state"], begun["total"]) == ("running", 2)
            assert "cells" not in begun
            await first.until_measuring()
            await first.say_iteration(3, 4)
            async with asyncio.timeout(30):
                while True:
                    moved = await until_heard(heard, "campaign", id=campaign["id"])
                    if [cell["progress"] for cell in moved["changed"]] == [0.5]:
                        break
            assert [cell["id"] for cell in moved["changed"]] == ["c1"]
            # Machines that are added come with their cells.
            await post(server, f"{campaign['id']}/machines", targets={"agents": [second.id]})
            more = await until_heard(heard, "campaign", total=4)
            assert {cell["id"] for cell in more["changed"]} >= {"c3", "c4"}
            for one in (first, second):
                one.measures = True
                await until(one.open_benchmarks)
                await one.finish_benchmark()
            over = await until_heard(heard, "campaign", state="done")
            assert over["counts"]["done"] == 4

            async def forgotten() -> bool:
                answer = await server.http.delete(f"/api/v1/campaigns/{campaign['id']}")
                return answer.status_code == 204

            await until(forgotten)
            assert await until_heard(heard, "campaign_gone") == {"id": campaign["id"]}


async def test_a_page_that_comes_later_begins_with_the_campaigns_that_run(tmp_path: Path) -> None:
    async with running(tmp_path, campaigns=QUICK) as server:
        (machine,) = await measuring(server, 1, measures=False)
        async with connected(server, [machine]):
            campaign = await begin(server, **ONE)
            async with listening(server) as heard:
                found = await until_heard(heard, "campaign", id=campaign["id"])
                await until_heard(heard, "current")
            assert (found["state"], found["changed"]) == ("running", [])
            await machine.until_measuring()
            await machine.finish_benchmark()
            await until_over(server, campaign["id"])


async def test_a_pull_says_how_far_it_is_live_and_also_after_a_restart_of_the_server(tmp_path: Path) -> None:
    async def until_pulled(heard: asyncio.Queue[tuple[str, dict[str, Any]]], there: int) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while True:
                news = await until_heard(heard, "campaign")
                for cell in news["changed"]:
                    if cell["completed_bytes"] == there:
                        found: dict[str, Any] = cell
                        return found

    async with running(tmp_path, campaigns=QUICK, rollouts=QUICK_ROLLOUTS) as before:
        (machine,) = await measuring(before, 1, models={}, at_once=False)
        async with connected(before, [machine]), listening(before) as heard:
            campaign = await begin(before, **ONE, pull_missing=True)
            await until(lambda: machine.jobs)
            await machine.say_progress(
                phase="pulling", completed_bytes=600, total_bytes=800, bytes_per_second=50.0
            )
            cell = await until_pulled(heard, 600)
            assert (cell["state"], cell["progress"], cell["total_bytes"]) == ("pulling", 0.75, 800)
            assert cell["bytes_per_second"] == 50.0
            # Each that follows is said too, though nothing that is stored changes.
            await machine.say_progress(phase="pulling", completed_bytes=700, total_bytes=800)
            await until_pulled(heard, 700)
    async with running(tmp_path, campaigns=QUICK, rollouts=QUICK_ROLLOUTS) as after:
        async with connected(after, [machine]), listening(after) as heard:
            await until_heard(heard, "current")
            await machine.say_progress(phase="pulling", completed_bytes=760, total_bytes=800)
            await until_pulled(heard, 760)
        async with connected(after, [machine]):
            await machine.finish_pull(name=MODELS[0])
            cell = only(await until_over(after, campaign["id"]))
    assert (cell["state"], cell["completed_bytes"], cell["total_bytes"]) == ("done", None, None)
