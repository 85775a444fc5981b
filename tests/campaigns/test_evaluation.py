"""Campaigns of many nights in a real store: what is slower, since when, and what is accused of nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from obt_server.campaign_storage import CampaignBaseline, CampaignCell
from obt_server.campaigns.evaluation import FigureAsked
from obt_server.rollout_storage import model_key
from obt_server.store import Database
from obt_server.verdict_storage import (
    Acknowledgement,
    LineKey,
    PinnedBaseline,
    RegressionFilter,
    Verdict,
)
from tests.campaigns.stored_nights import FIRST, MODELS, PLANS, Fleet, Speed, slower, steady
from tests.server.databases import address_in

DAY = 86_400.0


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    database = Database.open(address_in(tmp_path))
    yield Fleet(database)
    database.close()


def words(verdicts: list[Verdict]) -> Counter[str]:
    return Counter(one.verdict for one in verdicts)


async def _nights(fleet: Fleet, speed: Speed, count: int, first: int = 1) -> list[Verdict]:
    found: list[Verdict] = []
    for number in range(first, first + count):
        found = await fleet.night(number, speed)
    return found


async def test_a_machine_that_is_slower_from_night_8_on_is_found_with_its_night_and_no_other(
    fleet: Fleet,
) -> None:
    await fleet.enrol(4)
    speed = slower(steady(1), since=8, machine="m3")
    accused: set[tuple[str, str, str]] = set()
    verdicts: list[Verdict] = []
    for number in range(1, 13):
        verdicts = await fleet.night(number, speed)
        found = [one for one in verdicts if one.verdict in ("slower", "faster")]
        accused |= {(one.verdict, one.agent_name, one.model) for one in found}
        if number < 8:
            assert found == []
        for one in found:
            assert one.since is not None
            assert FIRST + 8 * DAY < one.since.at < FIRST + 8 * DAY + 7200
            assert "since" not in one.text
    # All cells of that machine by the second slow night at the latest, and it stays so.
    assert words(verdicts) == {"slower": len(MODELS) * len(PLANS), "no_difference_shown": 18}
    assert accused == {("slower", "m3", model) for model in MODELS}
    # Once for each cell, however many nights said it.
    assert await fleet.open_regressions() == sorted(("m3", model) for model in MODELS for _ in PLANS)


async def test_what_changed_beside_it_stands_in_the_verdict(fleet: Fleet) -> None:
    await fleet.enrol(4)
    speed = slower(steady(2, sigma=0.002), since=9, machine="m1", by=1.1)

    def more(number: int) -> Any:
        def of(cell: CampaignCell) -> dict[str, Any]:
            newer = number >= 9 and cell.agent_name == "m1"
            return {"environment": {"driver": "590.10"}} if newer else {}

        return of

    verdicts: list[Verdict] = []
    for number in range(1, 11):
        verdicts = await fleet.night(number, speed, more=more(number))
    found = [one for one in verdicts if one.verdict == "slower"]
    assert len(found) == 6
    for one in found:
        assert [(change.what, change.before, change.after) for change in one.changed] == [
            ("driver", "580.65", "590.10")
        ]


async def test_another_version_of_the_model_is_not_comparable(fleet: Fleet) -> None:
    await fleet.enrol(3)
    await _nights(fleet, steady(3), 8)
    newer = {"environment": {"model_digest": "e" * 64}}
    verdicts = await fleet.night(9, steady(3), more=lambda cell: newer if cell.model == MODELS[0] else {})
    other = [one for one in verdicts if one.model == MODELS[0]]
    assert {one.verdict for one in other} == {"not_comparable"}
    assert "another version" in other[0].text
    assert [change.what for change in other[0].changed] == ["model's digest"]
    assert {one.verdict for one in verdicts if one.model != MODELS[0]} == {"no_difference_shown"}


async def test_a_machine_that_was_not_alone_is_not_comparable_and_no_baseline_for_later(fleet: Fleet) -> None:
    await fleet.enrol(3)
    await _nights(fleet, steady(4), 8)
    busy = slower(steady(4), since=9, machine="m2", by=1.4)
    flagged = lambda cell: {"flags": ["used_meanwhile"]} if cell.agent_name == "m2" else {}  # noqa: E731
    verdicts = await fleet.night(9, busy, more=flagged)
    of_m2 = [one for one in verdicts if one.agent_name == "m2"]
    assert {one.verdict for one in of_m2} == {"not_comparable"}
    assert "other programs used the machine" in of_m2[0].text
    after = await fleet.night(10, steady(4))
    assert words(after) == {"no_difference_shown": 18}
    nights = {int((ref.at - FIRST) / DAY) for one in after if one.agent_name == "m2" for ref in one.baseline}
    assert nights == {2, 3, 4, 5, 6, 7, 8}


async def test_a_machine_that_is_never_alone_is_measured_as_it_is(fleet: Fleet) -> None:
    await fleet.enrol(3)
    verdicts: list[Verdict] = []
    for number in range(1, 10):
        verdicts = await fleet.night(number, steady(5), more=lambda _: {"flags": ["cpu_contended"]})
    assert words(verdicts) == {"no_difference_shown": 18}


async def test_the_first_nights_show_nothing_and_say_what_is_missing(fleet: Fleet) -> None:
    await fleet.enrol(1)
    first = await fleet.night(1, steady(6))
    assert {one.text for one in first} == {
        "Not comparable: it is the first result of this model and plan on this machine."
    }
    second = await fleet.night(2, steady(6))
    assert {one.text for one in second} == {
        "No difference shown: 2 more nights before a difference can be shown."
    }


async def test_an_acknowledged_regression_is_the_new_level_and_a_fall_from_there_is_a_new_one(
    fleet: Fleet,
) -> None:
    await fleet.enrol(3)
    speed = slower(steady(7, sigma=0.002), since=9, machine="m1", by=1.1)
    await _nights(fleet, speed, 12)
    found = await fleet.storage.regressions(RegressionFilter(state="open"))
    assert len(found) == 6
    for one in found:
        await fleet.storage.acknowledge(one.id, Acknowledgement(by="eva", at=1.0, note="new cooler"))
    assert words(await fleet.night(13, speed)) == {"no_difference_shown": 18}
    assert await fleet.open_regressions() == []
    again = slower(speed, since=14, machine="m1", by=1.1)
    await _nights(fleet, again, 2, first=14)
    opened = await fleet.storage.regressions(RegressionFilter(state="open"))
    assert len(opened) == 6
    assert {one.agent_name for one in opened} == {"m1"}
    assert all(one.since is not None and one.since.at > FIRST + 14 * DAY for one in opened)


async def test_until_it_is_acknowledged_a_slow_machine_does_not_become_its_own_baseline(fleet: Fleet) -> None:
    await fleet.enrol(3)
    speed = slower(steady(8, sigma=0.002), since=9, machine="m1", by=1.1)
    await _nights(fleet, speed, 17)
    verdicts = await fleet.night(18, speed)
    assert words(verdicts) == {"slower": 6, "no_difference_shown": 12}
    assert all(ref.at < FIRST + 9 * DAY for one in verdicts if one.agent_name == "m1" for ref in one.baseline)


async def test_a_campaign_that_is_compared_again_says_the_same_and_stores_it_once(fleet: Fleet) -> None:
    await fleet.enrol(3)
    speed = slower(steady(9, sigma=0.002), since=9, machine="m1", by=1.1)
    last = await _nights(fleet, speed, 10)
    told = await fleet.storage.regressions(RegressionFilter())
    for campaign in fleet.campaigns:
        await fleet.judge(campaign)
    assert list(await fleet.storage.verdicts(fleet.campaigns[-1].id)) == last
    assert await fleet.storage.regressions(RegressionFilter()) == told


async def test_a_campaign_that_was_measured_again_takes_back_what_it_alone_had_found(fleet: Fleet) -> None:
    await fleet.enrol(3)
    usual = steady(9, sigma=0.002)
    await _nights(fleet, slower(usual, since=9, machine="m1", by=1.1), 9)
    assert len(await fleet.open_regressions()) == 6
    told = len(fleet.news)
    again = await fleet.measure_again(fleet.campaigns[-1], usual, 9)
    assert words(again) == {"no_difference_shown": 18}
    assert await fleet.open_regressions() == []
    assert len(fleet.news) == told + 6


async def test_a_pinned_result_is_what_nights_are_compared_with(fleet: Fleet) -> None:
    await fleet.enrol(1)
    # Slower from the second night on, when nobody could say so yet.
    speed = slower(steady(10, sigma=0.002), since=2, machine="m1", by=1.1)
    assert words(await _nights(fleet, speed, 8)) == {"no_difference_shown": 6}
    first = await fleet.storage.campaign_cells(fleet.campaigns[0].id)
    for cell in first:
        assert cell.job_id is not None
        await fleet.storage.pin_baseline(
            PinnedBaseline(
                agent_id=cell.agent_id,
                model=model_key(cell.model),
                plan_hash=cell.plan_hash,
                job_id=cell.job_id,
                at=1.0,
                by="eva",
            )
        )
    pinned = CampaignBaseline(mode="pinned")
    await fleet.night(9, speed, baseline=pinned)
    verdicts = await fleet.night(10, speed, baseline=pinned)
    assert words(verdicts) == {"slower": 6}
    assert all(len(one.baseline) == 1 and "pinned" in one.text for one in verdicts)


async def test_nothing_is_compared_where_nothing_is_asked_for(fleet: Fleet) -> None:
    await fleet.enrol(1)
    assert await fleet.night(1, steady(11), baseline=CampaignBaseline(mode="none")) == []


async def test_two_campaigns_are_compared_cell_by_cell(fleet: Fleet) -> None:
    await fleet.enrol(3)
    await _nights(fleet, slower(steady(12, sigma=0.002), since=10, machine="m2", by=1.1), 10)
    old, new = fleet.campaigns[4], fleet.campaigns[9]
    cells, others = [list(await fleet.storage.campaign_cells(one.id)) for one in (new, old)]
    table = await fleet.evaluation.matrix(new, cells, FigureAsked(), others)
    assert [agent.name for agent in table.agents] == ["m1", "m2", "m3"]
    assert len(table.rows) == 6
    assert len(table.cells) == 18
    by = {cell.agent_id: Counter() for cell in table.cells}  # type: dict[str, Counter[Any]]
    for cell in table.cells:
        by[cell.agent_id][cell.verdict] += 1
    assert by[fleet.agents["m2"]] == {"slower": 6}
    assert by[fleet.agents["m1"]] == by[fleet.agents["m3"]] == {"no_difference_shown": 6}


async def test_a_matrix_has_any_metric_also_those_that_lists_do_not_show(fleet: Fleet) -> None:
    await fleet.enrol(1)
    await fleet.night(1, steady(13))
    (campaign,) = fleet.campaigns
    cells = list(await fleet.storage.campaign_cells(campaign.id))
    prefill = await fleet.evaluation.matrix(campaign, cells, FigureAsked("prefill_tps"), None)
    assert (prefill.metric.unit, prefill.metric.direction) == ("tok/s", "higher")
    assert all(cell.value and cell.low and cell.high and cell.n == 1 for cell in prefill.cells)
    missing = await fleet.evaluation.matrix(campaign, cells, FigureAsked("energy_joules"), None)
    assert {cell.reason for cell in missing.cells} == {"its result has no such figure"}


async def test_the_history_of_a_cell_marks_the_night_once_and_says_what_changed(fleet: Fleet) -> None:
    await fleet.enrol(1)
    speed = slower(steady(14), since=9, machine="m1", by=1.05)

    for number in range(1, 16):
        newer: dict[str, Any] = {"environment": {"ollama_version": "0.34.0"}} if number >= 9 else {}
        await fleet.night(number, speed, more=lambda _, newer=newer: newer)  # type: ignore[misc]
    key = LineKey(fleet.agents["m1"], model_key(MODELS[0]), PLANS[0])
    found = await fleet.evaluation.history(key, FigureAsked())
    assert [point.campaign_id for point in found.points] == [one.id for one in fleet.campaigns]
    for point in found.points:
        assert point.value is not None
        assert point.low is not None
        assert point.high is not None
        assert point.low < point.value < point.high
    (mark,) = found.change_points
    assert mark.job_id == found.points[8].job_id
    assert mark.ratio_low < 1 / 1.05 < mark.ratio_high < 1
    (change,) = found.changes
    assert (change.what, change.before, change.after) == ("Ollama", "0.33.0", "0.34.0")
    assert change.job_id == mark.job_id


async def _recovered(fleet: Fleet) -> list[Verdict]:
    """Twelve nights, slower from the ninth on, and three on which the machine is as it was."""
    await fleet.enrol(3)
    usual = steady(8, sigma=0.002)
    await _nights(fleet, slower(usual, since=9, machine="m1", by=1.1), 12)
    return await _nights(fleet, usual, 3, first=13)


async def test_what_is_back_at_its_baseline_says_since_when_and_stays_open(fleet: Fleet) -> None:
    verdicts = await _recovered(fleet)
    # Compared with the nights before it became slower, and no faster than those.
    assert words(verdicts) == {"no_difference_shown": 18}
    of_m1 = [one for one in verdicts if one.agent_name == "m1"]
    assert all(one.text.endswith("It was slower, and is back for 3 nights.") for one in of_m1)
    assert all(one.ratio is not None and abs(one.ratio - 1) < 0.01 for one in of_m1)
    found = await fleet.storage.regressions(RegressionFilter(state="open"))
    assert len(found) == 6
    for one in found:
        assert one.verdict == "slower"
        assert one.back_since is not None
        assert FIRST + 13 * DAY < one.back_since.at < FIRST + 13 * DAY + 7200
    assert all(one.back_since is None for one in verdicts if one.agent_name != "m1")
    # Each was told of when it was found, on each night that said it again, and when it was back: once.
    assert len(fleet.news) == 6 * 5


async def test_what_is_slower_again_is_not_back(fleet: Fleet) -> None:
    await _recovered(fleet)
    again = slower(steady(8, sigma=0.002), since=16, machine="m1", by=1.1)
    verdicts = await _nights(fleet, again, 2, first=16)
    assert words(verdicts) == {"slower": 6, "no_difference_shown": 12}
    newest = {
        (one.model, one.plan_hash): one
        for one in reversed(await fleet.storage.regressions(RegressionFilter(state="open")))
    }
    assert len(newest) == 6
    assert {one.back_since for one in newest.values()} == {None}


async def test_acknowledging_what_is_back_does_not_make_its_slow_nights_the_baseline(fleet: Fleet) -> None:
    await _recovered(fleet)
    for one in await fleet.storage.regressions(RegressionFilter()):
        await fleet.storage.acknowledge(one.id, Acknowledgement(by="eva", at=1.0))
    verdicts = await _nights(fleet, steady(8, sigma=0.002), 1, first=16)
    assert words(verdicts) == {"no_difference_shown": 18}
    for found in verdicts:
        nights = {int((ref.at - FIRST) / DAY) for ref in found.baseline}
        slow = {9, 10, 11, 12} if found.agent_name == "m1" else set()
        assert (len(nights), nights & slow) == (7, set())
    # A fall from there is a regression like the first.
    again = slower(steady(8, sigma=0.002), since=17, machine="m1", by=1.1)
    assert words(await _nights(fleet, again, 2, first=17))["slower"] == 6
    assert len(await fleet.open_regressions()) == 6
