"""Models by machines, and what changed on them and by whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from obt_agent.hardware.inventory import Inventory, StorageInfo
from obt_agent.protocol.state import HardwareSync
from obt_server.store import AgentQuota
from obt_server.store.tables import ChangeCauseRow, JobRow
from tests.rollouts.machines import DIGEST, MODEL, QUICK, begin, connected, machines, model, until_over
from tests.server.conftest import Running, running
from tests.waiting import until

OTHER = "e" * 64


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, rollouts=QUICK) as one:
        yield one


async def changes(server: Running, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await server.http.get(f"/api/v1/models/changes?{query}")).json()
    return found


async def until_changed(server: Running, count: int) -> list[dict[str, Any]]:
    """So many changes, the newest first."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        found[:] = await changes(server)
        return len(found) == count

    await until(there, lambda: str(found))
    return found


async def test_the_matrix_has_every_model_and_machine_and_what_its_owner_allows(server: Running) -> None:
    some = await machines(server, 3)
    some[0].models = {MODEL: model(), "big:70b": model("big:70b", "f" * 64, 40_000)}
    some[1].models = {MODEL: model()}
    some[2].models = {MODEL: model(digest=OTHER)}
    async with connected(server, some):
        matrix = (await server.http.get("/api/v1/models/matrix")).json()
    assert [agent["name"] for agent in matrix["agents"]] == ["m0", "m1", "m2"]
    assert {agent["presence"] for agent in matrix["agents"]} == {"online"}
    allowed = matrix["agents"][0]["allowed"]
    assert allowed["pull"] == {
        "allowed": False,
        "policy_key": "policy.allow_changes",
        "remedy": "policy.allow_changes: [pull_model]",
    }
    assert set(allowed) == {"pull", "create", "copy", "delete", "load", "unload"}
    big, tiny = matrix["models"]
    assert (big["key"], big["drifted"], len(big["cells"])) == ("big:70b", False, 1)
    assert (tiny["drifted"], tiny["usual_digest"], tiny["digests"]) == (True, DIGEST, [DIGEST, OTHER])
    assert [cell["drift"] for cell in tiny["cells"]] == [
        cell["agent_id"] == some[2].id for cell in tiny["cells"]
    ]
    assert tiny["quantization"] == "Q4_K_M"


async def test_the_matrix_is_as_of_the_time_at_which_it_is_asked_for(server: Running) -> None:
    """A page asks when a machine's list has changed, and not again."""
    (machine,) = await machines(server, 1)
    async with machine.connected(server):
        for count in (2, 3, 4):
            await machine.link.sync_models(*(model(f"m{n}:1b") for n in range(count)), revision=count + 5)
            matrix = (await server.http.get("/api/v1/models/matrix")).json()
            assert len(matrix["models"]) == count


