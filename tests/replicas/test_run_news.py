"""Pages at any replica hear of rollouts, campaigns and regressions as those at the leader do."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from obt_server.bus import BusMessage, LocalBroker
from obt_server.rest import shared_runs
from tests.campaigns import machines as campaigns
from tests.campaigns.machines import measuring
from tests.replicas.servers import bus_of, fleet_of, leads, replicas
from tests.rollouts import machines as rollouts
from tests.rollouts.machines import machines
from tests.rollouts.test_news import listening, until_heard
from tests.waiting import until

Heard = asyncio.Queue[tuple[str, dict[str, Any]]]


async def first_of(heard: Heard) -> list[tuple[str, dict[str, Any]]]:
    """What a stream begins with, up to ``current``."""
    found: list[tuple[str, dict[str, Any]]] = []
    async with asyncio.timeout(30):
        while True:
            name, data = await heard.get()
            if name == "current":
                return found
            found.append((name, data))


async def test_a_page_at_a_follower_hears_of_a_rollout_as_one_at_the_leader(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (leader, follower):
        (machine,) = await machines(leader, 1, at_once=False)
        async with (
            machine.connected(leader),
            listening(leader) as at_leader,
            listening(follower) as elsewhere,
        ):
            await first_of(at_leader)
            await first_of(elsewhere)
            rollout = await rollouts.begin(follower)
            for heard in (at_leader, elsewhere):
                begun = await until_heard(heard, "rollout", id=rollout["id"])
                assert (begun["state"], "create" in begun) == ("running", False)
            await until(lambda: machine.jobs)
            await machine.say_progress(phase="pulling", completed_bytes=10, total_bytes=rollouts.SIZE)
            moved = [
                await until_heard(heard, "rollout", completed_bytes=10) for heard in (at_leader, elsewhere)
            ]
            assert moved[0] == moved[1]
            assert [target["agent_name"] for target in moved[1]["targets"]] == ["m0"]
            # Who comes now begins with what runs, without its targets.
            async with listening(follower) as late:
                begun = next(data for name, data in await first_of(late) if name == "rollout")
                assert (begun["id"], begun["targets"]) == (rollout["id"], [])
            await machine.finish_pull()
            over = [await until_heard(heard, "rollout", state="done") for heard in (at_leader, elsewhere)]
            assert over[0] == over[1]
            async with listening(follower) as late:
                assert "rollout" not in dict(await first_of(late))
            assert (await follower.http.delete(f"/api/v1/rollouts/{rollout['id']}")).status_code == 204
            await until_heard(elsewhere, "rollout_gone", id=rollout["id"])


async def test_a_page_at_a_follower_hears_of_a_campaign_and_of_its_regressions(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (leader, follower):
        (machine,) = await measuring(leader, 1)
        async with machine.connected(leader), listening(follower) as heard:
            await first_of(heard)
            campaign = await campaigns.begin(follower, **campaigns.ONE)
            await until_heard(heard, "campaign", id=campaign["id"])
            over = await until_heard(heard, "campaign", id=campaign["id"], state="done")
            assert over["counts"]["done"] == 1
            # A regression is said by whoever found it, or acknowledged it.
            leader.parts.context.say_regression(7, None)
            await until_heard(heard, "regression_gone", id=7)


async def test_a_replica_that_comes_later_begins_with_what_runs_at_the_leader(tmp_path: Path) -> None:
    broker = LocalBroker()
    async with contextlib.AsyncExitStack() as stack:
        (leader,) = await stack.enter_async_context(replicas(tmp_path, 1, broker))
        (machine,) = await machines(leader, 1, at_once=False)
        rollout = await rollouts.begin(leader, offline="wait")
        async with replicas(tmp_path, 1, broker, beside=1) as (late,):
            runs = late.parts.context.shared_runs
            assert runs is not None
            await until(lambda: rollout["id"].encode() in runs.running())
            async with listening(late) as heard:
                assert [data["id"] for name, data in await first_of(heard) if name == "rollout"] == [
                    rollout["id"]
                ]
    assert machine.jobs == {}


async def test_what_was_lost_on_the_way_is_asked_for(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (leader, follower):
        await leader.enrol("m1")
        async with listening(follower) as heard:
            await first_of(heard)
            bus_of(follower).lose()
            rollout = await rollouts.begin(leader, offline="wait")
            runs = leader.parts.context.shared_runs
            assert runs is not None
            await until(lambda: rollout["id"].encode() in runs.running())
            bus_of(follower).restore()
            # Everything anew, and the rollout in it.
            assert [data["id"] for name, data in await first_of(heard) if name == "rollout"] == [
                rollout["id"]
            ]


async def test_a_message_that_was_lost_shows_by_the_next_ones_number(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (leader, follower):
        await leader.enrol("m1")
        bus = bus_of(follower)
        deliver, subject = bus.deliver, fleet_of(follower).subjects.runs
        lost: list[bytes] = []

        def lose_the_first(message: BusMessage) -> bool:
            if message.subject == subject and not lost:
                lost.append(message.data)
                return True
            return deliver(message)

        async with listening(follower) as heard:
            await first_of(heard)
            # Lost alone, and no connection with it: nobody says so.
            bus.deliver = lose_the_first  # type: ignore[method-assign]
            missed = await rollouts.begin(leader, offline="wait")
            await until(lambda: lost)
            later = await rollouts.begin(leader, offline="wait")
            found: set[str] = set()
            while not found >= {missed["id"], later["id"]}:
                found = {data["id"] for name, data in await first_of(heard) if name == "rollout"}


async def test_events_that_no_message_holds_have_everything_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_runs, "MESSAGE_BYTES", 100)
    async with replicas(tmp_path) as (leader, follower):
        await leader.enrol("m1")
        async with listening(follower) as heard:
            await first_of(heard)
            rollout = await rollouts.begin(leader, offline="wait")
            assert [data["id"] for name, data in await first_of(heard) if name == "rollout"] == [
                rollout["id"]
            ]


async def test_with_another_leader_every_page_begins_anew(tmp_path: Path) -> None:
    async with replicas(tmp_path, 3) as (leader, one, other):
        await leader.enrol("m1")
        rollout = await rollouts.begin(leader, offline="wait")
        async with listening(one) as heard, listening(other) as too:
            await first_of(heard)
            await first_of(too)
            await fleet_of(leader).membership.close()
            await until(lambda: leads(one) or leads(other))
            for pages in (heard, too):
                # Its beginning may be told late, too, before all begins anew.
                found = await first_of(pages)
                assert {data["id"] for name, data in found if name == "rollout"} == {rollout["id"]}
            new = one if leads(one) else other
            cancelled = await new.http.post(f"/api/v1/rollouts/{rollout['id']}/cancel", json={})
            assert cancelled.status_code == 200, cancelled.text
            for pages in (heard, too):
                await until_heard(pages, "rollout", id=rollout["id"], state="cancelled")
