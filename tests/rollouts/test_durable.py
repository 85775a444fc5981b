"""Whatever dies or is cut in between: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from obt_agent.protocol.envelope import Request
from obt_server.rollout_storage import RolloutFilter
from tests.rollouts.machines import (
    MODEL,
    QUICK,
    begin,
    connected,
    machines,
    model,
    only,
    shown,
    states,
    until_over,
    until_shown,
)
from tests.server.agent_double import AgentDouble, Answer, dial, never
from tests.server.conftest import running
from tests.waiting import until


async def test_a_job_has_its_id_in_storage_before_the_machine_is_asked(tmp_path: Path) -> None:
    async with running(tmp_path, rollouts=QUICK) as server:
        (machine,) = await machines(server, 1, at_once=False)
        stored: list[Any] = []

        async def look(agent: AgentDouble, request: Request) -> Answer:
            rollouts = await server.parts.storage.rollouts(RolloutFilter(state="running"))
            for totals in rollouts:
                stored.extend(await server.parts.storage.rollout_targets(totals.rollout.id))
            return await machine._start(agent, request)  # noqa: SLF001 - the double's own handler

        async with machine.connected(server):
            machine.link.handlers["pull_model"] = look
            rollout = await begin(server)
            await until_shown(server, rollout["id"], lambda view: only(view)["state"] == "running")
            (target,) = stored
            assert (target.state, target.job_id) == ("starting", machine.asked[0][1]["job_id"])
            await machine.finish_pull()
            await until_over(server, rollout["id"])


async def test_a_start_whose_answer_was_lost_is_one_job(tmp_path: Path) -> None:
    async with running(tmp_path, rollouts=QUICK) as server:
        (machine,) = await machines(server, 1, at_once=False)
        async with machine.connected(server):
            machine.link.handlers["pull_model"] = never
            rollout = await begin(server)
            await machine.link.until(
                lambda: any(request.method == "pull_model" for request in machine.link.requests)
            )
        await until_shown(server, rollout["id"], lambda view: only(view)["state"] == "starting")
        async with machine.connected(server):
            await until(lambda: "running" in machine.jobs.values())
            await machine.finish_pull()
            assert only(await until_over(server, rollout["id"]))["state"] == "done"
    assert len(machine.started) == 1


async def test_rollouts_go_on_after_a_restart_with_what_was_begun(tmp_path: Path) -> None:
    async with running(tmp_path, rollouts=QUICK) as server:
        some = await machines(server, 4, at_once=False)
        async with connected(server, some):
            rollout = await begin(server, parallelism=2, offline="wait")
            await until_shown(server, rollout["id"], lambda view: view["counts"]["running"] == 2)
    begun = [one for one in some if one.jobs]
    assert len(begun) == 2
    async with running(tmp_path, rollouts=QUICK) as server:
        view = await shown(server, rollout["id"])
        assert (view["state"], view["counts"]["running"], view["counts"]["waiting"]) == ("running", 2, 2)
        async with connected(server, some):
            for one in begun:
                await one.finish_pull()
            await until(lambda: all(one.jobs for one in some))
            for one in some:
                if one not in begun:
                    await one.finish_pull()
            view = await until_over(server, rollout["id"])
    assert set(states(view).values()) == {"done"}
    assert [sum(one.started.values()) for one in some] == [1] * 4
    assert [target["attempt"] for target in view["targets"]] == [1] * 4


async def test_a_job_that_ended_while_the_server_was_away_is_not_begun_again(tmp_path: Path) -> None:
    async with running(tmp_path, rollouts=QUICK) as server:
        (machine,) = await machines(server, 1, at_once=False)
        async with machine.connected(server):
            rollout = await begin(server)
            await until_shown(server, rollout["id"], lambda view: only(view)["state"] == "running")
            # The final is stored, and the server ends before the rollout has seen it.
            (job_id,) = machine.jobs
            await server.parts.context.rollouts.close()
            await machine.finish_pull(job_id)
    async with running(tmp_path, rollouts=QUICK) as server, machine.connected(server):
        assert only(await until_over(server, rollout["id"]))["state"] == "done"
    assert sum(machine.started.values()) == 1


async def test_a_link_that_breaks_in_mid_pull_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, rollouts=QUICK) as server:
        (machine,) = await machines(server, 1, at_once=False)
        async with machine.connected(server):
            rollout = await begin(server)
            await until_shown(server, rollout["id"], lambda view: only(view)["state"] == "running")
        view = await until_shown(
            server, rollout["id"], lambda view: "offline" in (only(view)["reason"] or "")
        )
        assert only(view)["state"] == "running"
        async with machine.connected(server):
            await machine.finish_pull()
            target = only(await until_over(server, rollout["id"]))
    assert (target["state"], target["attempt"], len(machine.started)) == ("done", 1, 1)


async def test_a_deletion_whose_answer_was_lost_is_done_when_the_machine_is_back(tmp_path: Path) -> None:
    async with running(tmp_path, rollouts=QUICK) as server:
        (machine,) = await machines(server, 1, models={MODEL: model()})

        async def delete_and_go(agent: AgentDouble, request: Request) -> Answer:
            machine.models.pop(msgspec.json.decode(request.params)["model"])
            await agent.socket.close()
            return None

        async with machine.connected(server):
            machine.link.handlers["delete_model"] = delete_and_go
            rollout = await begin(server, action="delete", offline="wait")
            await machine.link.until_closed()
        async with machine.connected(server):
            target = only(await until_over(server, rollout["id"]))
    assert (target["state"], target["reason"]) == ("done", None)


async def test_a_machine_that_lost_its_store_of_jobs_has_failed_and_may_be_tried_again(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, rollouts=QUICK) as server:
        (machine,) = await machines(server, 1, at_once=False)
        async with machine.connected(server):
            rollout = await begin(server)
            await until_shown(server, rollout["id"], lambda view: only(view)["state"] == "running")
        machine.jobs.clear()
        agent_id, secret = machine.credentials
        async with dial(server.url, secret, agent_id, name=machine.name) as agent:
            agent.store_id = "another"
            await agent.hello()
            target = only(await until_over(server, rollout["id"]))
    assert (target["state"], target["error"]["data"]["kind"]) == ("failed", "lost")
    assert target["retry_helps"] is True


async def test_a_cancellation_survives_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, rollouts=QUICK) as server:
        (machine,) = await machines(server, 1, at_once=False)
        async with machine.connected(server):
            rollout = await begin(server)
            await until_shown(server, rollout["id"], lambda view: only(view)["state"] == "running")
        await server.http.post(f"/api/v1/rollouts/{rollout['id']}/cancel", json={})
    async with running(tmp_path, rollouts=QUICK) as server, machine.connected(server):
        view = await until_over(server, rollout["id"])
    # Once or more: it is asked for again until the answer is stored.
    assert (view["state"], only(view)["state"], bool(machine.cancels)) == ("cancelled", "cancelled", True)


async def test_a_start_that_no_machine_knows_is_cancelled_and_never_sent(tmp_path: Path) -> None:
    async with running(tmp_path, rollouts=QUICK) as server:
        (machine,) = await machines(server, 1, at_once=False)
        async with machine.connected(server):
            machine.link.handlers["pull_model"] = never
            rollout = await begin(server)
            await machine.link.until(lambda: any(one.method == "pull_model" for one in machine.link.requests))
            await asyncio.wait_for(
                server.http.post(f"/api/v1/rollouts/{rollout['id']}/cancel", json={}), timeout=20
            )
        # Back before or after the cancellation was asked again: the start must not be repeated.
        async with machine.connected(server):
            view = await until_over(server, rollout["id"])
    assert only(view)["state"] == "cancelled"
    assert not machine.started
