"""Schedules: once for each time, late after a restart, and a word where a time was left out."""

from __future__ import annotations

import asyncio
import datetime as dt
import zoneinfo
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from obt_agent.errors import AgentError
from obt_server.campaign_storage import CampaignFilter
from obt_server.campaigns import schedules
from obt_server.campaigns.schedules import Schedules
from obt_server.replica_storage import LeaseLost
from obt_server.schedule_storage import StoredSchedule
from obt_server.storage import StorageUnavailable
from tests.server.conftest import Running, running
from tests.waiting import until

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
PLAN = {"plan": {"num_iterations": 3}, "label": "A"}
CAMPAIGN = {"plans": [PLAN], "models": ["tiny:latest"], "targets": {"all": True}}


def berlin(year: int, month: int, day: int, hour: int, minute: int) -> float:
    return dt.datetime(year, month, day, hour, minute, tzinfo=BERLIN).timestamp()


@dataclass
class Clock:
    """A clock that a test sets."""

    now: float

    def __call__(self) -> float:
        return self.now


@dataclass
class Night:
    """A server, and schedules on a clock of the test.

    Times lie in years to come. The server's own task, which has the real clock, is ended.
    """

    server: Running
    clock: Clock

    @property
    def schedules(self) -> Schedules:
        """As after a restart: nothing is remembered but what is stored."""
        return Schedules(self.server.parts.storage, self.server.parts.context.campaigns, self.clock)

    async def put(self, name: str = "nightly", **fields: Any) -> dict[str, Any]:
        """Save a schedule by REST, as of the test's time."""
        body = {"cron": "30 2 * * *", "time_zone": "Europe/Berlin", "campaign": CAMPAIGN} | fields
        answer = await self.server.http.put(f"/api/v1/schedules/{name}", json=body)
        assert answer.status_code == 200, answer.text
        storage = self.server.parts.storage
        # The server has the real clock.
        stored = await storage.schedule(name)
        await storage.save_schedule(msgspec.structs.replace(stored, done_until=self.clock.now))
        shown: dict[str, Any] = answer.json()
        return shown

    async def look_at(self, moment: float) -> None:
        self.clock.now = moment
        await self.schedules.look()

    async def runs(self, name: str = "nightly") -> list[tuple[float, str]]:
        """Times and what became of them, the oldest first."""
        found = (await self.server.http.get(f"/api/v1/schedules/{name}/runs")).json()
        return [(one["due_at"], one["state"]) for one in reversed(found)]

    async def reasons(self, name: str = "nightly") -> list[str | None]:
        found = (await self.server.http.get(f"/api/v1/schedules/{name}/runs")).json()
        return [one["reason"] for one in reversed(found)]

    async def campaigns(self) -> int:
        return len(await self.server.parts.storage.campaigns(CampaignFilter()))

    async def end_all(self) -> None:
        """Cancel what runs: no machine is there."""
        context = self.server.parts.context
        for campaign, _ in context.campaigns.running():
            await context.campaigns.cancel(campaign.id, None)
        await until(lambda: not context.campaigns.running())


@pytest.fixture
async def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Night]:
    async with running(tmp_path) as server:
        await server.enrol("m1")
        (task,) = (one for one in asyncio.all_tasks() if one.get_name() == "schedules")
        task.cancel()
        clock = Clock(berlin(2031, 6, 1, 12, 0))
        server.parts.context.schedules._clock = clock  # noqa: SLF001 - a server has no other clock than the real
        # What is saved by REST is saved at the test's time.
        monkeypatch.setattr("obt_server.rest.schedules.now", clock)
        yield Night(server, clock)


async def test_a_campaign_begins_at_its_time_and_once_however_often_somebody_looks(night: Night) -> None:
    await night.put()
    await night.look_at(berlin(2031, 6, 2, 2, 29))
    assert await night.runs() == []
    for seconds in (0, 1, 2, 40):
        await night.look_at(berlin(2031, 6, 2, 2, 30) + seconds)
    assert await night.runs() == [(berlin(2031, 6, 2, 2, 30), "started")]
    (one,) = await night.server.parts.storage.campaigns(CampaignFilter(schedule="nightly"))
    assert one.campaign.created_by == "schedule nightly"


async def test_a_server_that_dies_before_the_start_is_noted_begins_nothing_twice(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    await night.put()
    storage = night.server.parts.storage

    async def dies(*_: object) -> None:
        raise ConnectionError("the server died here")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "note_runs", dies, raising=False)
        await night.look_at(berlin(2031, 6, 2, 2, 30))
    assert await night.campaigns() == 1
    await night.look_at(berlin(2031, 6, 2, 2, 35))
    assert await night.campaigns() == 1
    assert await night.runs() == [(berlin(2031, 6, 2, 2, 30), "late")]


