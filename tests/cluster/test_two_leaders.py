"""A leader that was stopped, and goes on when another one leads: it writes nothing and starts nothing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from obt_agent.errors import Busy
from obt_server.hub.command_params import CommandParams
from obt_server.replica_storage import LeaderLease
from obt_server.replicas.fence import LeasedHub
from obt_server.rollout_storage import RolloutFilter
from tests.campaigns import machines as campaigns
from tests.campaigns.machines import measuring
from tests.cluster.postgresql import PostgreSQL
from tests.replicas.servers import fleet_of, leads, lease_of, replicas
from tests.rollouts import machines as rollouts
from tests.rollouts.machines import only
from tests.server.conftest import Running
from tests.waiting import until


class Hold:
    """Holds the starts of one lease."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lease: LeaderLease | None = None
        self.held, self.go_on = asyncio.Event(), asyncio.Event()
        self.refused: list[BaseException] = []
        start = LeasedHub.start_job

        async def held(hub: LeasedHub, agent_id: str, method: str, params: CommandParams) -> Any:
            if hub._fence.lease == self.lease:  # type: ignore[attr-defined]  # noqa: SLF001 - whose it is
                self.held.set()
                # As a process that is stopped: nothing in it goes on, and nothing ends it.
                await asyncio.shield(asyncio.ensure_future(self.go_on.wait()))
                try:
                    return await start(hub, agent_id, method, params)
                except BaseException as error:
                    self.refused.append(error)
                    raise
            return await start(hub, agent_id, method, params)

        monkeypatch.setattr(LeasedHub, "start_job", held)


def stop_clock(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own clock stands still, and it beats no more: it holds itself for the leader."""
    membership = fleet_of(server).membership
    stands = membership._clock()  # noqa: SLF001 - what a stop does to it
    monkeypatch.setattr(membership, "_clock", lambda: stands)

    async def no_beat() -> None:
        return

    monkeypatch.setattr(membership, "_try", no_beat)


async def another_leads(before: Running, now: Running, postgres: PostgreSQL, name: str) -> None:
    """The lease runs out, and the other one gets it."""
    epoch = lease_of(before).epoch

    def given() -> bool:
        postgres.execute(f"UPDATE obt_leases SET expires_at = 0 WHERE epoch = {epoch:d}", name)  # noqa: S608
        return leads(now)

    await until(given)
    assert leads(before)
    assert lease_of(now).epoch > epoch


def assert_refused(hold: Hold) -> None:
    """By the lease, at whichever server that was."""
    (error,) = hold.refused
    assert isinstance(error, Busy)
    assert "leads" in error.message


def name_of(address: str) -> str:
    return address.rpartition("?")[0].rpartition("/")[2]


@pytest.mark.parametrize("at", ["the leader of before", "the leader of now"])
async def test_a_job_is_started_once_whichever_of_two_leaders_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: PostgreSQL, database: str, at: str
) -> None:
    async with replicas(tmp_path, database=database) as (before, now):
        hold = Hold(monkeypatch)
        hold.lease = lease_of(before)
        (machine,) = await measuring(before, 1, measures=False)
        async with machine.connected(before if at == "the leader of before" else now):
            await until(lambda: machine.id in fleet_of(before).online() & fleet_of(now).online())
            campaign = await campaigns.begin(before, **campaigns.ONE)
            await hold.held.wait()
            stop_clock(before, monkeypatch)
            await another_leads(before, now, postgres, name_of(database))
            # The next leader asks for the same job.
            await machine.until_measuring()
            starts = len([one for one in machine.asked if one[0] == "run_benchmark"])
            hold.go_on.set()
            await until(lambda: hold.refused)
            assert_refused(hold)
            await machine.finish_benchmark()
            view = await campaigns.until_over(now, campaign["id"])
    assert campaigns.only(view)["state"] == "done"
    assert len([one for one in machine.asked if one[0] == "run_benchmark"]) == starts
    assert machine.started.total() == 1


@pytest.mark.parametrize("at", ["the leader of before", "the leader of now"])
async def test_what_was_cancelled_meanwhile_is_not_started_by_the_leader_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: PostgreSQL, database: str, at: str
) -> None:
    async with replicas(tmp_path, database=database) as (before, now):
        hold = Hold(monkeypatch)
        hold.lease = lease_of(before)
        (machine,) = await rollouts.machines(before, 1, at_once=False)
        async with machine.connected(before if at == "the leader of before" else now):
            await until(lambda: machine.id in fleet_of(before).online() & fleet_of(now).online())
            rollout = await rollouts.begin(before)
            await hold.held.wait()
            stop_clock(before, monkeypatch)
            # The next leader's own start waits, too: somebody cancels before it.
            engine = now.parts.context.engines

            async def never(*_: Any) -> Any:
                await asyncio.get_running_loop().create_future()

            monkeypatch.setattr(LeasedHub, "start_job", never)
            await another_leads(before, now, postgres, name_of(database))
            assert engine.now.running
            cancelled = await now.http.post(f"/api/v1/rollouts/{rollout['id']}/cancel", json={})
            assert cancelled.status_code == 200, cancelled.text
            hold.go_on.set()
            await until(lambda: hold.refused)
            assert_refused(hold)
    assert machine.started.total() == 0
    assert [one for one in machine.asked if one[0] == "pull_model"] == []


async def test_a_leader_of_before_stores_and_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: PostgreSQL, database: str
) -> None:
    async with replicas(tmp_path, database=database) as (before, now):
        (machine,) = await measuring(before, 1, measures=False, at_once=False)
        async with machine.connected(now):
            until_s = time.time() + 1e6
            rollout = await rollouts.begin(before, model="other:latest", until=until_s, offline="wait")
            await until(lambda: machine.jobs)
            schedule = {"cron": "0 2 * * *", "time_zone": "UTC", "campaign": campaigns.body()}
            put = await before.http.put("/api/v1/schedules/nightly", json=schedule)
            assert put.status_code == 200, put.text
            stop_clock(before, monkeypatch)
            await another_leads(before, now, postgres, name_of(database))
            stored = await now.parts.storage.rollouts(RolloutFilter())
            for path, body in (
                ("/rollouts", {"action": "pull", "model": "x", "targets": {"all": True}}),
                (f"/rollouts/{rollout['id']}/cancel", {}),
                ("/campaigns", campaigns.body()),
                ("/schedules/nightly/run", {}),
            ):
                answer = await before.http.post(f"/api/v1{path}", json=body)
                assert answer.status_code == 503, (path, answer.text)
                assert answer.json()["error"]["kind"] == "busy"
                assert int(answer.headers["Retry-After"]) >= 1
            refused = await before.http.delete(f"/api/v1/rollouts/{rollout['id']}")
            assert refused.status_code in (409, 503)
            assert await now.parts.storage.rollouts(RolloutFilter()) == stored
            assert (await now.http.get("/api/v1/campaigns")).json() == []
            await machine.finish_pull(None, "other:latest")
            view = await rollouts.until_over(now, rollout["id"])
    assert only(view)["state"] == "done"
