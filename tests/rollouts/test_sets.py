"""Model sets: how machines differ from them, and what converging does, once."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from obt_agent.errors import OllamaError
from obt_server.rollout_storage import ModelSet
from obt_server.rollouts import sets as model_sets
from tests.rollouts.machines import (
    DIGEST,
    MODEL,
    QUICK,
    SIZE,
    Machine,
    connected,
    machines,
    model,
    until_over,
)
from tests.server.conftest import Running, running
from tests.server.job_steps import finish, start
from tests.waiting import until

NEWER = "e" * 64


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, rollouts=QUICK) as one:
        yield one


async def labelled(server: Running, count: int, *labels: str, **fields: Any) -> list[Machine]:
    some = await machines(server, count, **fields)
    for machine in some:
        await server.http.put(
            f"/api/v1/agents/{machine.id}/labels", json={"labels": list(labels or ("lab",))}
        )
    return some


async def put(server: Running, name: str = "base", **fields: Any) -> dict[str, Any]:
    body = {"models": [{"name": MODEL}], "labels": ["lab"]} | fields
    answer = await server.http.put(f"/api/v1/model-sets/{name}", json=body)
    assert answer.status_code == 200, answer.text
    kept: dict[str, Any] = answer.json()
    return kept


async def drift(server: Running, name: str = "base") -> dict[str, Any]:
    report: dict[str, Any] = (await server.http.get(f"/api/v1/model-sets/{name}/drift")).json()
    return report


async def converge(server: Running, name: str = "base", **body: Any) -> list[dict[str, Any]]:
    answer = await server.http.post(f"/api/v1/model-sets/{name}/converge", json=body)
    assert answer.status_code == 200, answer.text
    begun: list[dict[str, Any]] = answer.json()
    return begun


async def until_in_sync(server: Running, name: str = "base") -> None:
    async def there() -> bool:
        return bool((await drift(server, name))["in_sync"])

    await until(there)


async def test_a_set_is_kept_shown_and_forgotten(server: Running) -> None:
    kept = await put(server, models=[{"name": "Tiny", "digest": f"sha256:{DIGEST}"}], prune=True)
    assert kept["models"] == [{"name": MODEL, "digest": DIGEST}]
    assert (kept["prune"], kept["converge"], kept["saved_by"]) == (True, "manual", "admin")
    assert (await server.http.get("/api/v1/model-sets")).json() == [kept]
    assert (await server.http.delete("/api/v1/model-sets/base")).status_code == 204
    assert (await server.http.delete("/api/v1/model-sets/base")).status_code == 404
    assert (await server.http.get("/api/v1/model-sets/base/drift")).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"labels": ["Lab"]},
        {"models": [{"name": "a b"}]},
        {"models": [{"name": "tiny"}, {"name": "Tiny:latest"}]},
        {"models": [{"name": "tiny", "digest": "abc"}]},
        {"quiet_hours": "25:00-07:00"},
        {"quiet_hours": "at night"},
        {"time_zone": "Europe/Atlantis"},
        {"time_zone": "../etc/passwd"},
        {"converge": "sometimes"},
    ],
)
async def test_what_is_no_set_is_refused(server: Running, body: dict[str, Any]) -> None:
    whole = {"models": [{"name": MODEL}], "labels": ["lab"]} | body
    answer = await server.http.put("/api/v1/model-sets/base", json=whole)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "invalid_params")
    assert (await server.http.get("/api/v1/model-sets")).json() == []


async def test_converging_pulls_what_is_missing_and_nothing_the_second_time(quick: Running) -> None:
    some = await labelled(quick, 3)
    some[0].models = {MODEL: model()}
    await put(quick)
    async with connected(quick, some):
        report = await drift(quick)
        assert [one["missing"] for one in report["agents"]] == [[], [MODEL], [MODEL]]
        steps = (await quick.http.post("/api/v1/model-sets/base/preview")).json()
        assert [(step["agent_name"], step["action"], step["bytes"]) for step in steps] == [
            ("m1", "pull", SIZE),
            ("m2", "pull", SIZE),
        ]
        (begun,) = await converge(quick)
        assert await converge(quick) == [], "it is under way"
        await until_over(quick, begun["id"])
        assert await converge(quick) == [], "it was done a moment ago"
        await until_in_sync(quick)
        assert await converge(quick) == []
    assert begun["model_set"] == "base"
    assert [sum(one.started.values()) for one in some] == [0, 1, 1]
    (change, _) = (await quick.http.get("/api/v1/models/changes")).json()
    assert change["by"]["set"] == "base"


async def test_only_pruning_deletes_and_never_what_another_set_wants(quick: Running) -> None:
    (machine,) = some = await labelled(quick, 1, "lab", "gpu")
    machine.models = {name: model(name) for name in (MODEL, "extra:1", "other:1")}
    await put(quick)
    await put(quick, "others", models=[{"name": "other:1"}], labels=["gpu"])
    async with connected(quick, some):
        assert (await drift(quick))["in_sync"]
        assert await converge(quick) == []
        await put(quick, prune=True)
        assert (await drift(quick))["agents"][0]["extra"] == ["extra:1"]
        (begun,) = await converge(quick)
        view = await until_over(quick, begun["id"])
    assert (view["action"], view["model"], view["counts"]["done"]) == ("delete", "extra:1", 1)
    assert set(machine.models) == {MODEL, "other:1"}


async def test_two_sets_that_want_different_versions_are_a_conflict_and_nothing_is_done(
    quick: Running,
) -> None:
    (machine,) = some = await labelled(quick, 1, "lab", "gpu")
    machine.models = {MODEL: model()}
    await put(quick, models=[{"name": MODEL, "digest": DIGEST}], converge="automatic")
    await put(
        quick,
        "others",
        models=[{"name": MODEL, "digest": NEWER}],
        labels=["gpu"],
        converge="automatic",
        prune=True,
    )
    async with connected(quick, some):
        for name in ("base", "others"):
            report = await drift(quick, name)
            assert report["conflicts"] == [{"name": MODEL, "sets": ["base", "others"]}]
            assert report["agents"][0]["different"] == []
            assert await converge(quick, name) == []
        await quick.parts.context.model_sets.converge_automatically()
    assert (await quick.http.get("/api/v1/rollouts")).json() == []
    assert machine.asked == []


async def test_a_version_that_moved_upstream_is_shown_and_pulled_only_where_asked(quick: Running) -> None:
    some = await labelled(quick, 2)
    some[0].models = {MODEL: model(digest="a" * 64)}
    some[1].models = {MODEL: model(digest="a" * 64)}
    await put(quick)
    async with connected(quick, some):
        await until_in_sync(quick)
        some[0].models[MODEL] = model()
        await some[0].list_models()

        async def differs() -> bool:
            return bool((await drift(quick))["agents"][1]["different"])

        await until(differs)
        await quick.parts.context.model_sets.converge_automatically()
        assert await converge(quick) == []
        (begun,) = await converge(quick, update=True)
        await until_over(quick, begun["id"])
        await until_in_sync(quick)
    assert [sum(one.started.values()) for one in some] == [0, 1]


async def test_a_version_that_a_set_names_is_pulled_with_its_digest(quick: Running) -> None:
    (machine,) = some = await labelled(quick, 1)
    machine.models = {MODEL: model(digest=NEWER)}
    await put(quick, models=[{"name": MODEL, "digest": DIGEST}])
    async with connected(quick, some):
        report = await drift(quick)
        assert report["agents"][0]["different"] == [{"name": MODEL, "wanted": DIGEST, "has": NEWER}]
        (begun,) = await converge(quick)
        await until_over(quick, begun["id"])
    assert machine.asked[0][1]["digest"] == DIGEST


async def test_a_set_converges_by_itself_but_not_beside_a_benchmark(quick: Running) -> None:
    (machine,) = some = await labelled(quick, 1)
    async with connected(quick, some):
        job_id = await start(quick, machine.link)
        await put(quick, converge="automatic")
        for _ in range(3):
            await quick.parts.context.model_sets.converge_automatically()
        assert (await quick.http.get("/api/v1/rollouts")).json() == []
        await finish(machine.link, job_id)
        # By the server's own periodic task.
        await until(lambda: machine.started)
        await until_in_sync(quick)
        (only,) = (await quick.http.get("/api/v1/rollouts")).json()
    assert (only["created_by"], only["model_set"]) == ("set base", "base")
    assert sum(machine.started.values()) == 1


async def test_a_step_that_failed_by_itself_is_not_repeated_each_minute(quick: Running) -> None:
    some = await labelled(quick, 1)
    async with connected(quick, some):
        some[0].failure = OllamaError("pull model manifest: file does not exist")
        await put(quick, converge="automatic")
        await until(lambda: some[0].started)
        (first,) = (await quick.http.get("/api/v1/rollouts")).json()
        await until_over(quick, first["id"])
        for _ in range(3):
            await quick.parts.context.model_sets.converge_automatically()
        assert len((await quick.http.get("/api/v1/rollouts")).json()) == 1


@pytest.mark.parametrize(
    ("hour", "quiet"), [(21, True), (22, True), (5, True), (6, False), (12, False), (20, False)]
)
def test_quiet_hours_are_of_the_sets_own_time_zone(hour: int, *, quiet: bool) -> None:
    wanted = ModelSet(name="s", models=(), labels=(), quiet_hours="22:00-07:00", time_zone="Europe/Berlin")
    # Winter: an hour before Berlin's clocks.
    assert model_sets.quiet(wanted, dt.datetime(2026, 1, 15, hour, 0, tzinfo=dt.UTC)) is quiet
