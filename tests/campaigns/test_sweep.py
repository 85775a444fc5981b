"""Plans that sweep: every point has its verdict, and the matrix and histories show the one that is chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy.orm import Session

from obt_agent.errors import InvalidParams
from obt_server.campaign_storage import CampaignCell
from obt_server.campaigns import sweep
from obt_server.campaigns.comparison import Night, NightLine, compare_two
from obt_server.campaigns.evaluation import FigureAsked
from obt_server.campaigns.matrix import Pair, RatioShown, Shown, compare_campaigns
from obt_server.rollout_storage import model_key
from obt_server.store import Database
from obt_server.store.tables import VerdictsRow
from obt_server.verdict_storage import Acknowledgement, LineKey, RegressionFilter, Verdict
from tests.campaigns.stored_nights import LABELS, MODELS, PLANS, SWEEP, Fleet, steady


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    database = Database.sqlite(tmp_path / "obt.sqlite3")
    yield Fleet(database)
    database.close()


def words(verdicts: list[Verdict]) -> Counter[str]:
    return Counter(one.verdict for one in verdicts)


async def _swept_nights(fleet: Fleet, count: int, first: int = 1) -> list[Verdict]:
    """The first plan sweeps; from night 9 on m1's last model is slower at the longest prompt alone."""
    fleet.swept = PLANS[:1]
    found: list[Verdict] = []
    for number in range(first, first + count):

        def points(cell: CampaignCell, number: int = number) -> tuple[float, ...]:
            slow = number >= 9 and (cell.agent_name, cell.model) == ("m1", MODELS[-1])
            return (1.0, 0.8, 0.6 / (1.1 if slow else 1.0)) if cell.plan_hash in fleet.swept else (1.0,)

        found = await fleet.night(number, steady(15, sigma=0.002), points=points)
    return found


async def test_each_point_of_a_sweep_has_its_own_verdict_and_regression(fleet: Fleet) -> None:
    await fleet.enrol(2)
    verdicts = await _swept_nights(fleet, 11)
    # Of each machine and model three points of one plan, and the other plan.
    assert len(verdicts) == 2 * len(MODELS) * 4
    assert words(verdicts) == {"slower": 1, "no_difference_shown": 23}
    (slow,) = (one for one in verdicts if one.verdict == "slower")
    assert (slow.agent_name, slow.model, slow.plan_hash) == ("m1", MODELS[-1], PLANS[0])
    assert (slow.point, slow.point_index) == (LABELS[2], 2)
    slow_at = ("m1", MODELS[-1], LABELS[2])
    assert f" nights at {LABELS[2]}: Decode is " in slow.text
    assert {(one.point, one.point_index) for one in verdicts if one.plan_hash == PLANS[1]} == {(None, 0)}
    (regression,) = await fleet.storage.regressions(RegressionFilter())
    assert (regression.point, regression.since) == (LABELS[2], slow.since)
    # Once acknowledged it is the new level, at that point alone.
    await fleet.storage.acknowledge(regression.id, Acknowledgement(by="eva", at=1.0))
    after = await _swept_nights(fleet, 1, first=12)
    assert words(after) == {"no_difference_shown": 24}
    assert {len(one.baseline) for one in after if one.point != LABELS[2]} == {7}
    (level,) = (one.baseline for one in after if (one.agent_name, one.model, one.point) == slow_at)
    assert len(level) == 3


async def test_what_is_corrected_over_are_all_points_of_all_cells(fleet: Fleet) -> None:
    await fleet.enrol(2)
    swept = await _swept_nights(fleet, 10)
    (slow,) = (one for one in swept if one.verdict == "slower")
    assert slow.p is not None
    # Holm: the smallest of 24 p-values counts 24 times, where cells alone would count it 12 times.
    assert slow.p_adjusted == pytest.approx(24 * slow.p)


