"""Slopes of known series, and the soak for some seconds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.soak.__main__ import BOUNDS, report, soak
from tests.soak.slopes import slope

TIMES = [5.0 * n for n in range(360)]


def steps(seed: int, growth_per_h: float) -> list[float]:
    """Memory as it moves: a step every two minutes that lasts, some noise, and growth."""
    chance = random.Random(seed)
    level, values = 0.0, []
    for n, at in enumerate(TIMES):
        if n % 24 == 0:
            level = chance.gauss(0, 0.5)
        values.append(80 + level + chance.gauss(0, 0.05) + growth_per_h * at / 3600)
    return values


def test_of_series_that_only_step_few_are_said_to_grow() -> None:
    found = [slope(TIMES, steps(seed, 0.0)) for seed in range(40)]
    assert sum(one.above(0.0) for one in found) <= 4
    assert all(one.low <= one.per_h <= one.high for one in found)


def test_growth_above_its_bound_is_found_and_measured() -> None:
    found = [slope(TIMES, steps(seed, 8.0)) for seed in range(20)]
    assert all(one.above(1.0) for one in found)
    assert all(5.0 < one.per_h < 11.0 for one in found)
    assert found[0].change == pytest.approx(found[0].per_h * TIMES[-1] / 3600)


def test_a_constant_has_no_slope_and_too_few_points_have_none_to_tell() -> None:
    assert slope(TIMES, [7.0] * len(TIMES)).zero
    with pytest.raises(ValueError, match="too few"):
        slope(TIMES[:5], [1.0] * 5)


@pytest.mark.slow
async def test_a_soak_of_some_seconds_does_everything_and_reports_every_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watched, done = await soak(tmp_path, 100.0)
    report(watched, done, 100.0)
    assert {"job", "generation", "list_models", "GET /agents", "sync", "cut link"} <= set(done)
    table = capsys.readouterr().out
    assert all(f"| {process.name} | {name} |" in table for process in watched for name in BOUNDS)
