"""A commit whose answer is lost: the campaign that it stored is carried out, once, and can be cancelled."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from obt_agent.errors import Busy, OllamaError
from obt_server.campaign_storage import CampaignFilter
from obt_server.campaigns import CampaignEngine
from obt_server.rollouts import RolloutEngine
from obt_server.rollouts.selection import Selector
from obt_server.storage import ServerStorage, StorageUnavailable
from tests.campaigns.machines import ONE, QUICK, begin, body, measuring, only, states, until_over, until_shown
from tests.rollouts.machines import QUICK as QUICK_ROLLOUTS
from tests.server.conftest import Running, running
from tests.server.unheard import Gate, UnheardStorage, unheard
from tests.waiting import until


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, campaigns=QUICK, rollouts=QUICK_ROLLOUTS) as one:
        yield one


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Running]:
    """A server that looks once for what it did not hear of, and then not for an hour."""
    campaigns = dataclasses.replace(QUICK, poll_s=3600.0)
    rollouts = dataclasses.replace(QUICK_ROLLOUTS, poll_s=3600.0)
    async with running(tmp_path, campaigns=campaigns, rollouts=rollouts) as one:
        yield one


async def post(server: Running, **fields: Any) -> int:
    return (await server.http.post("/api/v1/campaigns", json=body(**ONE, **fields))).status_code


async def stored(server: Running) -> str:
    """The id of the only campaign that is stored."""
    (one,) = await server.parts.storage.campaigns(CampaignFilter())
    return one.campaign.id


async def lost(server: Running, storage: UnheardStorage, **fields: Any) -> str:
    """The id of a campaign that is stored, and that the server does not know of."""
    storage.unheard["create_campaign"] = storage.away["campaign"] = 1
    assert await post(server, **fields) == 503
    await until(lambda: not storage.away["campaign"])
    return await stored(server)


@pytest.mark.parametrize("away", [0, 2])
async def test_a_campaign_that_was_stored_unheard_is_found_and_carried_out(quick: Running, away: int) -> None:
    (machine,) = await measuring(quick, 1)
    async with unheard(quick) as storage, machine.connected(quick):
        storage.unheard["create_campaign"] = 1
        # Where what is stored is looked for at once, and half a second later.
        storage.away["campaign"] = away
        assert await post(quick) == 503
        await until(lambda: not storage.away["campaign"])
        view = await until_over(quick, await stored(quick))
    assert (only(view)["state"], machine.started.total()) == ("done", 1)


async def test_the_same_key_again_begins_what_was_stored_unheard(patient: Running) -> None:
    (machine,) = await measuring(patient, 1)
    async with unheard(patient) as storage, machine.connected(patient):
        campaign_id = await lost(patient, storage, key="once")
        assert await post(patient, key="once") == 200
        assert await post(patient, key="once") == 200
        view = await until_over(patient, campaign_id)
    assert (only(view)["state"], machine.started.total()) == ("done", 1)


async def test_what_was_stored_unheard_can_be_cancelled_and_deleted(patient: Running) -> None:
    (machine,) = await measuring(patient, 1)
    async with unheard(patient) as storage, machine.connected(patient):
        path = f"/api/v1/campaigns/{await lost(patient, storage)}"
        answer = await patient.http.post(f"{path}/cancel", json={})
        assert (answer.status_code, only(answer.json())["state"]) == (200, "cancelled")
        # Its task is about to end.
        await until(lambda: not patient.parts.context.campaigns.running())
        assert (await patient.http.get(path)).json()["state"] == "cancelled"
        assert (await patient.http.delete(path)).status_code == 204
    assert machine.started.total() == 0


async def until_judged(server: Running, campaign_id: str) -> None:
    """Wait for the last that is stored of a campaign."""

    async def judged() -> bool:
        return (await server.parts.storage.campaign(campaign_id)).judged

    await until(judged)


async def test_a_repeat_that_was_stored_unheard_is_measured(quick: Running) -> None:
    (machine,) = await measuring(quick, 1)
    async with unheard(quick) as storage, machine.connected(quick):
        machine.broken = OllamaError("the model failed to load")
        campaign = await begin(quick, **ONE)
        await until_over(quick, campaign["id"])
        await until_judged(quick, campaign["id"])
        machine.broken = None
        storage.unheard["save_campaign"] = 1
        answer = await quick.http.post(f"/api/v1/campaigns/{campaign['id']}/rerun", json={})
        assert answer.status_code == 503
        await until(lambda: machine.started.total() == 2)
        cell = only(await until_over(quick, campaign["id"]))
    assert (cell["state"], cell["attempt"]) == ("done", 2)


async def test_a_cell_whose_pull_was_stored_unheard_is_measured(patient: Running) -> None:
    (machine,) = await measuring(patient, 1, models={})
    async with unheard(patient) as storage, machine.connected(patient):
        # The pull's rollout: stored, not heard of, and not found afterwards.
        storage.unheard["create_rollout"] = storage.away["rollout"] = 1
        campaign = await begin(patient, **ONE, pull_missing=True)
        cell = only(await until_over(patient, campaign["id"]))
    assert cell["state"] == "done"
    assert set(machine.started.values()) == {1}


async def test_a_repeat_whose_commit_comes_a_moment_later_is_measured(quick: Running) -> None:
    (machine,) = await measuring(quick, 1)
    late: list[Callable[[], Awaitable[Any]]] = []

    async def save(own: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        late.append(lambda: own(*args))
        raise StorageUnavailable("The connection ended during a commit.", retry_after_ms=1000)

    async with unheard(quick) as storage, machine.connected(quick):
        machine.broken = OllamaError("pull model manifest: file does not exist")
        campaign = await begin(quick, **ONE)
        await until_over(quick, campaign["id"])
        await until_judged(quick, campaign["id"])
        machine.broken = None
        storage.instead["save_campaign"] = save
        answer = await quick.http.post(f"/api/v1/campaigns/{campaign['id']}/rerun", json={})
        assert answer.status_code == 503
        del storage.instead["save_campaign"]
        looks = storage.calls["campaign"]
        # It is looked for, and looks as it was before.
        await until(lambda: storage.calls["campaign"] >= looks + 2)
        await late[0]()
        await until(lambda: machine.started.total() == 2)
        one = only(await until_over(quick, campaign["id"]))
    assert (one["state"], one["attempt"]) == ("done", 2)


async def test_machines_that_were_added_unheard_to_one_that_runs_are_measured(quick: Running) -> None:
    one, two = await measuring(quick, 2)
    async with unheard(quick) as storage:
        campaign = await begin(quick, **ONE | {"targets": {"agents": [one.id]}})
        path = f"/api/v1/campaigns/{campaign['id']}/machines"
        storage.unheard["save_campaign"] = 1
        more = {"targets": {"agents": [two.id]}}
        assert (await quick.http.post(path, json=more)).status_code == 503
        # Whoever asks again adds none twice.
        assert (await quick.http.post(path, json=more)).status_code == 200
        async with one.connected(quick), two.connected(quick):
            view = await until_over(quick, campaign["id"])
        kept = await quick.parts.storage.campaign(campaign["id"])
    assert states(view) == ["done", "done"]
    assert [machine.id for machine in kept.machines] == [one.id, two.id]


async def test_machines_that_were_added_unheard_are_measured_though_nobody_asks_again(quick: Running) -> None:
    one, two = await measuring(quick, 2)
    async with unheard(quick) as storage, two.connected(quick):
        campaign = await begin(quick, **ONE | {"targets": {"agents": [one.id]}})
        storage.unheard["save_campaign"] = 1
        more = {"targets": {"agents": [two.id]}}
        answer = await quick.http.post(f"/api/v1/campaigns/{campaign['id']}/machines", json=more)
        assert answer.status_code == 503
        await until_shown(quick, campaign["id"], lambda view: states(view) == ["waiting", "done"])


async def test_a_repeat_in_a_campaign_that_runs_is_measured_though_stored_unheard(quick: Running) -> None:
    here, away = await measuring(quick, 2)
    async with unheard(quick) as storage, here.connected(quick):
        here.broken = OllamaError("the model failed to load")
        # It runs as long as the other machine is away.
        campaign = await begin(quick, **ONE)
        await until_shown(quick, campaign["id"], lambda view: "failed" in states(view))
        here.broken = None
        storage.unheard["save_campaign"] = 1
        answer = await quick.http.post(f"/api/v1/campaigns/{campaign['id']}/rerun", json={})
        assert answer.status_code == 503
        await until(lambda: here.started.total() == 2)
        async with away.connected(quick):
            view = await until_over(quick, campaign["id"])
    assert states(view) == ["done", "done"]


async def test_a_cancellation_that_was_stored_unheard_ends_what_runs_and_what_waits(quick: Running) -> None:
    here, _ = await measuring(quick, 2, measures=False)
    async with unheard(quick) as storage, here.connected(quick):
        campaign = await begin(quick, **ONE)
        await here.until_measuring()
        await until_shown(quick, campaign["id"], lambda view: "running" in states(view))
        storage.unheard["save_campaign"] = 1
        answer = await quick.http.post(f"/api/v1/campaigns/{campaign['id']}/cancel", json={})
        assert answer.status_code == 503
        view = await until_over(quick, campaign["id"])
    assert (view["state"], states(view)) == ("cancelled", ["cancelled", "cancelled"])


async def test_a_repeat_begins_a_cell_that_waits_in_a_campaign_that_is_over(quick: Running) -> None:
    (machine,) = await measuring(quick, 1)
    campaign = await begin(quick, **ONE, on_offline="skip")
    await until_over(quick, campaign["id"])
    await until_judged(quick, campaign["id"])
    storage = quick.parts.storage
    (cell,) = await storage.campaign_cells(campaign["id"])
    waits = msgspec.structs.replace(cell, state="waiting", finished_at=None)
    # As a fault before this left it: the machine's own line is lost, too.
    kept = msgspec.structs.replace(await storage.campaign(campaign["id"]), machines=())
    await storage.save_campaign(kept, [waits])
    async with machine.connected(quick):
        answer = await quick.http.post(f"/api/v1/campaigns/{campaign['id']}/rerun", json={})
        assert answer.status_code == 200
        view = await until_over(quick, campaign["id"])
    assert states(view) == ["done"]


@pytest.mark.parametrize("what", ["rerun", "add"])
async def test_what_is_asked_for_before_a_term_begins_is_refused_and_begins_nothing(
    quick: Running, what: str
) -> None:
    (machine,) = await measuring(quick, 1)
    campaign = await begin(quick, **ONE, on_offline="skip")
    await until_over(quick, campaign["id"])
    await until_judged(quick, campaign["id"])
    context, gate = quick.parts.context, Gate()
    await context.engines.now.close()
    storage = UnheardStorage(quick.parts.storage)
    storage.instead["campaign"] = gate
    rollouts = RolloutEngine(context.hub, quick.parts.storage, QUICK_ROLLOUTS)
    kept = cast("ServerStorage", storage)
    engine = CampaignEngine(context.hub, kept, rollouts, context.plans, context.results, QUICK)
    calls = {
        "rerun": lambda: engine.rerun(campaign["id"], None, flagged=False),
        "add": lambda: engine.add_machines(campaign["id"], Selector(agents=(machine.id,))),
    }
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
