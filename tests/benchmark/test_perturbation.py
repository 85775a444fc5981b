"""How many pairs show what sampling costs, and what is said when none would."""

from __future__ import annotations

import pytest

from benchmarks.perturbation import Block, Pair, effect_of, pairs_needed
from obt_agent.benchmark import statistics


def pairs(*differences: float, by_cpu: float | None = None) -> list[Pair]:
    """Pairs whose wall speeds differ by so much, and whose speeds by CPU time by ``by_cpu`` in turns."""
    return [
        Pair(
            Block(100.0 * (1 + difference), None if by_cpu is None else 50.0 * (1 + (-1) ** n * by_cpu)),
            Block(100.0, None if by_cpu is None else 50.0),
        )
        for n, difference in enumerate(differences)
    ]


def test_more_spread_takes_more_pairs_and_the_better_clock_decides() -> None:
    quiet = pairs(0.001, -0.001) * 4
    noisy = pairs(0.07, -0.07) * 4
    assert pairs_needed(quiet) <= len(quiet)
    assert pairs_needed(noisy) > 1000
    # Four times the spread, sixteen times the pairs.
    assert pairs_needed(pairs(0.28, -0.28) * 4) == pytest.approx(16 * pairs_needed(noisy), rel=0.2)
    assert pairs_needed(pairs(0.07, -0.07, by_cpu=0.001) * 4) < 100


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((0.0005, -0.0015), "shown"),
        ((-0.02, -0.021), "more is lost"),
        ((0.02, 0.021), "makes nothing faster"),
        ((0.07, -0.07), "about 999 pairs would show it"),
        ((0.0,), "not shown"),
    ],
)
def test_the_interval_decides_and_not_the_difference(differences: tuple[float, ...], verdict: str) -> None:
    found = pairs(*differences * (4 if len(differences) > 1 else 1))
    effect = statistics.ratio_paired(
        [one.on.per_second for one in found], [one.off.per_second for one in found]
    )
    assert verdict in effect_of(effect, 999)[2]
