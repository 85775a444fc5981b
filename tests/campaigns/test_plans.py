"""Saved plans: a version for each thing that is measured, and what was measured can be found by its hash."""

from __future__ import annotations

import json
from typing import Any

import pytest

from obt_server.saved_plans import hash_of
from obt_server.store import plans as plan_rows
from tests.server.conftest import Running


async def save(server: Running, name: str, number: int, **more: Any) -> dict[str, Any]:
    answer = await server.http.put(
        f"/api/v1/saved-plans/{name}", json={"plan": {"num_iterations": number}, **more}
    )
    assert answer.status_code == 200, answer.text
    saved: dict[str, Any] = answer.json()
    return saved


async def got(server: Running, path: str) -> Any:
    answer = await server.http.get(f"/api/v1{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_plan_gets_a_version_when_it_measures_something_else(server: Running) -> None:
    first = await save(server, "mine", 3, comment="the first")
    assert (first["version"], first["comment"], first["created_by"]) == (1, "the first", "admin")
    # The default, said aloud, and a model, which is no part of it: the same measurement.
    same = await server.http.put(
        "/api/v1/saved-plans/mine", json={"plan": {"model_name": "m", "num_iterations": 3, "top_p": 1.0}}
    )
    assert (same.json()["version"], same.json()["hash"]) == (1, first["hash"])
    second = await save(server, "mine", 4)
    assert (second["version"], second["plan"]) == (2, {"num_iterations": 4})
    assert second["hash"] != first["hash"]
    # Back to what it was: a version of its own, and the hash of the first.
    third = await save(server, "mine", 3)
    assert (third["version"], third["hash"]) == (3, first["hash"])
    assert [one["version"] for one in await got(server, "/saved-plans/mine/versions")] == [3, 2, 1]
    assert (await got(server, "/saved-plans/mine"))["version"] == 3
    assert (await got(server, "/saved-plans/mine?version=2"))["hash"] == second["hash"]
    assert [one["name"] for one in await got(server, "/saved-plans")] == ["mine"]


async def test_a_deleted_plan_is_found_by_its_hash_and_its_number_is_not_used_again(server: Running) -> None:
    saved = await save(server, "mine", 3)
    assert (await server.http.delete("/api/v1/saved-plans/mine")).status_code == 204
    assert (await server.http.get("/api/v1/saved-plans/mine")).status_code == 404
    assert (await server.http.get("/api/v1/saved-plans/mine/versions")).status_code == 404
    assert (await server.http.delete("/api/v1/saved-plans/mine")).status_code == 404
    assert await got(server, "/saved-plans") == []
    assert await got(server, f"/saved-plans?hash={saved['hash']}") == [saved]
    assert (await save(server, "mine", 4))["version"] == 2
    assert [one["version"] for one in await got(server, "/saved-plans/mine/versions")] == [2]


async def test_plans_and_saved_plans_are_one_store(server: Running) -> None:
    await server.http.put("/api/v1/plans/mine", json={"plan": {"num_iterations": 3}})
    (saved,) = await got(server, "/saved-plans")
    assert (saved["name"], saved["version"]) == ("mine", 1)
    await save(server, "mine", 4)
    named = {one["name"]: one for one in await got(server, "/plans")}
    assert named["mine"]["plan"] == {"num_iterations": 4}
    assert (await server.http.delete("/api/v1/plans/mine")).status_code == 204
    assert await got(server, "/saved-plans") == []


@pytest.mark.parametrize(
    ("name", "plan", "status"),
    [
        ("quick", {}, 422),
        ("mine", {"num_iterations": 0}, 422),
        ("mine", {"prompts": [{"prompt": "x" * (257 << 10)}]}, 422),
    ],
)
async def test_what_is_no_plan_and_what_is_a_presets_name_is_refused(
    server: Running, name: str, plan: dict[str, Any], status: int
) -> None:
    answer = await server.http.put(f"/api/v1/saved-plans/{name}", json={"plan": plan})
    assert answer.status_code == status


async def test_the_number_of_plans_and_versions_is_bounded(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_rows, "MAX_VERSIONS", 3)
    monkeypatch.setattr(plan_rows, "MAX_NAMES", 2)
    monkeypatch.setattr(plan_rows, "MAX_DELETED", 1)
    for number in range(1, 6):
        await save(server, "mine", number)
    assert [one["version"] for one in await got(server, "/saved-plans/mine/versions")] == [5, 4, 3]
    await save(server, "other", 1)
    answer = await server.http.put("/api/v1/saved-plans/third", json={"plan": {"num_iterations": 1}})
    assert (answer.status_code, answer.json()["error"]["kind"]) == (507, "storage_full")
    newest = await got(server, "/saved-plans/mine")
    await server.http.delete("/api/v1/saved-plans/mine")
    oldest = hash_of(json.dumps({"num_iterations": 3}).encode())
    assert await got(server, f"/saved-plans?hash={oldest}") == []
    assert await got(server, f"/saved-plans?hash={newest['hash']}") == [newest]
