"""A commit whose answer is lost: the rollout that it stored is carried out, once, and can be cancelled."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from obt_agent.errors import Busy, InvalidParams, OllamaError
from obt_server.rollout_storage import Rollout, RolloutFilter, RolloutTarget
from obt_server.rollouts import RolloutEngine
from obt_server.storage import ServerStorage, StorageUnavailable
from tests.rollouts.machines import (
    MODEL,
    QUICK,
    Machine,
    begin,
    machines,
    only,
    shown,
    until_over,
    until_shown,
)
from tests.server.conftest import Running, running
from tests.server.unheard import Gate, UnheardStorage, unheard
from tests.waiting import until

PULL = {"action": "pull", "model": MODEL, "targets": {"all": True}, "offline": "wait"}


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, rollouts=QUICK) as one:
        yield one


async def post(server: Running, **fields: Any) -> int:
    return (await server.http.post("/api/v1/rollouts", json=PULL | fields)).status_code


async def stored(server: Running) -> str:
    """The id of the only rollout that is stored."""
    (one,) = await server.parts.storage.rollouts(RolloutFilter())
    return one.rollout.id


@pytest.mark.parametrize("away", [0, 2])
async def test_a_rollout_that_was_stored_unheard_is_found_and_carried_out(quick: Running, away: int) -> None:
    (machine,) = await machines(quick, 1)
    async with unheard(quick) as storage, machine.connected(quick):
        storage.unheard["create_rollout"] = 1
        # Where what is stored is looked for at once, and half a second later.
        storage.away["rollout"] = away
        assert await post(quick) == 503
        await until(lambda: not storage.away["rollout"])
        view = await until_over(quick, await stored(quick))
    assert (only(view)["state"], machine.started.total()) == ("done", 1)


async def test_one_that_was_not_stored_is_no_fault(quick: Running) -> None:
    (machine,) = await machines(quick, 1)
    async with unheard(quick) as storage, machine.connected(quick):
        storage.away["create_rollout"] = 1
        assert await post(quick, key="once") == 503
        view = await until_over(quick, (await begin(quick, key="once"))["id"])
    assert (only(view)["state"], machine.started.total()) == ("done", 1)


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Running]:
    """A server that looks once for what it did not hear of, and then not for an hour."""
    async with running(tmp_path, rollouts=dataclasses.replace(QUICK, poll_s=3600.0)) as one:
        yield one


async def lost(server: Running, storage: UnheardStorage, **fields: Any) -> str:
    """The id of a rollout that is stored, and that the server does not know of."""
    storage.unheard["create_rollout"] = storage.away["rollout"] = 1
    assert await post(server, **fields) == 503
    await until(lambda: not storage.away["rollout"])
    return await stored(server)


async def test_the_same_key_again_begins_what_was_stored_unheard(patient: Running) -> None:
    (machine,) = await machines(patient, 1)
    async with unheard(patient) as storage, machine.connected(patient):
        rollout_id = await lost(patient, storage, key="once")
        assert await post(patient, key="once") == 200
        assert await post(patient, key="once") == 200
        view = await until_over(patient, rollout_id)
    assert (only(view)["state"], machine.started.total()) == ("done", 1)


async def test_what_was_stored_unheard_can_be_cancelled_and_deleted(patient: Running) -> None:
    (machine,) = await machines(patient, 1)
    async with unheard(patient) as storage, machine.connected(patient):
        path = f"/api/v1/rollouts/{await lost(patient, storage)}"
        answer = await patient.http.post(f"{path}/cancel", json={})
        assert (answer.status_code, only(answer.json())["state"]) == (200, "cancelled")
        # Its task is about to end.
        await until(lambda: not patient.parts.context.rollouts.running())
        assert (await patient.http.get(path)).json()["state"] == "cancelled"
        assert (await patient.http.delete(path)).status_code == 204
    assert machine.asked == []


async def test_a_retry_that_was_stored_unheard_is_carried_out(quick: Running) -> None:
    (machine,) = await machines(quick, 1)
    async with unheard(quick) as storage, machine.connected(quick):
        machine.failure = OllamaError("pull model manifest: file does not exist")
        rollout = await begin(quick)
        await until_over(quick, rollout["id"])
        await until(lambda: not quick.parts.context.rollouts.running())
        machine.failure = None
        storage.unheard["save_rollout"] = 1
        answer = await quick.http.post(f"/api/v1/rollouts/{rollout['id']}/retry", json={})
        assert answer.status_code == 503
        await until(lambda: machine.started.total() == 2)
        await until_over(quick, rollout["id"])
        target = only(await shown(quick, rollout["id"]))
    assert (target["state"], target["attempt"]) == ("done", 2)


async def test_a_set_tries_again_what_could_not_be_stored_when_it_was_due(quick: Running) -> None:
    some: list[Machine] = await machines(quick, 1)
    (machine,) = some
    await quick.http.put(f"/api/v1/agents/{machine.id}/labels", json={"labels": ["lab"]})
    async with unheard(quick) as storage, machine.connected(quick):
        storage.away["create_rollout"] = 1
        body = {"models": [{"name": MODEL}], "labels": ["lab"], "converge": "automatic"}
        assert (await quick.http.put("/api/v1/model-sets/base", json=body)).status_code == 200
        # By the server's own periodic task: the first time the storage is away.
        await until(lambda: machine.started)
        view = await until_over(quick, await stored(quick))
    assert (view["created_by"], only(view)["state"]) == ("set base", "done")


async def test_one_model_of_a_set_that_cannot_begin_holds_up_no_other_and_is_not_tried_again(
    quick: Running,
) -> None:
    (machine,) = await machines(quick, 1)
    await quick.http.put(f"/api/v1/agents/{machine.id}/labels", json={"labels": ["lab"]})
    refused: list[str] = []

    async def create(own: Callable[..., Awaitable[Any]], rollout: Rollout, *args: Any) -> Any:
        if rollout.model == "never:1":
            refused.append(rollout.id)
            raise InvalidParams("It cannot be stored.")
        return await own(rollout, *args)

    async with unheard(quick) as storage, machine.connected(quick):
        storage.instead["create_rollout"] = create
        models = [{"name": "never:1"}, {"name": MODEL}]
        body = {"models": models, "labels": ["lab"], "converge": "automatic"}
        assert (await quick.http.put("/api/v1/model-sets/base", json=body)).status_code == 200
        await until(lambda: machine.started)
        for _ in range(3):
            await quick.parts.context.model_sets.converge_automatically()
    assert len(refused) == 1


async def test_a_retry_whose_commit_comes_a_moment_later_is_carried_out(quick: Running) -> None:
    (machine,) = await machines(quick, 1)
    late: list[Callable[[], Awaitable[Any]]] = []

    async def save(own: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        late.append(lambda: own(*args))
        raise StorageUnavailable("The connection ended during a commit.", retry_after_ms=1000)

    async with unheard(quick) as storage, machine.connected(quick):
        machine.failure = OllamaError("pull model manifest: file does not exist")
        rollout = await begin(quick)
        await until_over(quick, rollout["id"])
        await until(lambda: not quick.parts.context.rollouts.running())
        machine.failure = None
        storage.instead["save_rollout"] = save
        answer = await quick.http.post(f"/api/v1/rollouts/{rollout['id']}/retry", json={})
        assert answer.status_code == 503
        del storage.instead["save_rollout"]
        looks = storage.calls["rollout"]
        # It is looked for, and looks as it was before.
        await until(lambda: storage.calls["rollout"] >= looks + 2)
        await late[0]()
        await until(lambda: machine.started.total() == 2)
        one = only(await until_over(quick, rollout["id"]))
    assert (one["state"], one["attempt"]) == ("done", 2)


async def test_a_retry_in_a_rollout_that_runs_is_carried_out_though_stored_unheard(quick: Running) -> None:
    here, away = await machines(quick, 2)
    async with unheard(quick) as storage, here.connected(quick):
        here.failure = OllamaError("pull model manifest: file does not exist")
        # It runs as long as the other machine is away.
        rollout = await begin(quick, offline="wait")
        await until_shown(quick, rollout["id"], lambda view: view["counts"].get("failed") == 1)
        here.failure = None
        storage.unheard["save_rollout"] = 1
        answer = await quick.http.post(f"/api/v1/rollouts/{rollout['id']}/retry", json={})
        assert answer.status_code == 503
        await until(lambda: here.started.total() == 2)
        async with away.connected(quick):
            view = await until_over(quick, rollout["id"])
    assert view["counts"]["done"] == 2


async def test_a_cancellation_that_was_stored_unheard_ends_what_runs_and_what_waits(quick: Running) -> None:
    here, _ = await machines(quick, 2)
    here.at_once = False
    async with unheard(quick) as storage, here.connected(quick):
        rollout = await begin(quick, offline="wait")
        await until_shown(quick, rollout["id"], lambda view: view["counts"].get("running") == 1)
        storage.unheard["save_rollout"] = 1
        answer = await quick.http.post(f"/api/v1/rollouts/{rollout['id']}/cancel", json={})
        assert answer.status_code == 503
        view = await until_over(quick, rollout["id"])
    assert (view["state"], view["counts"]["cancelled"]) == ("cancelled", 2)


async def test_a_retry_begins_a_target_that_waits_in_a_rollout_that_is_over(quick: Running) -> None:
    (machine,) = await machines(quick, 1)
    rollout = await begin(quick, offline="skip")
    await until_over(quick, rollout["id"])
    await until(lambda: not quick.parts.context.rollouts.running())
    storage = quick.parts.storage
    (target,) = await storage.rollout_targets(rollout["id"])
    waits = RolloutTarget(agent_id=target.agent_id, agent_name=target.agent_name, attempt=2)
    await storage.save_rollout(await storage.rollout(rollout["id"]), [waits])
    async with machine.connected(quick):
        answer = await quick.http.post(f"/api/v1/rollouts/{rollout['id']}/retry", json={})
        assert answer.status_code == 200
        target_now = only(await until_over(quick, rollout["id"]))
    assert (target_now["state"], target_now["attempt"]) == ("done", 2)


@pytest.mark.parametrize("what", ["retry"])
async def test_what_is_asked_for_before_a_term_begins_is_refused_and_begins_nothing(
    quick: Running, what: str
) -> None:
    (machine,) = await machines(quick, 1)
    rollout = await begin(quick, offline="skip")
    await until_over(quick, rollout["id"])
    await until(lambda: not quick.parts.context.rollouts.running())
    context, gate = quick.parts.context, Gate()
    await context.engines.now.close()
    storage = UnheardStorage(quick.parts.storage)
    storage.instead["rollout"] = gate
    engine = RolloutEngine(context.hub, cast("ServerStorage", storage), QUICK)
    calls = {"retry": lambda: engine.retry(rollout["id"], None)}
    asked = asyncio.create_task(calls[what](), name=what)
    await until(lambda: gate.reached or asked.done())
    begins = asyncio.create_task(engine.start(), name="start")
    # A request that was the first of the two holds the start up.
    await until(lambda: begins.done() or (gate.reached and not asked.done()))
    gate.opened.set()
    await begins
    with pytest.raises(Busy):
        await asked
    await engine.close()
    assert machine.started.total() == 0
