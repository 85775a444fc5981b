"""Whatever dies or is cut: each cell has one result or one reason, and nothing is measured twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from obt_agent.protocol.envelope import Request
from obt_server.campaign_storage import Campaign, CampaignCell, CampaignFilter, VerdictCounts
from obt_server.campaigns.requests import CampaignRequest
from obt_server.campaigns.run import Judge
from tests.campaigns.machines import (
    MODELS,
    ONE,
    QUICK,
    MeasuringMachine,
    begin,
    body,
    connected,
    measuring,
    only,
    post,
    result,
    shown,
    states,
    until_over,
    until_shown,
)
from tests.rollouts.machines import QUICK as QUICK_ROLLOUTS
from tests.server.agent_double import AgentDouble, Answer, dial, never
from tests.server.conftest import Running, running
from tests.server.job_steps import finish
from tests.waiting import until


def serving(folder: Path) -> Any:
    return running(folder, campaigns=QUICK, rollouts=QUICK_ROLLOUTS)


async def lose_store(server: Running, machine: MeasuringMachine) -> None:
    """The machine comes with another job store: what it had is lost to the server."""
    agent_id, secret = machine.credentials
    async with dial(server.url, secret, agent_id, name=machine.name) as agent:
        agent.store_id = "another"
        await agent.hello()


async def send(machine: MeasuringMachine, job_id: str, link: AgentDouble | None = None) -> None:
    """The result of a job, also of one that the server has given up."""
    (plan,) = (one["plan"] for one in machine.benchmarks if one["job_id"] == job_id)
    await finish(link or machine.link, job_id, result(job_id, plan, 70.0))


async def send_late(server: Running, machine: MeasuringMachine, job_id: str) -> None:
    """The machine comes back for a moment, and sends it."""
    agent_id, secret = machine.credentials
    async with dial(server.url, secret, agent_id, name=machine.name) as agent:
        agent.store_id = "another"
        await agent.hello()
        await send(machine, job_id, agent)


async def test_a_job_has_its_id_in_storage_before_the_machine_is_asked(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        (machine,) = await measuring(server, 1, measures=False)
        stored: list[Any] = []

        async def look(agent: AgentDouble, request: Request) -> Answer:
            for totals in await server.parts.storage.campaigns(CampaignFilter(state="running")):
                stored.extend(await server.parts.storage.campaign_cells(totals.campaign.id))
            return await machine._run(agent, request)  # noqa: SLF001 - the double's own handler

        async with machine.connected(server):
            machine.link.handlers["run_benchmark"] = look
            campaign = await begin(server, **ONE)
            await until_shown(server, campaign["id"], lambda view: only(view)["state"] == "running")
            (cell,) = stored
            assert (cell.state, cell.job_id) == ("starting", machine.benchmarks[0]["job_id"])
            await machine.finish_benchmark()
            await until_over(server, campaign["id"])


async def test_a_start_whose_answer_was_lost_is_one_measurement(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        (machine,) = await measuring(server, 1, measures=False)
        async with machine.connected(server):
            machine.link.handlers["run_benchmark"] = never
            campaign = await begin(server, **ONE)
            await machine.link.until(
                lambda: any(one.method == "run_benchmark" for one in machine.link.requests)
            )
        await until_shown(server, campaign["id"], lambda view: only(view)["state"] == "starting")
        async with machine.connected(server):
            await until(machine.open_benchmarks)
            await machine.finish_benchmark()
            cell = only(await until_over(server, campaign["id"]))
    assert (cell["state"], cell["attempt"], len(machine.started)) == ("done", 1, 1)


async def test_campaigns_go_on_after_a_restart_with_what_was_begun(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        some = await measuring(server, 3, measures=False)
        async with connected(server, [*some]):
            campaign = await begin(server)
            await some[0].until_measuring()
            await some[0].finish_benchmark()
            await until_shown(
                server,
                campaign["id"],
                lambda view: (view["counts"]["done"], view["counts"]["running"]) == (1, 3),
            )
    async with serving(tmp_path) as server:
        view = await shown(server, campaign["id"])
        assert (view["state"], view["counts"]["running"], view["counts"]["done"]) == ("running", 3, 1)
        async with connected(server, [*some]):
            for one in some:
                one.measures = True
                await one.finish_benchmark()
            view = await until_over(server, campaign["id"])
    assert view["counts"]["done"] == 12
    assert [sum(one.started.values()) for one in some] == [4, 4, 4]
    assert {cell["attempt"] for cell in view["cells"]} == {1}


async def test_a_result_that_came_while_the_server_was_away_is_not_measured_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        (machine,) = await measuring(server, 1, measures=False)
        async with machine.connected(server):
            campaign = await begin(server, **ONE)
            await machine.until_measuring()
            # The final is stored, and the server ends before the campaign has seen it.
            await server.parts.context.campaigns.close()
            await machine.finish_benchmark()
    async with serving(tmp_path) as server, machine.connected(server):
        assert only(await until_over(server, campaign["id"]))["value"] == 50.0
    assert sum(machine.started.values()) == 1


async def test_a_pull_for_a_cell_goes_on_after_a_restart_and_is_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        (machine,) = await measuring(server, 1, models={}, at_once=False)
        async with machine.connected(server):
            campaign = await begin(server, **ONE, pull_missing=True)
            await until(lambda: machine.jobs)
            await until_shown(server, campaign["id"], lambda view: only(view)["state"] == "pulling")
    async with serving(tmp_path) as server, machine.connected(server):
        assert only(await shown(server, campaign["id"]))["state"] == "pulling"
        await machine.finish_pull(name=MODELS[0])
        cell = only(await until_over(server, campaign["id"]))
        rollouts = (await server.http.get("/api/v1/rollouts")).json()
    assert (cell["state"], len(rollouts)) == ("done", 1)
    assert len(machine.started) == 2  # one pull, one benchmark


async def test_a_link_that_breaks_while_it_measures_changes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        (machine,) = await measuring(server, 1, measures=False)
        async with machine.connected(server):
            campaign = await begin(server, **ONE, on_offline="skip")
            await until_shown(server, campaign["id"], lambda view: only(view)["state"] == "running")
        view = await until_shown(
            server, campaign["id"], lambda view: "offline" in (only(view)["reason"] or "")
        )
        assert only(view)["state"] == "running"
        async with machine.connected(server):
            await machine.finish_benchmark()
            cell = only(await until_over(server, campaign["id"]))
    assert (cell["state"], cell["attempt"], len(machine.started)) == ("done", 1, 1)


async def test_a_cancellation_survives_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        (machine,) = await measuring(server, 1, measures=False)
        async with machine.connected(server):
            campaign = await begin(server)
            await until_shown(server, campaign["id"], lambda view: view["counts"]["running"] == 1)
        view = await post(server, f"{campaign['id']}/cancel")
        assert view["counts"]["cancelled"] == 3
    async with serving(tmp_path) as server, machine.connected(server):
        view = await until_over(server, campaign["id"])
    assert (view["state"], set(states(view))) == ("cancelled", {"cancelled"})
    # It may be asked more than once before its answer is stored: always to cancel the one job.
    assert (set(machine.cancels), len(machine.benchmarks)) == ({machine.benchmarks[0]["job_id"]}, 1)


# -- late results ---------------------------------------------------------------------------------------


async def lost_cell(server: Running, machine: MeasuringMachine) -> tuple[str, str]:
    """A campaign whose only cell's job is lost, and the job's id."""
    async with machine.connected(server):
        campaign = await begin(server, **ONE)
        await until_shown(server, campaign["id"], lambda view: only(view)["state"] == "running")
    await lose_store(server, machine)
    cell = only(await until_over(server, campaign["id"]))
    assert (cell["state"], cell["error"]["data"]["kind"], cell["retry_helps"]) == ("failed", "lost", True)
    return campaign["id"], cell["job_id"]


async def test_a_result_that_comes_late_counts_for_its_cell(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        (machine,) = await measuring(server, 1, measures=False)
        campaign_id, job_id = await lost_cell(server, machine)
        await send_late(server, machine, job_id)
        view = await until_shown(server, campaign_id, lambda view: only(view)["state"] == "done")
    cell = only(view)
    assert (view["state"], cell["value"], cell["job_id"], cell["error"]) == ("done", 70.0, job_id, None)


async def test_a_late_result_counts_after_a_restart_too(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        (machine,) = await measuring(server, 1, measures=False)
        campaign_id, job_id = await lost_cell(server, machine)
        # It is stored, and the server dies before the campaign has it.
        await server.parts.context.campaigns.close()
        await send_late(server, machine, job_id)
        assert only(await shown(server, campaign_id))["state"] == "failed"
    async with serving(tmp_path) as server:
        view = await until_shown(server, campaign_id, lambda view: only(view)["state"] == "done")
    assert only(view)["value"] == 70.0


async def test_a_late_result_spares_the_second_measurement_of_its_cell(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        (machine,) = await measuring(server, 1, measures=False)
        campaign_id, job_id = await lost_cell(server, machine)
        machine.jobs = {job_id: "acknowledged"}
        async with machine.connected(server):
            # Another campaign has the machine, so that the second attempt waits.
            other = await begin(server, **ONE)
            await machine.until_measuring()
            await post(server, f"{campaign_id}/rerun")
            await until_shown(server, campaign_id, lambda view: only(view)["waiting_for"] == "campaign")
            await send(machine, job_id)
            view = await until_over(server, campaign_id)
            await machine.finish_benchmark()
            await until_over(server, other["id"])
    assert (only(view)["state"], only(view)["job_id"], only(view)["value"]) == ("done", job_id, 70.0)
    assert len(machine.benchmarks) == 2  # the first attempt, and the other campaign's


async def test_a_late_result_counts_where_the_next_attempt_has_none(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        (machine,) = await measuring(server, 1, measures=False)
        campaign_id, job_id = await lost_cell(server, machine)
        machine.jobs = {job_id: "acknowledged"}
        await post(server, f"{campaign_id}/rerun")
        async with machine.connected(server):
            await machine.until_measuring()
            second = machine.benchmarks[1]["job_id"]
            await send(machine, job_id)
            assert only(await shown(server, campaign_id))["job_id"] == second
            await finish(machine.link, second, "{}", state="failed")
            cell = only(await until_over(server, campaign_id))
    assert (cell["state"], cell["value"], cell["job_id"]) == ("done", 70.0, job_id)


async def test_nobody_gives_a_result_for_another_machines_cell(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        machine, other = await measuring(server, 2, measures=False)
        async with machine.connected(server):
            campaign = await begin(server, **ONE, targets={"agents": [machine.id]})
            await until_shown(server, campaign["id"], lambda view: only(view)["state"] == "running")
        await lose_store(server, machine)
        cell = only(await until_over(server, campaign["id"]))
        async with other.connected(server):
            plan = machine.benchmarks[0]["plan"]
            await finish(other.link, cell["job_id"], result(cell["job_id"], plan, 999.0))
            # Afterwards the right one: when it counts, the other one had its turn.
            await send_late(server, machine, cell["job_id"])
            view = await until_shown(server, campaign["id"], lambda view: only(view)["state"] == "done")
    assert only(view)["value"] == 70.0


# -- what a schedule asks for ----------------------------------------------------------------------------


async def test_a_schedule_lets_its_machines_begin_one_after_the_other_also_after_a_restart(
    tmp_path: Path,
) -> None:
    asked: list[list[str]] = []

    def starts(agent_ids: Sequence[str]) -> dict[str, float]:
        asked.append(list(agent_ids))
        return {second.id: time.time() + 3600}

    async with serving(tmp_path) as server:
        first, second = await measuring(server, 2)
        request = msgspec.convert(body(**ONE), CampaignRequest)
        async with connected(server, [first, second]):
            create = server.parts.context.campaigns.create
            campaign, new = await create(
                request, "admin", schedule="nightly", key="nightly 1", not_before=starts
            )
            again = await create(request, "admin", schedule="nightly", key="nightly 1")
            assert (new, again[1], again[0].id) == (True, False, campaign.id)
            view = await until_shown(server, campaign.id, lambda view: view["counts"]["done"] == 1)
    async with serving(tmp_path) as server, connected(server, [first, second]):
        view = await until_shown(server, campaign.id, lambda view: view["cells"][1]["reason"])
        assert states(view) == ["done", "waiting"]
        assert view["cells"][1]["reason"] == "Its schedule lets the machines begin one after the other."
        (listed,) = (await server.http.get("/api/v1/campaigns?schedule=nightly")).json()
        assert (listed["id"], listed["schedule"]) == (campaign.id, "nightly")
        await post(server, f"{campaign.id}/cancel")
        await until_over(server, campaign.id)
    assert (asked, len(second.benchmarks)) == ([[first.id, second.id]], 0)


# -- the comparison at the end --------------------------------------------------------------------------


def counting(judged: list[tuple[str, list[str]]]) -> Judge:
    async def judge(campaign: Campaign, cells: list[CampaignCell]) -> VerdictCounts:
        judged.append((campaign.state, [cell.state for cell in cells]))
        return VerdictCounts(slower=len(judged))

    return judge


async def test_a_campaign_is_compared_when_it_ends_and_again_when_a_result_comes_late(tmp_path: Path) -> None:
    judged: list[tuple[str, list[str]]] = []
    async with serving(tmp_path) as server:
        server.parts.context.campaigns.judge = counting(judged)
        (machine,) = await measuring(server, 1, measures=False)
        campaign_id, job_id = await lost_cell(server, machine)
        await until_shown(server, campaign_id, lambda view: view["verdicts"])
        await send_late(server, machine, job_id)
        view = await until_shown(server, campaign_id, lambda view: view["verdicts"]["slower"] == 2)
    assert judged == [("done", ["failed"]), ("done", ["done"])]
    assert (view["verdicts"]["slower"], view["verdicts"]["faster"]) == (2, 0)


async def test_a_result_that_comes_while_it_is_compared_is_compared_too(tmp_path: Path) -> None:
    judged: list[list[str]] = []
    begun, release = asyncio.Event(), asyncio.Event()

    async def judge(campaign: Campaign, cells: list[CampaignCell]) -> VerdictCounts:
        begun.set()
        await asyncio.wait_for(release.wait(), 20)
        judged.append([cell.state for cell in cells])
        return VerdictCounts(slower=len(judged))

    async with serving(tmp_path) as server:
        server.parts.context.campaigns.judge = judge
        (machine,) = await measuring(server, 1, measures=False)
        campaign_id, job_id = await lost_cell(server, machine)
        await asyncio.wait_for(begun.wait(), 20)
        await send_late(server, machine, job_id)
        await until_shown(server, campaign_id, lambda view: only(view)["state"] == "done")
        release.set()
        await until_shown(server, campaign_id, lambda view: (view["verdicts"] or {}).get("slower") == 2)
    assert judged == [["failed"], ["done"]]


async def test_a_comparison_that_failed_is_made_after_the_next_start(tmp_path: Path) -> None:
    async def fail(campaign: Campaign, cells: list[CampaignCell]) -> VerdictCounts:
        failed.set()
        raise RuntimeError("a fault of the comparison")

    failed = asyncio.Event()
    async with serving(tmp_path) as server:
        server.parts.context.campaigns.judge = fail
        (machine,) = await measuring(server, 1)
        async with machine.connected(server):
            campaign = await begin(server, **ONE)
            assert (await until_over(server, campaign["id"]))["verdicts"] is None
            await asyncio.wait_for(failed.wait(), 20)
    async with serving(tmp_path) as server:
        view = await until_shown(server, campaign["id"], lambda view: view["verdicts"])
    assert sum(view["verdicts"].values()) == 1


async def test_a_store_of_jobs_that_is_made_up_harms_no_campaign(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        (machine,) = await measuring(server, 1, measures=False)
        async with machine.connected(server):
            campaign = await begin(server, **ONE)
            await machine.until_measuring()
            plan = msgspec.to_builtins(machine.benchmarks[0]["plan"])
            for job_id in (f"{campaign['id']}.c9.1", f"{'0' * 36}.c1.1", f"{campaign['id']}.c1.7"):
                await finish(machine.link, job_id, result(job_id, plan, 999.0))
            await machine.finish_benchmark()
            cell = only(await until_over(server, campaign["id"]))
    assert (cell["state"], cell["value"], cell["attempt"]) == ("done", 50.0, 1)