async def test_what_was_due_while_the_server_was_away_begins_late_and_once(night: Night) -> None:
    await night.put(late_s=7200)
    await night.look_at(berlin(2031, 6, 4, 3, 15))
    await night.look_at(berlin(2031, 6, 4, 3, 16))
    assert await night.runs() == [
        (berlin(2031, 6, 2, 2, 30), "skipped"),
        (berlin(2031, 6, 3, 2, 30), "skipped"),
        (berlin(2031, 6, 4, 2, 30), "late"),
    ]
    reasons = await night.reasons()
    assert "longer than late_s" in (reasons[0] or "")
    assert "2700 s late" in (reasons[2] or "")
    assert await night.campaigns() == 1


async def test_what_is_older_than_late_s_does_not_begin_at_all(night: Night) -> None:
    await night.put(late_s=600)
    await night.look_at(berlin(2031, 6, 2, 3, 15))
    assert await night.runs() == [(berlin(2031, 6, 2, 2, 30), "skipped")]
    assert await night.campaigns() == 0


async def test_a_time_is_skipped_while_the_campaign_before_still_runs(night: Night) -> None:
    await night.put()
    await night.look_at(berlin(2031, 6, 2, 2, 30))
    await night.look_at(berlin(2031, 6, 3, 2, 30))
    assert [state for _, state in await night.runs()] == ["started", "skipped"]
    assert "still runs" in ((await night.reasons())[1] or "")
    await night.end_all()
    await night.look_at(berlin(2031, 6, 4, 2, 30))
    assert [state for _, state in await night.runs()] == ["started", "skipped", "started"]


async def test_a_paused_schedule_begins_nothing_and_says_why_for_each_time(night: Night) -> None:
    await night.put()
    http = night.server.http
    paused = await http.post("/api/v1/schedules/nightly/pause", json={"reason": "the lab moves"})
    assert (paused.json()["paused"]["reason"], paused.json()["paused"]["by"]) == ("the lab moves", "admin")
    await night.look_at(berlin(2031, 6, 3, 3, 0))
    assert [state for _, state in await night.runs()] == ["skipped", "skipped"]
    assert set(await night.reasons()) == {"paused: the lab moves"}
    resumed = await http.post("/api/v1/schedules/nightly/resume")
    assert resumed.json()["paused"] is None
    await night.look_at(berlin(2031, 6, 4, 2, 30))
    assert [state for _, state in await night.runs()] == ["skipped", "skipped", "started"]


