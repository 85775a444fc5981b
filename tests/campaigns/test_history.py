"""Nights of a line, and what changed between two of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from obt_server.campaign_storage import CampaignCell
from obt_server.campaigns import history, matrix
from obt_server.campaigns.history import NightResults
from obt_server.result_index import IndexedResult, digest_of
from obt_server.storage import StoredBenchmark
from tests.campaigns.stored_nights import result

CAMPAIGN = "01975bfc-3c8e-7000-8000-000000000000"
CELL = CampaignCell(id="c1", agent_id="a", agent_name="m1", model="tiny:latest", plan_hash="h")


def indexed(job_id: str = "job", at: float = 1.0, **more: Any) -> IndexedResult:
    text = result(CELL, more.pop("speed", 50.0), **more)
    digest = digest_of(text)
    assert digest is not None
    stored = StoredBenchmark(
        agent_id="a",
        job_id=job_id,
        sha256=job_id,
        created_at=at,
        finished_at=at,
        model="tiny:latest",
        model_digest=None,
        requested=True,
    )
    return IndexedResult(stored=stored, digest=digest)


def test_repeats_of_a_campaign_are_one_night_and_runs_by_hand_one_each() -> None:
    found = [
        indexed(f"{CAMPAIGN}.c1.1", 1.0),
        indexed(f"{CAMPAIGN}.c2.1", 2.0),
        indexed("by hand", 3.0),
        indexed("by.hand.2", 4.0),
        indexed("broken", 5.0, status="failed"),
        indexed(f"{CAMPAIGN}.c1.2", 6.0),
    ]
    (nights,) = history.by_line(reversed(found)).values()
    assert [(night.campaign_id, len(night.results)) for night in nights] == [
        (CAMPAIGN, 2),
        (None, 1),
        (None, 1),
    ]
    # The second attempt in place of the first.
    assert {one.stored.job_id for one in nights[0].results} == {f"{CAMPAIGN}.c1.2", f"{CAMPAIGN}.c2.1"}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"power_limit_watts": 300.0}, {"power_limit_watts": 250.0}, ("power limit (W)", "300", "250")),
        ({"kernel": "6.1"}, {"kernel": "6.12"}, ("kernel", "6.1", "6.12")),
        (
            {"other_models_loaded": []},
            {"other_models_loaded": ["big:70b"]},
            ("other models loaded", "none", "big:70b"),
        ),
        (
            {"gpu_temperature": 41.0},
            {"gpu_temperature": 63.0},
            ("GPU temperature before the run (°C)", "41", "63"),
        ),
        ({"idle_cpu_percent": 2.0}, {"idle_cpu_percent": 55.0}, ("other load of the CPU (%)", "2", "55")),
    ],
)
def test_what_changed_is_said_with_both_values(
    before: dict[str, Any], after: dict[str, Any], said: tuple[str, str, str]
) -> None:
    found = history.changes(indexed(environment=before), indexed(environment=after))
    assert [(one.what, one.before, one.after) for one in found] == [said]


def test_what_varies_anyway_or_is_not_known_is_no_change() -> None:
    usual = indexed(environment={"gpu_temperature": 41.0, "idle_cpu_percent": 2.0, "driver": None})
    tonight = indexed(environment={"gpu_temperature": 47.0, "idle_cpu_percent": 9.0})
    assert history.changes(usual, tonight) == []


def test_held_back_by_heat_is_a_change() -> None:
    (found,) = history.changes(indexed(), indexed(flags=["throttled_thermal"]))
    assert (found.what, found.before, found.after) == ("held back by heat", "no", "yes")


def test_a_night_is_the_median_of_its_repeats() -> None:
    night = NightResults(None, tuple(indexed(speed=speed) for speed in (50.0, 51.0, 20.0)))
    summaries = [history.figure(one.digest, "decode_tps_corrected", None) for one in night.results]
    found = history.night_of([one for one in summaries if one is not None])
    assert found is not None
    assert round(2.718281828**found.log, 3) == 50.0


def test_a_matrix_says_of_a_missing_cell_why_and_shows_repeats_as_one() -> None:
    cells = [
        msgspec.structs.replace(CELL, id="c1", state="done", job_id="j1"),
        msgspec.structs.replace(CELL, id="c2", state="done", job_id="j2", flags=("queued",)),
        msgspec.structs.replace(
            CELL, id="c3", agent_id="b", state="skipped", reason="The machine is offline."
        ),
    ]
    found = {}
    for job, speed in (("j1", 49.0), ("j2", 51.0)):
        summary = history.figure(indexed(speed=speed).digest, "decode_tps_corrected", None)
        assert summary is not None
        found[job] = summary
    one, missing = matrix.cells_by_line(cells, found, {}, {cell.plan_hash: None for cell in cells})
    assert (one.n, one.value, one.flags) == (2, 50.0, ("queued",))
    assert one.low is not None
    assert one.high is not None
    assert one.low < 49
    assert one.high > 51
    assert (missing.state, missing.reason, missing.value) == ("skipped", "The machine is offline.", None)