async def test_a_list_is_shown_when_it_is_stored(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    going_on, began, save = asyncio.Event(), asyncio.Event(), server.parts.storage.save_models

    async def slowly(*what: Any) -> None:
        began.set()
        await going_on.wait()
        await save(*what)

    (machine,) = await machines(server, 1)
    async with machine.connected(server):
        monkeypatch.setattr(server.parts.storage, "save_models", slowly)
        models = [model(f"m{n}:1b") for n in range(7)]
        syncing = asyncio.create_task(machine.link.sync_models(*models, revision=9))
        await began.wait()
        assert (await server.http.get("/api/v1/agents")).json()[0]["model_count"] != 7
        going_on.set()
        await syncing
        assert (await server.http.get("/api/v1/agents")).json()[0]["model_count"] == 7


async def test_a_machine_that_never_came_has_a_column_of_unknowns(server: Running) -> None:
    await machines(server, 1)
    (agent,) = (await server.http.get("/api/v1/models/matrix")).json()["agents"]
    assert (agent["presence"], agent["allowed"], agent["free_bytes"]) == ("offline", None, None)


async def test_room_on_a_disk_is_what_the_machine_said_last(quick: Running) -> None:
    (machine,) = some = await machines(quick, 1, free_bytes=5_000)

    async def free() -> int | None:
        (agent,) = (await quick.http.get("/api/v1/models/matrix")).json()["agents"]
        found: int | None = agent["free_bytes"]
        return found

    async with connected(quick, some):
        disk = StorageInfo(purpose="models", free_bytes=9_000)
        inventory = Inventory(fingerprint="f", collected_at=1.0, storage=(disk,))
        await machine.link.ask("hardware.sync", HardwareSync(revision=1, inventory=inventory))
        assert await free() == 9_000
        await until_over(quick, (await begin(quick))["id"])
        assert await free() == 5_000
        again = Inventory(fingerprint="g", collected_at=2.0, storage=(disk,))
        await machine.link.ask("hardware.sync", HardwareSync(revision=2, inventory=again))
        assert await free() == 9_000


async def test_a_change_says_which_rollout_or_operator_made_it_or_nobody(quick: Running) -> None:
    (machine,) = some = await machines(quick, 1, models={"old:1": model("old:1")})
    async with connected(quick, some):
        assert await changes(quick) == [], "what the first list has was there before"
        rollout = await until_over(quick, (await begin(quick))["id"])
        (pulled,) = await until_changed(quick, 1)
        machine.models[MODEL] = model(digest=OTHER)
        del machine.models["old:1"]
        copied = await quick.http.post(
            "/api/v1/agents/m0/commands/copy_model", json={"source": MODEL, "destination": "mine"}
        )
        assert copied.status_code == 200, copied.text
        await machine.list_models()
        by_name = {change["name"]: change for change in (await until_changed(quick, 4))[:3]}
    assert (pulled["name"], pulled["digest_before"], pulled["digest_after"]) == (MODEL, None, DIGEST)
    assert pulled["by"] == {"rollout_id": rollout["id"], "set": None, "operator": "admin"}
    assert (by_name["old:1"]["digest_after"], by_name["old:1"]["by"]["operator"]) == (None, None)
    assert by_name["mine:latest"]["by"] == {"rollout_id": None, "set": None, "operator": "admin"}
    moved = by_name[MODEL]
    assert (moved["digest_before"], moved["digest_after"]) == (DIGEST, OTHER)


async def test_a_command_that_changed_nothing_explains_no_later_change(quick: Running) -> None:
    (machine,) = some = await machines(quick, 1, models={MODEL: model()})
    async with connected(quick, some):
        pulled = await quick.http.post("/api/v1/agents/m0/commands/pull_model", json={"model": MODEL})
        job_id = pulled.json()["job_id"]
        await until(lambda: machine.jobs[job_id] == "acknowledged")
        machine.models["other:1"] = model("other:1")
        machine.models[MODEL] = model(digest=OTHER)
        await machine.list_models()
        by_name = {change["name"]: change["by"]["operator"] for change in await until_changed(quick, 2)}
        assert by_name == {MODEL: "admin", "other:1": None}, "a moment after its end it may be the pull's"
        # As it is an hour later.
        await quick.parts.database.run(lambda db: db.execute(update(JobRow).values(finished_at=1.0)))
        machine.models[MODEL] = model()
        await machine.list_models()
        later = (await until_changed(quick, 3))[0]
        # Of a command without a job: for a minute.
        copy = {"source": MODEL, "destination": "other:1"}
        await quick.http.post("/api/v1/agents/m0/commands/copy_model", json=copy)
        await quick.parts.database.run(lambda db: db.execute(update(ChangeCauseRow).values(expires_at=1.0)))
        machine.models["other:1"] = model("other:1", OTHER)
        await machine.list_models()
        last = (await until_changed(quick, 4))[0]
    assert (later["name"], later["by"]["operator"]) == (MODEL, None)
    assert (last["name"], last["by"]["operator"]) == ("other:1", None)


async def test_changes_are_paged_filtered_and_bounded(tmp_path: Path) -> None:
    async with running(tmp_path, quota=AgentQuota(model_changes=4)) as server:
        (machine,) = some = await machines(server, 1)
        async with connected(server, some):
            for number in range(6):
                machine.models[f"n{number}:latest"] = model(f"n{number}:latest")
                await machine.list_models()
            found = await until_changed(server, 4)
            assert [change["name"] for change in found] == [f"n{number}:latest" for number in (5, 4, 3, 2)]
            older = await changes(server, f"before={found[1]['id']}&limit=1")
            assert [change["name"] for change in older] == ["n3:latest"]
            assert [change["id"] for change in await changes(server, "name=N4")] == [found[1]["id"]]
            assert len(await changes(server, "agent=m0")) == 4
