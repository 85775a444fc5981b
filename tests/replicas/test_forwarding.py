"""What only the leader can answer is answered by it, whichever replica is asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from obt_server.bus import LocalBroker
from obt_server.rest import forwarding
from obt_server.rest.forwarding import ForwardedAnswer, ForwardedRequest
from obt_server.rollout_storage import RolloutFilter
from tests.campaigns import machines as campaigns
from tests.campaigns.machines import measuring
from tests.replicas.servers import bus_of, fleet_of, leads, replicas
from tests.rollouts import machines as rollouts
from tests.rollouts.machines import MODEL, machines, only
from tests.server.conftest import Running
from tests.waiting import until

PULL = {"action": "pull", "model": MODEL, "targets": {"all": True}, "offline": "wait"}


def error_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["kind"]


async def test_a_rollout_is_begun_changed_and_forgotten_through_any_replica(tmp_path: Path) -> None:
    async with replicas(tmp_path, 3) as (leader, one, other):
        (machine,) = await machines(leader, 1, at_once=False)
        async with machine.connected(leader):
            rollout = await rollouts.begin(one, key="once")
            again = await other.http.post("/api/v1/rollouts", json=PULL | {"key": "once"})
            assert (again.status_code, again.json()["id"]) == (200, rollout["id"])
            await rollouts.until_shown(other, rollout["id"], lambda view: only(view)["state"] == "running")
            views = [await rollouts.shown(server, rollout["id"]) for server in (leader, one, other)]
            assert views[0] == views[1] == views[2]
            lists = [(await server.http.get("/api/v1/rollouts")).json() for server in (leader, one, other)]
            assert lists[0] == lists[1] == lists[2]
            cancelled = await other.http.post(f"/api/v1/rollouts/{rollout['id']}/cancel", json={})
            assert cancelled.status_code == 200, cancelled.text
            assert only(await rollouts.until_over(one, rollout["id"]))["state"] == "cancelled"
            retried = await one.http.post(f"/api/v1/rollouts/{rollout['id']}/retry", json={})
            assert retried.status_code == 200, retried.text
            await until(lambda: "running" in machine.jobs.values())
            refused = await other.http.delete(f"/api/v1/rollouts/{rollout['id']}")
            assert error_of(refused) == (409, "rollout_open")
            await machine.finish_pull()
            assert only(await rollouts.until_over(one, rollout["id"]))["state"] == "done"
            assert (await other.http.delete(f"/api/v1/rollouts/{rollout['id']}")).status_code == 204
            missing = [await server.http.get(f"/api/v1/rollouts/{rollout['id']}") for server in (leader, one)]
            assert [answer.status_code for answer in missing] == [404, 404]


async def test_a_campaign_is_begun_and_changed_through_any_replica(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (leader, follower):
        (machine,) = await measuring(leader, 1, measures=False)
        async with machine.connected(leader):
            campaign = await campaigns.begin(follower)
            for server in (leader, follower):
                await campaigns.until_shown(
                    server, campaign["id"], lambda view: view["counts"]["running"] == 1
                )
            views = [await campaigns.shown(server, campaign["id"]) for server in (leader, follower)]
            assert views[0] == views[1]
            machine.measures = True
            await machine.finish_benchmark()
            view = await campaigns.until_over(follower, campaign["id"])
            assert view["counts"]["done"] == 4
            await campaigns.post(follower, f"{campaign['id']}/rerun", cells=["c1"])
            await campaigns.until_over(leader, campaign["id"])
    assert len(machine.benchmarks) == 5


async def test_a_schedule_that_a_follower_saves_is_looked_at_by_the_leader_at_once(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (leader, follower):
        await leader.enrol("m1")
        body = {"cron": "0 2 * * *", "time_zone": "UTC", "campaign": campaigns.body()}
        put = await follower.http.put("/api/v1/schedules/nightly", json=body)
        assert put.status_code == 200, put.text
        assert (await leader.http.get("/api/v1/schedules/nightly")).json() == put.json()
        run = await follower.http.post("/api/v1/schedules/nightly/run")
        assert run.status_code == 201, run.text
        found = (await follower.http.get("/api/v1/campaigns")).json()
        assert [one["id"] for one in found] == [run.json()["campaign_id"]]
        assert leader.parts.context.campaigns.running()


async def test_the_audit_line_is_written_once_with_the_address_of_the_client(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (leader, follower):
        await leader.enrol("m1")
        with capture_logs() as lines:
            rollout = await rollouts.begin(follower, offline="skip")
        audited = [line for line in lines if line["event"].startswith("audit.")]
        assert [line["action"] for line in audited] == ["POST /rollouts"]
        (line,) = audited
        assert (line["who"], line["address"], line["outcome"]) == ("admin", "127.0.0.1", "201")
        assert (line["rollout"], line["machine_count"]) == (rollout["id"], 1)
        # A stranger is refused where it asks: the leader hears nothing of it.
        asked = _calls(follower)
        stranger = await follower.http.post("/api/v1/rollouts", json=PULL, headers={"Authorization": "no"})
        assert stranger.status_code == 401
        other_site = {"Origin": "https://other.example"}
        assert (
            await follower.http.post("/api/v1/rollouts", json=PULL, headers=other_site)
        ).status_code == 403
        assert asked == []


def _calls(server: Running) -> list[str]:
    """Subjects that a server calls from now on."""
    exchanges = fleet_of(server).exchanges
    found: list[str] = []
    call = exchanges.call

    async def noted(subject: str, body: bytes, *, timeout_s: float) -> bytes:
        found.append(subject)
        return await call(subject, body, timeout_s=timeout_s)

    exchanges.call = noted  # type: ignore[method-assign]
    return found


async def test_a_refusal_of_the_leader_is_passed_on_as_it_is(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (leader, follower):
        wrong = [
            await one.http.post("/api/v1/rollouts", json={"action": "pull"}) for one in (leader, follower)
        ]
        assert error_of(wrong[1]) == (422, "invalid_params")
        assert wrong[0].content == wrong[1].content
        long = await follower.http.post("/api/v1/rollouts", content=b"x" * (33 << 20))
        assert error_of(long) == (413, "too_large")
        unknown = await follower.http.post("/api/v1/rollouts/none/cancel", json={})
        assert error_of(unknown) == (404, "not_found")


async def test_bodies_and_answers_larger_than_a_message_come_whole(tmp_path: Path) -> None:
    async with replicas(tmp_path, broker=LocalBroker(max_payload=32 << 10)) as (leader, follower):
        ids = [(await leader.enrol(f"machine-{number}"))[0] for number in range(80)]
        answer = await follower.http.post(
            "/api/v1/rollouts", json=PULL | {"targets": {"agents": ids * 30}, "key": "x" * 128}
        )
        assert answer.status_code == 201, answer.text[:500]
        assert int(answer.request.headers["Content-Length"]) > 64 << 10
        assert len(answer.content) > 32 << 10
        assert len(answer.json()["targets"]) == 80


def _asked(path: str, server: Running) -> bytes:
    headers = [(b"host", b"localhost"), (b"authorization", server.http.headers["Authorization"].encode())]
    return msgspec.msgpack.encode(
        ForwardedRequest(
            method="POST",
            path=path,
            root_path="",
            query=b"",
            scheme="http",
            headers=[*headers, (b"content-length", b"2"), (b"content-type", b"application/json")],
            client=("192.0.2.7", 4711),
            server=None,
            body=b"{}",
        )
    )


async def test_a_forwarded_request_is_never_forwarded_again(tmp_path: Path) -> None:
    async with replicas(tmp_path, 3) as (leader, one, other):
        assert leads(leader)
        asked = _calls(other)
        fleet = fleet_of(one)
        subject = fleet.subjects.replica(fleet_of(other).membership.replica_id, "http")
        text = await fleet.exchanges.call(subject, _asked("/api/v1/rollouts/x/cancel", one), timeout_s=10)
        answer = msgspec.msgpack.decode(text, type=ForwardedAnswer)
        assert answer.status == 503
        assert dict(answer.headers)[b"retry-after"] == b"1"
        assert msgspec.json.decode(answer.body)["error"]["kind"] == "busy"
        assert asked == []


async def test_what_is_forwarded_needs_a_credential_at_the_leader_too(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (leader, follower):
        fleet = fleet_of(follower)
        subject = fleet.subjects.replica(fleet_of(leader).membership.replica_id, "http")
        text = _asked("/api/v1/rollouts/x/cancel", follower).replace(b"Bearer ", b"Nobody ")
        answer = msgspec.msgpack.decode(
            await fleet.exchanges.call(subject, text, timeout_s=10), type=ForwardedAnswer
        )
        assert answer.status == 401


async def test_a_leader_that_is_lost_in_the_middle_is_told_and_never_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replicas(tmp_path) as (leader, follower):
        await leader.enrol("m1")
        engine = leader.parts.context.rollouts
        stored, go_on = asyncio.Event(), asyncio.Event()
        create = engine.create

        async def slowly(*args: Any) -> Any:
            done = await create(*args)
            stored.set()
            await go_on.wait()
            return done

        monkeypatch.setattr(engine, "create", slowly)
        asked = _calls(follower)
        asking = asyncio.create_task(follower.http.post("/api/v1/rollouts", json=PULL), name="asking")
        await stored.wait()
        bus_of(leader).lose()
        answer = await asking
        assert error_of(answer) == (502, "link_lost")
        assert answer.headers["Retry-After"] == "1"
        assert answer.json()["error"]["retryable"] is False
        go_on.set()
        bus_of(leader).restore()
        assert len(await leader.parts.storage.rollouts(RolloutFilter())) == 1
        assert len(asked) == 1


async def test_work_that_was_forwarded_does_not_end_with_its_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replicas(tmp_path) as (leader, follower):
        await leader.enrol("m1")
        engine = leader.parts.context.rollouts
        entered, go_on = asyncio.Event(), asyncio.Event()
        create = engine._storage.create_rollout  # noqa: SLF001 - between the commit and the beginning

        async def slowly(*args: Any) -> Any:
            done = await create(*args)
            entered.set()
            await go_on.wait()
            return done

        monkeypatch.setattr(engine._storage, "create_rollout", slowly)  # noqa: SLF001
        asking = asyncio.create_task(follower.http.post("/api/v1/rollouts", json=PULL), name="asking")
        await entered.wait()
        bus_of(follower).lose()
        assert error_of(await asking) == (502, "link_lost")
        # The leader has noticed, too, and cancelled what the exchange was about.
        await until(lambda: fleet_of(leader).exchanges.open_calls == 0)
        go_on.set()
        await until(engine.running)


async def test_without_a_leader_nothing_is_done_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replicas(tmp_path) as (leader, follower):
        membership = fleet_of(follower).membership
        monkeypatch.setattr(type(membership), "leader", property(lambda _: None))
        answer = await follower.http.post("/api/v1/rollouts", json=PULL)
        assert error_of(answer) == (503, "busy")
        assert answer.headers["Retry-After"] == "1"
        # What is stored is shown all the same.
        assert (await follower.http.get("/api/v1/rollouts")).json() == []
        monkeypatch.undo()
        # Nor where the one that leads cannot be reached.
        bus_of(follower).lose()
        away = await follower.http.post("/api/v1/rollouts", json=PULL)
        assert error_of(away) == (503, "busy")
        bus_of(follower).restore()
        monkeypatch.setattr(forwarding, "_PART", "nobody")
        nobody = await follower.http.post("/api/v1/rollouts", json=PULL)
        assert error_of(nobody) == (503, "busy")
        assert await leader.parts.storage.rollouts(RolloutFilter()) == []
