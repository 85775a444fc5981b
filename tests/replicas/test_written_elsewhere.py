"""What one replica wrote another one reads: at once, or within a bound that is stated here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.campaigns import machines as campaigns
from tests.campaigns.machines import measuring
from tests.campaigns.stored_nights import Fleet, slower, steady
from tests.replicas.servers import fleet_of, replicas
from tests.rollouts.machines import SIZE, machines, model
from tests.rollouts.test_news import listening, until_heard
from tests.server.agent_double import uuid7
from tests.server.conftest import PASSWORD, Running
from tests.waiting import until

SESSION_S = 1.0
"""For which a sign-in or a token that was found valid counts as valid elsewhere."""
DIRECTORY_S = 2.0
"""Between two looks of a replica at what others changed of agents, where the bus is away."""


async def got(server: Running, path: str) -> Any:
    answer = await server.http.get(f"/api/v1{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_results_plans_and_histories_are_there_at_once(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (one, other):
        assert (await got(other, "/results"))["total"] == 0
        (machine,) = await measuring(one, 1)
        async with machine.connected(one):
            campaign = await campaigns.begin(one, **campaigns.ONE)
            await campaigns.until_over(one, campaign["id"])
        lists = [await got(server, "/results") for server in (one, other)]
        assert lists[0] == lists[1]
        assert lists[1]["total"] == 1
        (line,) = lists[1]["results"]
        query = f"/history?agent={machine.id}&model={line['model']}&plan={line['plan_hash']}"
        histories = [await got(server, query) for server in (one, other)]
        assert histories[0] == histories[1]
        matrices = [await got(server, f"/campaigns/{campaign['id']}/matrix") for server in (one, other)]
        assert matrices[0] == matrices[1]
        # A plan that gets a name at one has it in the lists of the other.
        saved = await one.http.put("/api/v1/plans/mine", json={"plan": campaigns.PLANS[0]["plan"]})
        assert saved.status_code == 204, saved.text
        assert [one["name"] for one in await got(other, "/plans") if one["name"] == "mine"] == ["mine"]
        assert (await got(other, "/results"))["results"][0]["plan_name"] == "mine"
        removed = await other.http.delete(f"/api/v1/benchmarks/{line['job_id']}")
        assert removed.status_code == 204, removed.text
        assert (await got(one, "/results"))["total"] == 0


async def test_models_and_their_changes_are_there_at_once(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (one, other):
        (machine,) = await machines(one, 1)
        assert (await got(other, "/models/matrix"))["models"] == []
        async with machine.connected(one):
            machine.models["new:latest"] = model("new:latest", size=SIZE)
            await machine.list_models()
            found = await got(other, "/models/matrix")
            assert [row["name"] for row in found["models"]] == ["new:latest"]
            changes = [await got(server, "/models/changes") for server in (one, other)]
            assert changes[0] == changes[1]
            body = {"models": [{"name": "new:latest"}], "labels": ["gpu"]}
            assert (await other.http.put("/api/v1/model-sets/all", json=body)).status_code == 200
            assert [one["name"] for one in await got(one, "/model-sets")] == ["all"]


async def test_what_one_replica_is_told_of_a_regression_or_a_baseline_holds_at_the_others(
    tmp_path: Path,
) -> None:
    async with replicas(tmp_path) as (one, other):
        fleet = Fleet(one.parts.database)
        await fleet.enrol(3)
        speed = slower(steady(2, sigma=0.002), since=9, machine="m1", by=1.1)
        for number in range(1, 11):
            await fleet.night(number, speed)
        await until(lambda: set(fleet.agents.values()) <= fleet_of(other).directory.records.keys())
        opened = await got(other, "/regressions?state=open")
        assert len(opened) == 6
        path = f"/regressions/{opened[0]['id']}/acknowledge"
        async with listening(one) as at_one, listening(other) as elsewhere:
            for heard in (at_one, elsewhere):
                await until_heard(heard, "current")
            known = await other.http.post(f"/api/v1{path}", json={"note": "new cooler"})
            assert known.status_code == 200, known.text
            for heard in (at_one, elsewhere):
                told = await until_heard(heard, "regression", id=opened[0]["id"])
                assert told["acknowledged"]["note"] == "new cooler"
        assert await got(one, "/regressions?state=acknowledged") == [known.json()]
        # The speed that somebody knows of is what the next night is compared with, wherever that is done.
        await fleet.night(11, speed)
        assert len(await got(one, "/regressions?state=open")) == 5
        assert (await one.http.delete(f"/api/v1{path}")).status_code == 204
        assert len(await got(other, "/regressions?state=open")) == 6

        (cell, *_) = await one.parts.storage.campaign_cells(fleet.campaigns[0].id)
        pinned = await other.http.put("/api/v1/baselines/m1", json={"result": cell.job_id})
        assert pinned.status_code == 200, pinned.text
        lists = [await got(server, "/baselines?agent=m1") for server in (one, other)]
        assert lists == [[pinned.json()]] * 2
        query = f"model={cell.model}&plan_hash={cell.plan_hash}"
        matrices = [
            await got(server, f"/campaigns/{fleet.campaigns[-1].id}/matrix") for server in (one, other)
        ]
        assert matrices[0] == matrices[1]
        history = f"/history?agent=m1&model={cell.model}&plan={cell.plan_hash}"
        assert await got(one, history) == await got(other, history)
        assert (await one.http.delete(f"/api/v1/baselines/m1?{query}")).status_code == 204
        assert await got(other, "/baselines") == []


async def test_names_and_labels_of_agents_are_there_at_once(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (one, other):
        agent_id, _ = await one.enrol("box")
        await until(lambda: agent_id in fleet_of(other).directory.records)
        named = await one.http.patch(f"/api/v1/agents/{agent_id}", json={"name": "renamed"})
        assert named.status_code == 200, named.text
        labelled = await one.http.put(f"/api/v1/agents/{agent_id}/labels", json={"labels": ["gpu"]})
        assert labelled.status_code == 200, labelled.text
        # By the message; without one within DIRECTORY_S.
        await until(lambda: fleet_of(other).directory.records[agent_id].labels == ("gpu",))
        (shown,) = await got(other, "/agents")
        assert (shown["name"], shown["labels"]) == ("renamed", ["gpu"])


async def test_a_session_of_one_replica_is_one_of_all_until_it_is_ended(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (one, other):
        body = {"name": "admin", "password": PASSWORD}
        signed_in = await one.http.post("/api/v1/session", json=body)
        cookies = {"Cookie": signed_in.headers["Set-Cookie"].partition(";")[0], "Authorization": ""}
        asked = await other.http.get("/api/v1/session", headers=cookies)
        assert (asked.status_code, asked.json()) == (200, {"name": "admin"})
        made = (await one.http.post("/api/v1/api-tokens", json={"name": "t"})).json()
        bearer = {"Authorization": f"Bearer {made['secret']}"}
        assert (await other.http.get("/api/v1/session", headers=bearer)).status_code == 200
        gone_at = time.monotonic()
        assert (await one.http.delete("/api/v1/session", headers=cookies)).status_code == 204
        assert (await one.http.delete(f"/api/v1/api-tokens/{made['token']['id']}")).status_code == 204

        async def refused() -> bool:
            answers = [await other.http.get("/api/v1/session", headers=one) for one in (cookies, bearer)]
            return [answer.status_code for answer in answers] == [401, 401]

        await until(refused)
        # What was found valid counts for so long; where it ended, at once.
        assert time.monotonic() - gone_at < SESSION_S + 10.0
        assert (await one.http.get("/api/v1/session", headers=cookies)).status_code == 401


async def test_a_join_token_that_one_replica_cancelled_lets_nobody_in_at_another(tmp_path: Path) -> None:
    async with replicas(tmp_path) as (one, other):
        made = (await one.http.post("/api/v1/join-tokens", json={"note": "x"})).json()
        listed = await got(other, "/join-tokens")
        assert [token["note"] for token in listed] == ["x"]
        gone = await other.http.delete(f"/api/v1/join-tokens/{made['token']['id']}")
        assert gone.status_code == 204, gone.text
        answer = await one.http.post(
            "/api/v1/agents/enroll",
            headers={"Authorization": f"Bearer {made['secret']}"},
            json={"agent": {"id": uuid7(), "name": "box", "version": "1"}, "secret_sha256": "0" * 64},
        )
        assert answer.status_code == 401, answer.text