async def test_a_matrix_shows_the_point_that_is_asked_for(fleet: Fleet) -> None:
    await fleet.enrol(2)
    await _swept_nights(fleet, 11)
    campaign = fleet.campaigns[-1]
    cells = list(await fleet.storage.campaign_cells(campaign.id))
    first = await fleet.evaluation.matrix(campaign, cells, FigureAsked(), None)
    assert (first.point, [(one.label, one.slower) for one in first.sweep]) == (
        None,
        [(LABELS[0], 0), (LABELS[1], 0), (LABELS[2], 1)],
    )
    assert {one.plans for one in first.sweep} == {(PLANS[0],)}
    assert {one.verdict for one in first.cells} == {"no_difference_shown"}
    last = await fleet.evaluation.matrix(campaign, cells, FigureAsked(point=LABELS[2]), None)
    by_line = [{(one.agent_id, one.model, one.plan_hash): one for one in two.cells} for two in (first, last)]
    for key, one in by_line[0].items():
        other = by_line[1][key]
        if key[2] == PLANS[1]:
            assert (one.value is not None, other.value) == (True, None)
            assert other.reason == "its plan does not measure this point"
            continue
        assert one.value is not None
        assert other.value is not None
        slow = key[:2] == (fleet.agents["m1"], MODELS[-1])
        assert other.value / one.value == pytest.approx(0.6 / (1.1 if slow else 1.0))
        assert other.verdict == ("slower" if slow else "no_difference_shown")
    # A metric that lists do not have is read from the results, at that point too.
    prefill = await fleet.evaluation.matrix(campaign, cells, FigureAsked("prefill_tps", LABELS[1]), None)
    shown = {(one.agent_id, one.model, one.plan_hash): one.value for one in prefill.cells}
    for key, value in shown.items():
        assert (value is None) == (key[2] == PLANS[1])
    with pytest.raises(InvalidParams, match="There is no point '9:9'; there are: 512:128 ctx 4096 x1, 2048"):
        await fleet.evaluation.matrix(campaign, cells, FigureAsked(point="9:9"), None)


async def test_two_campaigns_are_compared_at_a_point_and_corrected_over_all_of_them(fleet: Fleet) -> None:
    await fleet.enrol(2)
    await _swept_nights(fleet, 10)
    old, new = fleet.campaigns[4], fleet.campaigns[9]
    cells, others = [list(await fleet.storage.campaign_cells(one.id)) for one in (new, old)]
    for label, found in ((LABELS[0], {}), (LABELS[2], {(fleet.agents["m1"], MODELS[-1]): "slower"})):
        table = await fleet.evaluation.matrix(new, cells, FigureAsked(point=label), others)
        told = {(one.agent_id, one.model): one.verdict for one in table.cells if one.plan_hash == PLANS[0]}
        assert len(told) == 2 * len(MODELS)
        assert {key: word for key, word in told.items() if word != "no_difference_shown"} == found


async def test_a_history_is_of_a_point(fleet: Fleet) -> None:
    await fleet.enrol(2)
    await _swept_nights(fleet, 14)
    key = LineKey(fleet.agents["m1"], model_key(MODELS[-1]), PLANS[0])
    first = await fleet.evaluation.history(key, FigureAsked())
    assert (first.point, first.sweep, first.change_points) == (LABELS[0], list(LABELS), [])
    last = await fleet.evaluation.history(key, FigureAsked(point=LABELS[2]))
    (mark,) = last.change_points
    assert mark.job_id == last.points[8].job_id
    assert [point.value for point in last.points[:2]] == pytest.approx(
        [0.6 * (point.value or 0.0) for point in first.points[:2]]
    )
    with pytest.raises(InvalidParams, match="There is no point '9:9'"):
        await fleet.evaluation.history(key, FigureAsked(point="9:9"))


