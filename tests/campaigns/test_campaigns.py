"""Plans on models on machines: each cell is measured once, in turn, and its state is told truthfully."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from obt_agent.errors import Busy, NotPermitted, OllamaError
from obt_server.store import campaigns as campaign_rows
from tests.campaigns.machines import (
    MODELS,
    ONE,
    PLANS,
    QUICK,
    begin,
    body,
    connected,
    measuring,
    only,
    post,
    shown,
    states,
    until_over,
    until_shown,
)
from tests.rollouts.machines import QUICK as QUICK_ROLLOUTS
from tests.server.conftest import Running, running
from tests.waiting import until


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Running]:
    """A server whose campaigns pause shortly."""
    async with running(tmp_path, campaigns=QUICK, rollouts=QUICK_ROLLOUTS) as one:
        yield one


async def refused(server: Running, **fields: Any) -> dict[str, Any]:
    """The error that a campaign is refused with."""
    answer = await server.http.post("/api/v1/campaigns", json=body(**fields))
    assert answer.status_code >= 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error | {"status": answer.status_code}


# -- cells and their order ------------------------------------------------------------------------------


async def test_each_plan_is_measured_on_each_model_on_each_machine_once(quick: Running) -> None:
    some = await measuring(quick, 3)
    async with connected(quick, [*some]):
        campaign = await begin(quick, name="night", metric="decode_tps_corrected")
        view = await until_over(quick, campaign["id"])
    assert (view["state"], view["total"], view["counts"]["done"]) == ("done", 12, 12)
    assert {(cell["agent_name"], cell["model"], cell["plan_hash"]) for cell in view["cells"]} == {
        (machine.name, model, plan["hash"]) for machine in some for model in MODELS for plan in view["plans"]
    }
    assert [sum(one.started.values()) for one in some] == [4, 4, 4]
    jobs = {cell["job_id"]: cell["id"] for cell in view["cells"]}
    assert jobs == {f"{view['id']}.{cell['id']}.1": cell["id"] for cell in view["cells"]}


async def test_machines_measure_side_by_side_and_each_its_cells_one_after_the_other(quick: Running) -> None:
    some = await measuring(quick, 3, measures=False)
    async with connected(quick, [*some]):
        campaign = await begin(quick)
        await until(lambda: all(one.open_benchmarks() for one in some))
        view = await until_shown(quick, campaign["id"], lambda view: view["counts"]["running"] == 3)
        assert view["counts"]["waiting"] == 9
        assert {cell["waiting_for"] for cell in view["cells"] if cell["state"] == "waiting"} == {"turn"}
        for one in some:
            one.measures = True
            await one.finish_benchmark()
        view = await until_over(quick, campaign["id"])
    assert (view["counts"]["done"], {one.at_once_most for one in some}) == (12, {1})


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("model", ["small A", "small B", "large A", "large B"]),
        ("plan", ["small A", "large A", "small B", "large B"]),
    ],
)
async def test_a_machine_takes_its_cells_in_the_order_that_was_asked_for(
    quick: Running, order: str, expected: list[str]
) -> None:
    (machine,) = await measuring(quick, 1)
    async with connected(quick, [machine]):
        campaign = await begin(quick, order=order)
        view = await until_over(quick, campaign["id"])
    labels = {3: "A", 4: "B"}
    assert [
        f"{one['plan']['model_name'].partition(':')[0]} {labels[one['plan']['num_iterations']]}"
        for one in machine.benchmarks
    ] == expected
    assert [cell["job_id"] for cell in view["cells"]] == [one["job_id"] for one in machine.benchmarks]


async def test_a_random_order_has_each_cell_once_and_differs_between_machines(quick: Running) -> None:
    await measuring(quick, 2)
    campaign = await begin(quick, order="random", repeat=5)
    orders: dict[str, list[Any]] = {}
    for cell in campaign["cells"]:
        orders.setdefault(cell["agent_id"], []).append((cell["model"], cell["plan_hash"], cell["repeat"]))
    first, second = orders.values()
    assert first != second
    assert sorted(first) == sorted(second)
    assert len(set(first)) == 20


async def test_a_cell_shows_the_metric_with_its_interval_its_flags_and_the_models_digest(
    quick: Running,
) -> None:
    (machine,) = await measuring(quick, 1, speed=42.0, flags=("queued", "short_output"))
    async with connected(quick, [machine]):
        campaign = await begin(quick, **ONE)
        cell = only(await until_over(quick, campaign["id"]))
    assert (cell["value"], cell["low"], cell["high"]) == (42.0, 40.0, 44.0)
    assert (cell["flags"], cell["digest"]) == (["queued", "short_output"], "d" * 64)


async def test_a_repeat_is_a_cell_of_its_own(quick: Running) -> None:
    (machine,) = await measuring(quick, 1)
    async with connected(quick, [machine]):
        campaign = await begin(quick, **ONE, repeat=3)
        view = await until_over(quick, campaign["id"])
    assert [(cell["id"], cell["repeat"]) for cell in view["cells"]] == [("c1", 1), ("c2", 2), ("c3", 3)]
    assert len(machine.benchmarks) == 3


async def test_what_settles_a_machine_goes_with_each_plan_and_is_no_part_of_its_hash(quick: Running) -> None:
    (machine,) = await measuring(quick, 1)
    async with connected(quick, [machine]):
        plain = await begin(quick, **ONE)
        settling = await begin(quick, **ONE, settle={"idle_for_s": 5, "max_wait_s": 60})
        await until_over(quick, settling["id"])
    assert machine.benchmarks[-1]["plan"]["settle"] == {"idle_for_s": 5.0, "max_wait_s": 60.0}
    assert settling["plans"][0]["hash"] == plain["plans"][0]["hash"]


# -- plans by name --------------------------------------------------------------------------------------


async def test_a_campaign_measures_a_saved_plan_in_the_version_that_it_names(quick: Running) -> None:
    (machine,) = await measuring(quick, 1)
    for number in (3, 4):
        saved = await quick.http.put("/api/v1/saved-plans/mine", json={"plan": {"num_iterations": number}})
        assert saved.json()["version"] == number - 2
    async with connected(quick, [machine]):
        chosen = [{"name": "mine", "version": 1}, {"name": "mine"}]
        campaign = await begin(quick, plans=chosen, models=MODELS[:1])
        # A plan is measured as it was when the campaign was made.
        await quick.http.delete("/api/v1/saved-plans/mine")
        await until_over(quick, campaign["id"])
    assert [(plan["name"], plan["version"], plan["label"]) for plan in campaign["plans"]] == [
        ("mine", 1, "mine v1"),
        ("mine", 2, "mine v2"),
    ]
    assert [one["plan"]["num_iterations"] for one in machine.benchmarks] == [3, 4]


async def test_a_campaign_measures_a_preset_by_its_name(quick: Running) -> None:
    await measuring(quick, 1)
    campaign = await begin(quick, plans=[{"name": "quick"}])
    assert [(plan["name"], plan["version"]) for plan in campaign["plans"]] == [("quick", None)]


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"plans": [{"name": "nobody's"}]}, 404, None),
        ({"plans": [{"name": "quick", "plan": {}}]}, 422, "plans"),
        ({"plans": [{}]}, 422, "plans"),
        ({"plans": [PLANS[0], PLANS[0] | {"label": "again"}]}, 422, "plans"),
        ({"plans": [{"plan": {"num_iterations": 0}}]}, 422, "num_iterations"),
        ({"models": ["small", "small:latest"]}, 422, "models"),
        ({"models": ["no name/at/all/of/them"]}, 422, "models"),
        ({"metric": "taste"}, 422, "metric"),
        ({"not_after": 1.0}, 422, "not_after"),
        ({"quiet_hours": {"from": "25:00", "to": "07:00"}}, 422, "quiet_hours"),
        ({"quiet_hours": {"from": "22:00", "to": "07:00", "time_zone": "Moon/Base"}}, 422, "time_zone"),
        ({"targets": {"labels": ["nobody"]}}, 422, "targets"),
        ({"targets": {"agents": ["nobody"]}}, 404, None),
        ({"repeat": 21}, 422, "body.repeat"),
        ({"unknown": 1}, 422, "body.unknown"),
    ],
)
async def test_what_cannot_be_measured_is_refused_with_the_field_that_is_wrong(
    quick: Running, fields: dict[str, Any], status: int, field: str | None
) -> None:
    await measuring(quick, 1)
    error = await refused(quick, **fields)
    assert error["status"] == status
    assert field is None or field in error["detail"]["field"]


async def test_a_campaign_has_no_more_cells_than_may_be(tmp_path: Path) -> None:
    few = type(QUICK)(max_cells=4, max_running_cells=6)
    async with running(tmp_path, campaigns=few) as server:
        await measuring(server, 2)
        assert (await refused(server))["message"].startswith("targets: this is 8 cells")
        await begin(server, models=MODELS[:1])
        error = await refused(server, models=MODELS[:1])
        assert (error["status"], error["kind"]) == (429, "busy")
        more = await measuring(server, 1)
        campaign = (await server.http.get("/api/v1/campaigns")).json()[0]
        answer = await server.http.post(
            f"/api/v1/campaigns/{campaign['id']}/machines", json={"targets": {"agents": [more[0].id]}}
        )
        assert (answer.status_code, answer.json()["error"]["detail"]["field"]) == (422, "targets")


async def test_the_oldest_campaigns_that_ended_go_beyond_what_is_kept(
    quick: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign_rows, "MAX_CAMPAIGNS", 2)
    await measuring(quick, 1)
    first = await begin(quick, name="first")
    second = await begin(quick, name="second")
    error = await refused(quick)
    assert (error["status"], error["kind"]) == (429, "busy")
    await post(quick, f"{first['id']}/cancel")
    await until_over(quick, first["id"])
    third = await begin(quick, name="third")
    kept = (await quick.http.get("/api/v1/campaigns")).json()
    assert [one["id"] for one in kept] == [third["id"], second["id"]]
    monkeypatch.setattr(campaign_rows, "MAX_CAMPAIGNS", 100)
    monkeypatch.setattr(campaign_rows, "MAX_CELLS_KEPT", 8)
    await post(quick, f"{second['id']}/cancel")
    await until_over(quick, second["id"])
    await post(quick, f"{third['id']}/cancel")
    await until_over(quick, third["id"])
    fourth = await begin(quick, name="fourth")
    kept = (await quick.http.get("/api/v1/campaigns")).json()
    assert [one["id"] for one in kept] == [fourth["id"], third["id"]]


# -- what hinders a cell --------------------------------------------------------------------------------


async def test_a_cell_that_its_machines_owner_refuses_says_the_key_and_what_would_allow_it(
    quick: Running,
) -> None:
    some = await measuring(quick, 2)
    some[0].busy = NotPermitted("Benchmarks are not allowed here.", policy_key="policy.commands.deny")
    async with connected(quick, [*some]):
        campaign = await begin(quick, **ONE)
        view = await until_over(quick, campaign["id"])
    cell = view["cells"][0]
    assert states(view) == ["refused", "done"]
    assert (cell["policy_key"], cell["reason"]) == (
        "policy.commands.deny",
        "Benchmarks are not allowed here.",
    )
    assert cell["remedy"] == "policy.commands.deny: nothing that matches run_benchmark"


async def test_a_cell_whose_model_is_missing_is_refused_and_nothing_is_begun(quick: Running) -> None:
    (machine,) = await measuring(quick, 1, models={})
    async with connected(quick, [machine]):
        campaign = await begin(quick, **ONE)
        cell = only(await until_over(quick, campaign["id"]))
    assert (cell["state"], cell["error"]["data"]["kind"]) == ("refused", "model_not_found")
    assert "pull_missing" in cell["reason"]
    assert not machine.started


async def test_a_missing_model_is_pulled_first_if_asked(quick: Running) -> None:
    (machine,) = await measuring(quick, 1, models={}, at_once=False)
    async with connected(quick, [machine]):
        campaign = await begin(quick, models=MODELS[:1], pull_missing=True)
        view = await until_shown(quick, campaign["id"], lambda view: view["counts"]["pulling"] == 1)
        await until(lambda: machine.jobs)
        assert not machine.benchmarks
        await machine.finish_pull(name=MODELS[0])
        view = await until_over(quick, campaign["id"])
    assert states(view) == ["done", "done"]
    assert [method for method, _ in machine.asked] == ["pull_model", "run_benchmark", "run_benchmark"]


async def test_a_pull_that_the_owner_refuses_is_the_cells_reason(quick: Running) -> None:
    (machine,) = await measuring(quick, 1, models={})
    machine.refusal = NotPermitted("No pulls here.", policy_key="policy.allow_changes")
    async with connected(quick, [machine]):
        campaign = await begin(quick, **ONE, pull_missing=True)
        cell = only(await until_over(quick, campaign["id"]))
    assert (cell["state"], cell["policy_key"]) == ("refused", "policy.allow_changes")
    assert cell["remedy"] == "policy.allow_changes: [pull_model]"
    assert cell["reason"] == "The machine may not pull the model: No pulls here."
    assert not machine.benchmarks


async def test_a_cancelled_cell_cancels_its_pull(quick: Running) -> None:
    (machine,) = await measuring(quick, 1, models={}, at_once=False)
    async with connected(quick, [machine]):
        campaign = await begin(quick, **ONE, pull_missing=True)
        await until(lambda: machine.jobs)
        await post(quick, f"{campaign['id']}/cancel")
        view = await until_over(quick, campaign["id"])
    assert (view["state"], only(view)["state"]) == ("cancelled", "cancelled")
    assert (set(machine.cancels), machine.benchmarks) == (set(machine.started), [])


async def test_machines_that_are_offline_are_waited_for_or_skipped(quick: Running) -> None:
    here, away = await measuring(quick, 2)
    async with connected(quick, [here]):
        skipping = await begin(quick, on_offline="skip")
        view = await until_over(quick, skipping["id"])
        assert view["counts"]["done"] == 4
        assert {cell["reason"] for cell in view["cells"] if cell["state"] == "skipped"} == {
            "The machine is offline."
        }
        waiting = await begin(quick)
        view = await until_shown(quick, waiting["id"], lambda view: view["counts"]["done"] == 4)
        assert view["state"] == "running"
        assert [cell["waiting_for"] for cell in view["cells"] if cell["agent_id"] == away.id] == [
            "machine",
            "turn",
            "turn",
            "turn",
        ]
        async with connected(quick, [away]):
            view = await until_over(quick, waiting["id"])
    assert view["counts"]["done"] == 8


async def test_what_is_not_begun_in_time_is_skipped(quick: Running) -> None:
    await measuring(quick, 1)
    campaign = await begin(quick, not_after=time.time() + 2)
    view = await until_over(quick, campaign["id"])
    assert {(cell["state"], cell["reason"]) for cell in view["cells"]} == {
        ("skipped", "It was not begun in time.")
    }


async def test_the_latest_start_goes_to_the_machine(quick: Running) -> None:
    (machine,) = await measuring(quick, 1)
    latest = time.time() + 1000
    async with connected(quick, [machine]):
        campaign = await begin(quick, **ONE, not_after=latest)
        await until_over(quick, campaign["id"])
    assert machine.benchmarks[0]["not_after"] == pytest.approx(latest)


async def test_nothing_begins_in_quiet_hours(quick: Running) -> None:
    now = dt.datetime.now(dt.UTC)
    hours = {
        "from": (now - dt.timedelta(hours=2)).strftime("%H:%M"),
        "to": (now + dt.timedelta(hours=2)).strftime("%H:%M"),
        "time_zone": "UTC",
    }
    (machine,) = await measuring(quick, 1)
    async with connected(quick, [machine]):
        campaign = await begin(quick, **ONE, quiet_hours=hours)
        view = await until_shown(
            quick, campaign["id"], lambda view: only(view)["waiting_for"] == "quiet_hours"
        )
        assert only(view)["reason"] == f"The campaign's quiet hours last until {hours['to']}."
        loud = await begin(quick, **ONE, quiet_hours=hours | {"from": hours["to"], "to": hours["from"]})
        await until_over(quick, loud["id"])
        await post(quick, f"{campaign['id']}/cancel")
        await until_over(quick, campaign["id"])
    assert len(machine.benchmarks) == 1


async def test_one_campaign_measures_on_a_machine_at_a_time(quick: Running) -> None:
    (machine,) = await measuring(quick, 1, measures=False)
    async with connected(quick, [machine]):
        first = await begin(quick, models=MODELS[:1])
        await until(machine.open_benchmarks)
        second = await begin(quick, models=MODELS[:1])
        view = await until_shown(
            quick, second["id"], lambda view: view["cells"][0]["waiting_for"] == "campaign"
        )
        assert view["cells"][0]["reason"] == "Another campaign measures on this machine."
        machine.measures = True
        await machine.finish_benchmark()
        await until_over(quick, second["id"])
    order = [one["job_id"].partition(".")[0] for one in machine.benchmarks]
    assert order == [first["id"]] * 2 + [second["id"]] * 2


async def test_a_busy_machine_is_asked_again_under_another_id(quick: Running) -> None:
    (machine,) = await measuring(quick, 1)
    machine.busy = Busy("Enough to do.")
    async with connected(quick, [machine]):
        campaign = await begin(quick, **ONE)
        await until_shown(quick, campaign["id"], lambda view: only(view)["attempt"] >= 2)
        machine.busy = None
        cell = only(await until_over(quick, campaign["id"]))
    assert cell["state"] == "done"
    assert len(machine.started) == 1
    assert cell["job_id"] == f"{campaign['id']}.c1.{cell['attempt']}"


async def test_a_machine_that_is_removed_fails_its_cells_and_no_others(quick: Running) -> None:
    here, gone = await measuring(quick, 2)
    async with connected(quick, [here]):
        campaign = await begin(quick, **ONE)
        await quick.http.delete(f"/api/v1/agents/{gone.id}")
        view = await until_over(quick, campaign["id"])
    assert states(view) == ["done", "failed"]
    assert view["cells"][1]["error"]["data"]["kind"] == "agent_unknown"


async def test_a_benchmark_that_failed_is_the_reason_of_its_cell_alone(quick: Running) -> None:
    some = await measuring(quick, 2)
    some[0].broken = OllamaError("The runner crashed.")
    async with connected(quick, [*some]):
        campaign = await begin(quick, **ONE)
        view = await until_over(quick, campaign["id"])
    assert states(view) == ["failed", "done"]
    assert (view["cells"][0]["reason"], view["cells"][0]["value"]) == ("The runner crashed.", None)


# -- what people do with it -----------------------------------------------------------------------------


async def test_a_cancelled_campaign_stops_what_runs_and_begins_nothing_more(quick: Running) -> None:
    (machine,) = await measuring(quick, 1, measures=False)
    async with connected(quick, [machine]):
        campaign = await begin(quick)
        await until(machine.open_benchmarks)
        await post(quick, f"{campaign['id']}/cancel")
        view = await until_over(quick, campaign["id"])
    assert (view["state"], set(states(view))) == ("cancelled", {"cancelled"})
    assert len(machine.benchmarks) == 1


async def test_some_cells_are_cancelled_and_the_others_measured(quick: Running) -> None:
    (machine,) = await measuring(quick, 1, measures=False)
    async with connected(quick, [machine]):
        campaign = await begin(quick)
        await until(machine.open_benchmarks)
        await post(quick, f"{campaign['id']}/cancel", cells=["c2", "c3"])
        machine.measures = True
        await machine.finish_benchmark()
        view = await until_over(quick, campaign["id"])
    assert (view["state"], states(view)) == ("done", ["done", "cancelled", "cancelled", "done"])


async def test_cells_without_a_result_are_measured_again_and_the_others_stay(quick: Running) -> None:
    some = await measuring(quick, 2)
    some[1].broken = OllamaError("The runner crashed.")
    async with connected(quick, [*some]):
        campaign = await begin(quick, **ONE)
        await until_over(quick, campaign["id"])
        some[1].broken = None
        await post(quick, f"{campaign['id']}/rerun")
        view = await until_over(quick, campaign["id"])
    assert states(view) == ["done", "done"]
    assert [cell["attempt"] for cell in view["cells"]] == [1, 2]
    assert [sum(one.started.values()) for one in some] == [1, 2]


async def test_flagged_cells_are_measured_again_unless_the_flag_would_come_back(quick: Running) -> None:
    some = await measuring(quick, 2)
    some[0].flags, some[1].flags = ("cpu_contended",), ("prompts_kept",)
    async with connected(quick, [*some]):
        campaign = await begin(quick, **ONE)
        await until_over(quick, campaign["id"])
        some[0].flags = ()
        await post(quick, f"{campaign['id']}/rerun", only="flagged")
        view = await until_over(quick, campaign["id"])
    assert [(cell["attempt"], cell["flags"]) for cell in view["cells"]] == [(2, []), (1, ["prompts_kept"])]


async def test_a_cell_that_is_named_is_measured_again_though_it_is_done(quick: Running) -> None:
    (machine,) = await measuring(quick, 1)
    async with connected(quick, [machine]):
        campaign = await begin(quick)
        await until_over(quick, campaign["id"])
        machine.speed = 60.0
        await post(quick, f"{campaign['id']}/rerun", cells=["c2"])
        view = await until_over(quick, campaign["id"])
    assert [cell["value"] for cell in view["cells"]] == [50.0, 60.0, 50.0, 50.0]


async def test_a_rerun_of_a_campaign_that_runs_joins_it(quick: Running) -> None:
    (machine,) = await measuring(quick, 1, measures=False)
    async with connected(quick, [machine]):
        campaign = await begin(quick, models=MODELS[:1])
        await until(machine.open_benchmarks)
        machine.broken = OllamaError("The runner crashed.")
        await machine.finish_benchmark()
        await until(machine.open_benchmarks)
        machine.broken, machine.measures = None, True
        view = await post(quick, f"{campaign['id']}/rerun")
        assert states(view)[0] == "waiting"
        await machine.finish_benchmark()
        view = await until_over(quick, campaign["id"])
    assert states(view) == ["done", "done"]


@pytest.mark.parametrize("over", [False, True])
async def test_machines_that_are_added_are_measured_too(tmp_path: Path, over: bool) -> None:
    # What happens there comes by events, as of the machines that were there from the beginning.
    patient = dataclasses.replace(QUICK, poll_s=600.0)
    async with running(tmp_path, campaigns=patient) as server:
        first, second = await measuring(server, 2, measures=over)
        async with connected(server, [first, second]):
            campaign = await begin(server, **ONE, targets={"agents": [first.id]})
            if over:
                await until_over(server, campaign["id"])
            else:
                await until(first.open_benchmarks)
            view = await post(server, f"{campaign['id']}/machines", targets={"all": True})
            assert [agent["name"] for agent in view["agents"]] == ["m0", "m1"]
            if not over:
                await until(second.open_benchmarks)
                await until_shown(server, campaign["id"], lambda view: view["counts"]["running"] == 2)
                await first.finish_benchmark()
                await second.finish_benchmark()
            view = await until_over(server, campaign["id"])
    assert [(cell["id"], cell["state"]) for cell in view["cells"]] == [("c1", "done"), ("c2", "done")]
    assert [sum(one.started.values()) for one in (first, second)] == [1, 1]


async def test_a_request_with_a_known_key_is_the_same_campaign(quick: Running) -> None:
    (machine,) = await measuring(quick, 1)
    async with connected(quick, [machine]):
        first = await quick.http.post("/api/v1/campaigns", json=body(key="night-1"))
        again = await quick.http.post("/api/v1/campaigns", json=body(key="night-1"))
        await until_over(quick, first.json()["id"])
        late = await quick.http.post("/api/v1/campaigns", json=body(key="night-1"))
    assert [one.status_code for one in (first, again, late)] == [201, 200, 200]
    assert len({one.json()["id"] for one in (first, again, late)}) == 1
    assert len(machine.benchmarks) == 4


async def test_a_campaign_is_forgotten_once_it_has_ended_and_its_results_stay(quick: Running) -> None:
    (machine,) = await measuring(quick, 1, measures=False)
    async with connected(quick, [machine]):
        campaign = await begin(quick, **ONE)
        path = f"/api/v1/campaigns/{campaign['id']}"
        early = await quick.http.delete(path)
        assert (early.status_code, early.json()["error"]["kind"]) == (409, "campaign_open")
        await until(machine.open_benchmarks)
        await machine.finish_benchmark()
        cell = only(await until_over(quick, campaign["id"]))

        async def forgotten() -> bool:
            return (await quick.http.delete(path)).status_code == 204

        await until(forgotten)
    assert (await quick.http.get(path)).status_code == 404
    result = await quick.http.get(f"/api/v1/benchmarks/{cell['job_id']}/result")
    assert result.status_code == 200


async def test_campaigns_are_listed_the_newest_first_and_page_by_page(quick: Running) -> None:
    await measuring(quick, 1)
    ids = [(await begin(quick, name=f"n{number}"))["id"] for number in range(3)]
    await post(quick, f"{ids[0]}/cancel")
    await until_over(quick, ids[0])

    async def listed(query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await quick.http.get(f"/api/v1/campaigns{query}")).json()
        return found

    page = await listed("?limit=2")
    assert [one["id"] for one in page] == [ids[2], ids[1]]
    rest = await listed(f"?before={page[-1]['created_at']!r}")
    assert [(one["id"], one["state"], one["counts"]["cancelled"]) for one in rest] == [
        (ids[0], "cancelled", 4)
    ]
    assert [one["id"] for one in await listed("?state=running")] == [ids[2], ids[1]]
    assert await listed("?schedule=nightly") == []


# -- estimates and the preview --------------------------------------------------------------------------


async def test_a_preview_says_of_each_cell_what_would_become_of_it_and_why(quick: Running) -> None:
    here, _, lacking, closed = await measuring(quick, 4)
    lacking.models = {}
    closed.allowed = ("list_models",)
    async with connected(quick, [here, lacking, closed]):
        await until_over(quick, (await begin(quick, **ONE, targets={"agents": [here.id]}))["id"])

        async def preview(**fields: Any) -> dict[str, Any]:
            answer = await quick.http.post("/api/v1/campaigns/preview", json=body(**ONE, **fields))
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found

        first = await preview()
        assert [cell["would"] for cell in first["cells"]] == ["run", "wait", "refused", "refused"]
        assert "pull_missing" in first["cells"][2]["reason"]
        assert first["cells"][3]["policy_key"] == "policy.commands.deny"
        assert first["cells"][3]["remedy"] == "policy.commands.deny: nothing that matches run_benchmark"
        assert [cell["plan"] for cell in first["cells"]] == ["A"] * 4
        skipped = await preview(on_offline="skip", pull_missing=True)
        assert [cell["would"] for cell in skipped["cells"]] == ["run", "skip", "refused", "refused"]
        assert skipped["cells"][2]["policy_key"] == "policy.allow_changes"
        # What was measured there took 100 s; the machines without a cell to measure take none.
        assert [one["estimate_s"] for one in skipped["machines"]] == [100.0, 0, 0, 0]
        assert skipped["estimate_s"] == 100.0
        assert first["estimate_s"] is None
    assert (await quick.http.get("/api/v1/campaigns")).json()[0]["total"] == 1


async def test_what_is_left_comes_from_earlier_results_and_the_jobs_progress(quick: Running) -> None:
    (machine,) = await measuring(quick, 1, measures=False)
    async with connected(quick, [machine]):
        first = await begin(quick, **ONE)
        assert first["remaining_s"] is None
        await until(machine.open_benchmarks)
        await machine.finish_benchmark()
        assert (await until_over(quick, first["id"]))["remaining_s"] is None
        second = await begin(quick, **ONE)
        assert (only(second)["estimate_s"], second["remaining_s"]) == (100.0, 100.0)
        await until(machine.open_benchmarks)
        await machine.say_iteration(2, 4)
        view = await until_shown(quick, second["id"], lambda view: only(view)["progress"])
        assert (only(view)["progress"], view["remaining_s"]) == (0.25, 75.0)
        await machine.finish_benchmark()
        await until_over(quick, second["id"])
    listed = (await quick.http.get("/api/v1/campaigns")).json()
    assert [one["counts"]["done"] for one in listed] == [1, 1]
    assert (await shown(quick, second["id"]))["finished_at"] is not None
