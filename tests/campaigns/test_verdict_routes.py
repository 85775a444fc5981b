"""Verdicts, baselines, histories and regressions as REST gives them, measured through agents' links."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.campaigns.machines import QUICK, begin, connected, measuring, until_shown
from tests.campaigns.stored_nights import FIRST, LABELS, MODELS, PLANS, Fleet, slower, steady
from tests.server.conftest import Running, running

DAY = 86_400.0


async def get(server: Running, path: str) -> Any:
    answer = await server.http.get(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def _fleet(server: Running, count: int) -> Fleet:
    fleet = Fleet(server.parts.database)
    await fleet.enrol(count)
    return fleet


async def _nights(fleet: Fleet, seed: int, count: int, since: int) -> None:
    speed = slower(steady(seed, sigma=0.002), since=since, machine="m1", by=1.1)
    for number in range(1, count + 1):
        await fleet.night(number, speed)


async def test_campaigns_through_agents_links_find_the_machine_that_became_slower(tmp_path: Path) -> None:
    rng = random.Random(1)
    async with running(tmp_path, campaigns=QUICK) as server:
        some = await measuring(server, 3)
        campaign: dict[str, Any] = {}
        view: dict[str, Any] = {}
        async with connected(server, list(some)):
            for number in range(1, 9):
                for machine in some:
                    machine.speed = 50 * (1 + rng.gauss(0, 0.002))
                if number >= 7:
                    # The doubles' runs are noisy by themselves: 2 % from iteration to iteration, of three.
                    some[1].speed /= 1.2
                campaign = await begin(server, name=f"night {number}")
                view = await until_shown(server, campaign["id"], lambda shown: shown["verdicts"])
                if number == 6:
                    assert view["verdicts"]["no_difference_shown"] == 12
        assert view["verdicts"] == {
            "slower": 4,
            "faster": 0,
            "no_difference_shown": 8,
            "not_comparable": 0,
        }
        found = await get(server, f"campaigns/{campaign['id']}/verdicts")
        assert Counter(one["agent_name"] for one in found if one["verdict"] == "slower") == {"m1": 4}
        regressions = await get(server, "regressions?state=open")
        assert {one["agent_name"] for one in regressions} == {"m1"}
        assert len(regressions) == 4
        # The seventh campaign's results: that is where it began.
        seventh = regressions[0]["since"]["job_id"].split(".")[0]
        assert (await get(server, f"campaigns/{seventh}"))["name"] == "night 7"


async def test_a_matrix_shows_ratios_to_baselines_and_to_another_campaign(server: Running) -> None:
    fleet = await _fleet(server, 3)
    await _nights(fleet, 1, 10, since=9)
    first, last = fleet.campaigns[0].id, fleet.campaigns[-1].id
    table = await get(server, f"campaigns/{last}/matrix")
    assert table["metric"] == {
        "name": "decode_tps_corrected",
        "label": "Decode",
        "unit": "tok/s",
        "direction": "higher",
    }
    assert len(table["cells"]) == 18
    slow = [cell for cell in table["cells"] if cell["verdict"] == "slower"]
    assert {cell["agent_id"] for cell in slow} == {fleet.agents["m1"]}
    assert all(cell["ratio_low"] < cell["ratio"] < cell["ratio_high"] < 1 for cell in slow)
    against = await get(server, f"campaigns/{last}/matrix?against={first}&metric=first_token_ms")
    slow = [cell for cell in against["cells"] if cell["verdict"] == "slower"]
    # Of times more is slower.
    assert {cell["agent_id"] for cell in slow} == {fleet.agents["m1"]}
    assert all(cell["ratio_low"] > 1 for cell in slow)
    assert (await server.http.get(f"/api/v1/campaigns/{last}/matrix?metric=nothing")).status_code == 422
    assert (await server.http.get(f"/api/v1/campaigns/{last}/matrix?against=none")).status_code == 404


async def test_a_matrix_and_a_history_show_the_point_that_is_asked_for(server: Running) -> None:
    fleet = await _fleet(server, 1)
    fleet.swept = PLANS[:1]
    await fleet.night(
        1, steady(1), points=lambda cell: (1.0, 0.8, 0.6) if cell.plan_hash == PLANS[0] else (1,)
    )
    campaign, point = fleet.campaigns[0].id, quote(LABELS[1])
    first = await get(server, f"campaigns/{campaign}/matrix")
    other = await get(server, f"campaigns/{campaign}/matrix?point={point}")
    assert (first["point"], other["point"]) == (None, LABELS[1])
    assert [one["label"] for one in other["sweep"]] == list(LABELS)
    value = other["cells"][0]["value"]
    assert value == pytest.approx(0.8 * first["cells"][0]["value"])
    found = await get(server, f"history?agent=m1&model={MODELS[0]}&plan={PLANS[0]}&point={point}")
    assert (found["point"], found["points"][0]["value"]) == (LABELS[1], value)
    for path in (f"campaigns/{campaign}/matrix?point=x", f"history?agent=m1&model=a&plan={PLANS[0]}&point=x"):
        refused = await server.http.get(f"/api/v1/{path}")
        assert refused.status_code == 422
        assert "There is no point 'x'" in refused.json()["error"]["message"]


async def test_a_regression_is_acknowledged_with_a_note_and_opened_again(server: Running) -> None:
    fleet = await _fleet(server, 3)
    await _nights(fleet, 2, 10, since=9)
    opened = await get(server, "regressions?state=open")
    assert len(opened) == 6
    number = opened[0]["id"]
    answer = await server.http.post(f"/api/v1/regressions/{number}/acknowledge", json={"note": "new cooler"})
    assert answer.status_code == 200
    known = answer.json()["acknowledged"]
    assert (known["by"], known["note"]) == ("admin", "new cooler")
    assert len(await get(server, "regressions?state=open")) == 5
    (acknowledged,) = await get(server, "regressions?state=acknowledged")
    assert acknowledged["id"] == number
    assert (await server.http.delete(f"/api/v1/regressions/{number}/acknowledge")).status_code == 204
    assert len(await get(server, "regressions?state=open&agent=m1")) == 6
    assert await get(server, "regressions?agent=m2") == []
    assert (await server.http.post("/api/v1/regressions/999/acknowledge")).status_code == 404


async def test_a_result_is_pinned_for_its_own_line_alone(server: Running) -> None:
    fleet = await _fleet(server, 2)
    await _nights(fleet, 3, 1, since=9)
    cells = await server.parts.storage.campaign_cells(fleet.campaigns[0].id)
    job = cells[0].job_id
    body = {"model": cells[0].model, "plan_hash": cells[0].plan_hash, "result": job}
    pinned = await server.http.put("/api/v1/baselines/m1", json=body)
    assert pinned.status_code == 200, pinned.text
    assert (pinned.json()["job_id"], pinned.json()["by"]) == (job, "admin")
    assert await get(server, "baselines?agent=m1") == [pinned.json()]
    assert await get(server, "baselines?agent=m2") == []
    other_plan = await server.http.put("/api/v1/baselines/m1", json=body | {"plan_hash": PLANS[1]})
    assert other_plan.status_code == 422
    other_machine = await server.http.put("/api/v1/baselines/m2", json=body)
    assert other_machine.status_code == 404
    # A result says itself of which model and plan it is.
    alone = await server.http.put("/api/v1/baselines/m1", json={"result": job})
    assert {**alone.json(), "at": 0} == {**pinned.json(), "at": 0}
    assert len(await get(server, "baselines")) == 1
    query = f"model={cells[0].model}&plan_hash={cells[0].plan_hash}"
    assert (await server.http.delete(f"/api/v1/baselines/m1?{query}")).status_code == 204
    assert (await server.http.delete(f"/api/v1/baselines/m1?{query}")).status_code == 404


async def test_the_history_of_a_line_comes_with_its_changes_and_marks(server: Running) -> None:
    fleet = await _fleet(server, 1)
    await _nights(fleet, 4, 15, since=9)
    found = await get(server, f"history?agent=m1&model={MODELS[0]}&plan={PLANS[0]}")
    assert len(found["points"]) == 15
    assert found["points"][0]["at"] > FIRST + DAY
    (mark,) = found["change_points"]
    assert mark["job_id"] == found["points"][8]["job_id"]
    assert found["changes"] == []
    empty = await get(server, f"history?agent=m1&model=nothing&plan={PLANS[0]}")
    assert empty["points"] == []


async def test_a_regression_is_an_event_for_everybody_who_listens(tmp_path: Path) -> None:
    async with running(tmp_path, campaigns=QUICK) as server:
        fleet = await _fleet(server, 3)
        await _nights(fleet, 5, 9, since=9)
        number = (await get(server, "regressions"))[0]["id"]
        told: list[dict[str, Any]] = []
        async with server.http.stream("GET", "/api/v1/events") as events:
            lines = events.aiter_lines()
            async for line in lines:
                if line == "event: current":
                    break
            await server.http.post(f"/api/v1/regressions/{number}/acknowledge", json={"note": "known"})
            async for line in lines:
                if line == "event: regression":
                    told.append(json.loads((await anext(lines)).removeprefix("data: ")))
                    break
    assert (told[0]["id"], told[0]["acknowledged"]["note"]) == (number, "known")


async def test_nobody_reads_or_changes_any_of_it_without_signing_in(server: Running) -> None:
    headers = {"Authorization": "Bearer obtk_none"}
    for method, path in (
        ("GET", "campaigns/x/matrix"),
        ("GET", "campaigns/x/verdicts"),
        ("GET", "history?agent=a&model=b&plan=c"),
        ("GET", "baselines"),
        ("PUT", "baselines/m1"),
        ("DELETE", "baselines/m1?model=a&plan_hash=b"),
        ("GET", "regressions"),
        ("POST", "regressions/1/acknowledge"),
        ("DELETE", "regressions/1/acknowledge"),
        ("GET", "schedules"),
        ("PUT", "schedules/nightly"),
        ("DELETE", "schedules/nightly"),
        ("POST", "schedules/nightly/pause"),
        ("POST", "schedules/nightly/resume"),
        ("POST", "schedules/nightly/run"),
        ("GET", "schedules/nightly/runs"),
    ):
        answer = await server.http.request(method, f"/api/v1/{path}", headers=headers)
        assert answer.status_code == 401, (method, path)