async def test_what_was_stored_before_points_were_compared_is_of_the_first(fleet: Fleet) -> None:
    await fleet.enrol(1)
    fleet.swept = PLANS[:1]
    await fleet.night(1, steady(16), points=lambda _: (1.0, 0.8, 0.6))
    campaign = fleet.campaigns[-1]
    earlier = Verdict(
        agent_id=fleet.agents["m1"],
        agent_name="m1",
        model=MODELS[0],
        plan_hash=PLANS[0],
        metric="decode_tps_corrected",
        verdict="slower",
        text="Slower.",
    )
    # As the release before wrote it.
    text = msgspec.json.encode(earlier).replace(b',"point":null,"point_index":0', b"")
    assert b"point" not in text
    assert msgspec.json.decode(text, type=Verdict) == earlier
    await fleet.storage.save_verdicts(campaign.id, 10.0, [earlier])
    cells = list(await fleet.storage.campaign_cells(campaign.id))
    for label, word in ((LABELS[0], "slower"), (LABELS[1], None)):
        table = await fleet.evaluation.matrix(campaign, cells, FigureAsked(point=label), None)
        (cell,) = (one for one in table.cells if (one.model, one.plan_hash) == (MODELS[0], PLANS[0]))
        assert cell.verdict == word
    # The same regression again, now that points have names.
    named = msgspec.structs.replace(earlier, point=LABELS[0], since=None)
    other = msgspec.structs.replace(earlier, point=LABELS[1], point_index=1)
    await fleet.storage.save_verdicts(campaign.id, 20.0, [named, other])
    found = await fleet.storage.regressions(RegressionFilter())
    assert sorted((one.point or "", one.at, one.last_at) for one in found) == [
        (LABELS[1], 20.0, 20.0),
        (LABELS[0], 10.0, 20.0),
    ]


async def test_verdicts_are_stored_small_and_those_of_the_release_before_are_read(fleet: Fleet) -> None:
    await fleet.enrol(2)
    verdicts = await _swept_nights(fleet, 9)
    campaign = fleet.campaigns[-1].id

    def content(db: Session) -> bytes:
        row = db.get(VerdictsRow, campaign)
        assert row is not None
        return row.content

    plain = msgspec.json.encode(verdicts)
    assert len(await fleet.database.run(content)) < len(plain) / 4

    def as_before(db: Session) -> None:
        db.merge(VerdictsRow(campaign_id=campaign, content=plain))

    await fleet.database.run(as_before)
    assert list(await fleet.storage.verdicts(campaign)) == verdicts


def test_points_that_are_called_alike_get_names_of_their_own() -> None:
    text = {"prompt": "one", "completion_tokens": 8}
    twice = {"prompts": [text, text | {"prompt": "two"}], "sweep": {"concurrency": [1, 2]}}
    found = sweep.of_plan(twice)
    assert [point.label for point in found] == [
        "text:8 ctx 4096 x1",
        "text:8 ctx 4096 x2",
        "text:8 ctx 4096 x1 (2)",
        "text:8 ctx 4096 x2 (2)",
    ]
    assert [point.place for point in found] == [0, 1, 2, 3]
    assert sweep.of_plan({}) == ()
    # A prompt of a newer agent: what the result has first is shown, as before.
    assert (
        sweep.of_plan({"prompts": [{"prompt_name": "of tomorrow"}], "sweep": {"concurrency": [1, 2]}}) == ()
    )


def test_a_campaign_of_many_cells_is_compared_at_as_many_points_as_fit() -> None:
    sweeps = {"h": sweep.of_plan(SWEEP), "i": ()}
    assert sweep.each(sweeps, 100) == [{"h": 0, "i": None}, {"h": 1}, {"h": 2}]
    assert sweep.each(sweeps, sweep.MOST_LINES // 2) == [{"h": 0, "i": None}, {"h": 1}]
    assert sweep.each(sweeps, 2 * sweep.MOST_LINES) == [{"h": 0, "i": None}]


def test_pairs_of_every_point_count_in_the_correction_of_two_campaigns() -> None:
    def shown(chosen: int) -> Shown:
        return Shown("decode_tps_corrected", None, {"h": sweep.of_plan(SWEEP)}, {"h": chosen})

    nights = [Night(level) for level in (0.0, 0.004, -0.003, 0.002, -0.004)]
    key = LineKey("a", "m", "h")
    pairs = [Pair(key, place, Night(-0.01 * place), Night(0.0), nights) for place in range(3)]
    lines = [NightLine(one.night, [one.other], nights, (), (), ()) for one in pairs]
    for place, together in enumerate(compare_two(lines)):
        found = compare_campaigns(pairs, shown(place))
        assert found == {key: RatioShown(together.ratio, together.low, together.high, together.direction)}
    assert compare_campaigns(pairs[:1], shown(1)) == {}
