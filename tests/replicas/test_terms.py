"""Engines end and begin again in a living process: what is stored goes on, and nothing is done twice."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from obt_server.storage import ServerStorage
from tests.campaigns import machines as campaigns
from tests.campaigns.machines import measuring
from tests.replicas.losing import LosingStorage
from tests.rollouts import machines as rollouts
from tests.rollouts.machines import MODEL, Machine, connected, machines, only
from tests.server.conftest import Running, running
from tests.waiting import until

PULL = {"action": "pull", "model": MODEL, "targets": {"all": True}, "key": "once"}
MEASURE: dict[str, Any] = campaigns.body(models=[MODEL], pull_missing=True, key="once")
SCHEDULE = {"cron": "* * * * *", "time_zone": "UTC", "campaign": MEASURE | {"key": None}}


def serving(folder: Path) -> Any:
    return running(folder, campaigns=campaigns.QUICK, rollouts=rollouts.QUICK)


def observers(server: Running) -> int:
    return len(server.parts.hub.events._observers)  # noqa: SLF001 - who would be called is asked nowhere


async def refused(server: Running, path: str, body: dict[str, Any]) -> None:
    answer = await server.http.post(path, json=body)
    assert answer.status_code in (429, 503), answer.text
    assert answer.json()["error"]["kind"] == "busy"
    assert int(answer.headers["Retry-After"]) >= 1


async def test_a_rollout_goes_on_in_the_next_term_of_the_same_process(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        engines = server.parts.context.engines
        await engines.now.close()
        (machine,) = await machines(server, 1, at_once=False)
        async with machine.connected(server):
            async with engines.term():
                listening = observers(server)
                rollout = await rollouts.begin(server)
                await rollouts.until_shown(
                    server, rollout["id"], lambda view: only(view)["state"] == "running"
                )
            # Between two terms: what is stored is shown, and nothing can be begun or changed.
            assert observers(server) < listening
            assert only(await rollouts.shown(server, rollout["id"]))["state"] == "running"
            listed = (await server.http.get("/api/v1/rollouts")).json()
            assert [one["state"] for one in listed] == ["running"]
            await refused(server, "/api/v1/rollouts", PULL)
            await refused(server, f"/api/v1/rollouts/{rollout['id']}/cancel", {})
            await refused(server, f"/api/v1/rollouts/{rollout['id']}/retry", {})
            await machine.finish_pull()
            async with engines.term():
                assert observers(server) == listening
                view = await rollouts.until_over(server, rollout["id"])
    assert (only(view)["state"], only(view)["attempt"]) == ("done", 1)
    assert sum(machine.started.values()) == 1


async def test_a_campaign_goes_on_in_the_next_term_of_the_same_process(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        engines = server.parts.context.engines
        await engines.now.close()
        (machine,) = await measuring(server, 1, measures=False)
        async with machine.connected(server):
            async with engines.term():
                campaign = await campaigns.begin(server)
                await machine.until_measuring()
            await refused(server, f"/api/v1/campaigns/{campaign['id']}/cancel", {})
            await refused(server, f"/api/v1/campaigns/{campaign['id']}/rerun", {"cells": ["c1"]})
            machine.measures = True
            await machine.finish_benchmark()
            for _ in range(3):
                # Terms that last for a moment change nothing.
                async with engines.term():
                    pass
            async with engines.term():
                view = await campaigns.until_over(server, campaign["id"])
    assert view["counts"]["done"] == 4
    assert set(machine.started.values()) == {1}
    assert machine.at_once_most == 1


async def test_a_term_that_ends_while_a_request_stores_leaves_no_task(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        engines = server.parts.context.engines
        (machine,) = await machines(server, 1, at_once=False)
        async with machine.connected(server):
            first = engines.now
            create = server.parts.storage.create_rollout

            async def end_first(*args: Any, **kwargs: Any) -> Any:
                stored = await create(*args, **kwargs)
                await first.close()
                return stored

            first.rollouts._storage.create_rollout = end_first  # noqa: SLF001
            rollout = await rollouts.begin(server)
            del server.parts.storage.create_rollout  # the one of the instance
            assert first.rollouts.running() == []
            assert machine.started == Counter()
            async with engines.term():
                await until(lambda: machine.jobs)
                await machine.finish_pull()
                view = await rollouts.until_over(server, rollout["id"])
    assert (only(view)["state"], machine.started.total()) == ("done", 1)


async def _until_lost_or_over(server: Running, losing: LosingStorage) -> None:
    now = server.parts.context.engines.now
    await until(
        lambda: losing.lost.is_set() or not (now.rollouts.running() or now.campaigns.running()),
        within_s=120,
    )


@pytest.mark.parametrize("writes", range(10))
async def test_a_lease_lost_at_any_write_of_a_rollout_is_a_crash(tmp_path: Path, writes: int) -> None:
    async with serving(tmp_path) as server:
        some: list[Machine] = await machines(server, 2)
        engines = server.parts.context.engines
        await engines.now.close()
        losing = LosingStorage(server.parts.storage, writes)
        async with connected(server, some):
            async with engines.term(storage=cast("ServerStorage", losing)):
                answer = await server.http.post("/api/v1/rollouts", json=PULL)
                assert answer.status_code == (201 if writes else 429), answer.text
                await _until_lost_or_over(server, losing)
            async with engines.term():
                rollout = await rollouts.begin(server, key="once")
                view = await rollouts.until_over(server, rollout["id"])
    assert set(rollouts.states(view).values()) == {"done"}
    assert [one.started.total() for one in some] == [1, 1]


@pytest.mark.parametrize("writes", range(0, 24, 2))
async def test_a_lease_lost_at_any_write_of_a_campaign_is_a_crash(tmp_path: Path, writes: int) -> None:
    async with serving(tmp_path) as server:
        (machine,) = await measuring(server, 1, models={})
        engines = server.parts.context.engines
        await engines.now.close()
        losing = LosingStorage(server.parts.storage, writes)
        async with machine.connected(server):
            async with engines.term(storage=cast("ServerStorage", losing)):
                answer = await server.http.post("/api/v1/campaigns", json=MEASURE)
                assert answer.status_code == (201 if writes else 429), answer.text
                await _until_lost_or_over(server, losing)
            async with engines.term():
                campaign = (await server.http.post("/api/v1/campaigns", json=MEASURE)).json()
                view = await campaigns.until_over(server, campaign["id"])
    assert view["counts"]["done"] == 2
    # One pull and two benchmarks, each begun once.
    assert set(machine.started.values()) == {1}
    assert len(machine.started) == 3
    assert machine.at_once_most == 1


@pytest.mark.parametrize("writes", range(3))
async def test_a_lease_lost_while_a_schedule_begins_makes_one_campaign(tmp_path: Path, writes: int) -> None:
    async with serving(tmp_path) as server:
        (machine,) = await measuring(server, 1, measures=False)
        engines = server.parts.context.engines
        await engines.now.close()
        put = await server.http.put("/api/v1/schedules/nightly", json=SCHEDULE)
        assert put.status_code == 200, put.text
        # It was due a minute ago, or two.
        storage = server.parts.storage
        stored = await storage.schedule("nightly")
        await storage.delete_schedule("nightly")
        await storage.save_schedule(msgspec.structs.replace(stored, done_until=time.time() - 120))
        losing = LosingStorage(storage, writes)
        async with machine.connected(server):
            async with engines.term(storage=cast("ServerStorage", losing)):
                await engines.now.schedules.look()
            async with engines.term():
                await engines.now.schedules.look()
                found = (await server.http.get("/api/v1/campaigns")).json()
                runs = (await server.http.get("/api/v1/schedules/nightly/runs")).json()
    # The benchmark never ends: a time that comes meanwhile is left out.
    assert len(found) == 1
    assert [run["campaign_id"] for run in runs if run["campaign_id"]] == [found[0]["id"]]