async def test_a_pause_stays_that_comes_while_the_schedule_is_saved_anew(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    await night.put()
    http, storage, save = (
        night.server.http,
        night.server.parts.storage,
        night.server.parts.storage.save_schedule,
    )

    async def pause_first(schedule: StoredSchedule) -> StoredSchedule:
        paused = await http.post("/api/v1/schedules/nightly/pause", json={"reason": "the lab moves"})
        assert paused.status_code == 200, paused.text
        await storage.note_runs("nightly", [], night.clock.now + 60, night.clock.now)
        return await save(schedule)

    monkeypatch.setattr(storage, "save_schedule", pause_first, raising=False)
    body = {"cron": "30 3 * * *", "time_zone": "UTC", "campaign": CAMPAIGN}
    answer = await http.put("/api/v1/schedules/nightly", json=body)
    assert answer.json()["paused"]["reason"] == "the lab moves"
    stored = await storage.schedule("nightly")
    assert stored.paused is not None
    assert (stored.cron, stored.created_by) == ("30 3 * * *", "admin")
    assert stored.done_until == night.clock.now + 60


async def test_a_schedule_runs_now_also_while_it_is_paused(night: Night) -> None:
    await night.put()
    await night.server.http.post("/api/v1/schedules/nightly/pause", json={"reason": "the lab moves"})
    answer = await night.server.http.post("/api/v1/schedules/nightly/run")
    assert answer.status_code == 201
    run = answer.json()
    assert (run["state"], run["reason"]) == ("started", "admin asked for it")
    campaign = (await night.server.http.get(f"/api/v1/campaigns/{run['campaign_id']}")).json()
    assert (campaign["schedule"], campaign["created_by"]) == ("nightly", "admin")


async def test_a_campaign_that_cannot_begin_is_told_and_the_next_time_is_tried_again(night: Night) -> None:
    http = night.server.http
    saved = await http.put("/api/v1/saved-plans/mine", json={"plan": PLAN["plan"]})
    assert saved.status_code == 200, saved.text
    await night.put(campaign=CAMPAIGN | {"plans": [{"name": "mine"}]})
    assert (await http.delete("/api/v1/saved-plans/mine")).status_code == 204
    await night.look_at(berlin(2031, 6, 2, 2, 30))
    assert [state for _, state in await night.runs()] == ["skipped"]
    assert "mine" in ((await night.reasons())[0] or "")
    await http.put("/api/v1/saved-plans/mine", json={"plan": PLAN["plan"]})
    await night.look_at(berlin(2031, 6, 3, 2, 30))
    assert [state for _, state in await night.runs()] == ["skipped", "started"]


@pytest.mark.parametrize(
    "fault", [StorageUnavailable("The database does not answer now."), LeaseLost("Another one leads.")]
)
async def test_a_time_stays_due_while_the_storage_does_not_answer(
    night: Night, fault: AgentError, monkeypatch: pytest.MonkeyPatch
) -> None:
    await night.put()
    due = berlin(2031, 6, 2, 2, 30)

    async def away(*_: object) -> None:
        raise fault

    with monkeypatch.context() as patched:
        # Of the class: one of several servers has another of it for each of its terms as leader.
        patched.setattr(type(night.server.parts.storage), "create_campaign", away)
        night.clock.now = due
        again_in_s = await night.schedules.look()
    assert await night.runs() == []
    assert again_in_s == schedules.AGAIN_AFTER_S
    await night.look_at(due + schedules.AGAIN_AFTER_S)
    assert await night.runs() == [(due, "started")]
    assert await night.campaigns() == 1


async def test_a_clock_that_was_a_year_ahead_for_a_moment_silences_no_schedule(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "SURE_AFTER_S", 0.0)
    await night.put(late_s=600)
    await night.look_at(berlin(2032, 6, 1, 12, 0))
    await night.look_at(berlin(2031, 6, 1, 12, 1))
    assert await night.runs() == []
    for day in (2, 3):
        await night.look_at(berlin(2031, 6, day, 2, 30))
        await night.end_all()
    assert await night.runs() == [
        (berlin(2031, 6, 2, 2, 30), "started"),
        (berlin(2031, 6, 3, 2, 30), "started"),
    ]


async def test_a_clock_that_is_a_year_behind_for_a_moment_changes_nothing_that_was_told(night: Night) -> None:
    await night.put()
    await night.look_at(berlin(2031, 6, 2, 2, 30))
    await night.end_all()
    await night.server.http.post("/api/v1/schedules/nightly/pause", json={"reason": "the lab moves"})
    await night.look_at(berlin(2031, 6, 3, 2, 31))
    told = await night.runs()
    assert [state for _, state in told] == ["started", "skipped"]
    same = night.schedules
    for moment in (berlin(2030, 6, 3, 2, 35), berlin(2030, 6, 3, 2, 36), berlin(2031, 6, 3, 2, 40)):
        night.clock.now = moment
        await same.look()
        assert await night.runs() == told
    await night.server.http.post("/api/v1/schedules/nightly/resume")
    await same.look()
    assert await night.runs() == told, "what was left out is not late"


async def test_what_was_due_until_the_clock_is_believed_begins_late(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    await night.put(late_s=3600)
    await night.look_at(berlin(2032, 6, 1, 12, 0))
    same = night.schedules
    for minute in (25, 35):
        night.clock.now = berlin(2031, 6, 2, 2, minute)
        await same.look()
    assert await night.campaigns() == 0
    monkeypatch.setattr(schedules, "SURE_AFTER_S", 0.0)
    await same.look()
    assert await night.runs() == [(berlin(2031, 6, 2, 2, 30), "late")]


async def test_a_clock_that_is_set_back_a_little_begins_nothing_twice(night: Night) -> None:
    await night.put()
    await night.look_at(berlin(2031, 6, 2, 2, 30))
    await night.end_all()
    await night.look_at(berlin(2031, 6, 2, 2, 0))
    await night.look_at(berlin(2031, 6, 2, 2, 31))
    assert await night.runs() == [(berlin(2031, 6, 2, 2, 30), "started")]
    assert await night.campaigns() == 1


async def test_one_that_is_saved_anew_after_such_a_moment_begins_at_its_next_time(night: Night) -> None:
    await night.put(late_s=600)
    await night.look_at(berlin(2032, 6, 1, 12, 0))
    night.clock.now = berlin(2031, 6, 1, 12, 1)
    body = {"cron": "30 3 * * *", "time_zone": "Europe/Berlin", "campaign": CAMPAIGN}
    assert (await night.server.http.put("/api/v1/schedules/nightly", json=body)).status_code == 200
    assert (await night.server.parts.storage.schedule("nightly")).done_until == night.clock.now


async def test_one_that_cannot_be_read_holds_up_no_other(night: Night) -> None:
    await night.put("a newer release's")
    await night.put("nightly")
    storage = night.server.parts.storage
    broken, _ = await storage.schedules()
    await storage.save_schedule(msgspec.structs.replace(broken, campaign={"of": "another shape"}))
    await night.look_at(berlin(2031, 6, 2, 2, 30))
    assert [state for _, state in await night.runs("nightly")] == ["started"]


async def test_both_nights_of_a_change_of_clocks_begin_one_campaign_each(night: Night) -> None:
    night.clock.now = berlin(2031, 3, 29, 12, 0)
    await night.put()
    # Minute by minute through the night in which 02:30 does not exist.
    start = berlin(2031, 3, 30, 1, 0)
    for minute in range(180):
        await night.look_at(start + 60 * minute)
    assert await night.runs() == [(berlin(2031, 3, 30, 3, 0), "started")]
    await night.end_all()
    await night.server.http.delete("/api/v1/schedules/nightly")
    night.clock.now = berlin(2031, 10, 25, 12, 0)
    await night.put()
    # And through the one in which it comes twice.
    start = berlin(2031, 10, 26, 1, 0)
    for minute in range(240):
        await night.look_at(start + 60 * minute)
    ((due, state),) = await night.runs()
    assert state == "started"
    local = dt.datetime.fromtimestamp(due, BERLIN)
    assert (local.day, local.hour, local.minute) == (26, 2, 30)


async def test_machines_begin_at_moments_of_their_own_the_same_each_night(night: Night) -> None:
    for name in ("m2", "m3", "m4"):
        await night.server.enrol(name)
    await night.put(jitter_s=600)
    delays = []
    for day in (2, 3):
        await night.look_at(berlin(2031, 6, day, 2, 30))
        campaigns = await night.server.parts.storage.campaigns(CampaignFilter(state="running"))
        (machines,) = (one.campaign.machines for one in campaigns)
        starts = {one.name: one.not_before for one in machines}
        delays.append({name: (start or 0) - berlin(2031, 6, day, 2, 30) for name, start in starts.items()})
        await night.end_all()
    assert delays[0] == pytest.approx(delays[1])
    assert all(0 <= delay < 600 for delay in delays[0].values())
    assert len(set(delays[0].values())) == 4


async def test_the_servers_own_task_begins_a_schedule_that_was_just_saved(night: Night) -> None:
    # Each minute by the real clock: the wait for the next one is what is waited for here, by the event.
    schedules = Schedules(night.server.parts.storage, night.server.parts.context.campaigns, night.clock)
    task = asyncio.create_task(schedules.run(), name="schedules under test")
    try:
        await night.put(cron="* * * * *", time_zone="UTC")
        night.clock.now += 60
        schedules.changed()
        await until(night.runs)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (await night.runs())[0][1] == "started"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cron": "nonsense"}, "cron"),
        ({"time_zone": "Nowhere/At_all"}, "time_zone"),
        ({"campaign": CAMPAIGN | {"models": []}}, "body.campaign"),
        ({"campaign": CAMPAIGN | {"plans": [{"name": "nobody saved this"}]}}, None),
    ],
)
async def test_what_could_not_begin_is_refused_when_it_is_saved(
    night: Night, fields: dict[str, Any], field: str | None
) -> None:
    body = {"cron": "30 2 * * *", "time_zone": "UTC", "campaign": CAMPAIGN} | fields
    answer = await night.server.http.put("/api/v1/schedules/nightly", json=body)
    assert answer.status_code in (404, 422)
    if field is not None:
        assert answer.json()["error"]["detail"]["field"].startswith(field)
    assert (await night.server.http.get("/api/v1/schedules")).json() == []


async def test_a_schedule_shows_its_next_times_and_the_last_one(night: Night) -> None:
    shown = await night.put(cron="0 4 * * 1")
    assert len(shown["next"]) == 5
    local = [dt.datetime.fromtimestamp(one, BERLIN) for one in shown["next"]]
    assert {(one.weekday(), one.hour, one.minute) for one in local} == {(0, 4, 0)}
    assert shown["last"] is None
    await night.server.http.post("/api/v1/schedules/nightly/run")
    (listed,) = (await night.server.http.get("/api/v1/schedules")).json()
    assert listed["last"]["state"] == "started"
    assert (await night.server.http.delete("/api/v1/schedules/nightly")).status_code == 204
    assert (await night.server.http.get("/api/v1/schedules/nightly")).status_code == 404
