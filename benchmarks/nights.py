"""What verdicts on nightly campaigns are worth: ``python -m benchmarks nights``.

Simulated nights of 60 cells (10 machines, 3 models, 2 plans) go through the same code that judges a
campaign. First nights on which nothing changed: how many campaigns of a thousand raise any alarm. Then one
machine that is 5 % slower from some night on: in how many of its cells that is seen by the first such
night, the second, and so on. With ``--points`` each plan sweeps, and what holds of cells holds of their
points: those of one run share most of its deviation.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from benchmarks.table import Column, print_table
from obt_server.campaigns.comparison import HISTORY, LAST_NIGHTS, LineOutcome, Night, NightLine, compare

MACHINES: Final = 10
CELLS: Final = 6
"""Of a machine: three models by two plans."""
ITERATIONS: Final = 5
WITHIN: Final = 0.01
"""How far the iterations of one run lie apart, relative to their mean."""
SLOWDOWN: Final = 1.05
SHARED: Final = 0.25
"""Of a night's variance, what all cells of a machine share: the room's temperature, an update."""

TOGETHER: Final = 0.75
"""Of a cell's own variance, what the points of its sweep share: they are measured in one run."""

Shape = Callable[[random.Random], float]


def normal(rng: random.Random) -> float:
    """A night as far from the mean as nights usually lie."""
    return rng.gauss(0.0, 1.0)


def heavy(rng: random.Random) -> float:
    """Student's t with three degrees of freedom, of variance 1: one night in 70 lies beyond three sigma."""
    return rng.gauss(0.0, 1.0) / math.sqrt(rng.gammavariate(1.5, 2.0) / 3.0) / math.sqrt(3.0)


@dataclass(frozen=True)
class Noise:
    """How nights lie apart. ``persistence``: the correlation of a night with the one before it.

    ``sigma`` is relative; with ``spread`` each cell has its own, log-normal around it. ``disturbed`` is the
    share of nights on which a machine is 5 to 15 % slower in all cells, and well again on the next.
    """

    name: str
    sigma: float
    shape: Shape = normal
    spread: float = 0.0
    persistence: float = 0.0
    disturbed: float = 0.0


NOISES: Final = (
    Noise("0.3 %", 0.003),
    Noise("0.5 %", 0.005),
    Noise("1 %", 0.01),
    Noise("2 %", 0.02),
    Noise("cells from 0.3 to 3 %", 0.01, spread=0.6),
    Noise("1 %, heavy tails (t, 3 df)", 0.01, heavy),
    Noise("0.5 %, 1 night in 50 goes wrong", 0.005, disturbed=0.02),
    Noise("1 %, drifting (correlation 0.5)", 0.01, persistence=0.5),
)


def series(rng: random.Random, noise: Noise, nights: int, points: int = 1) -> list[list[Night]]:
    """The nights of all points of all cells, machine by machine, oldest first."""
    found = []
    for _ in range(MACHINES):
        shared = _walk(rng, noise, nights)
        wrong = [rng.uniform(0.05, 0.15) if rng.random() < noise.disturbed else 0.0 for _ in range(nights)]
        for _ in range(CELLS):
            sigma = noise.sigma * math.exp(noise.spread * rng.gauss(0.0, 1.0))
            run = _walk(rng, noise, nights)
            for _ in range(points):
                own = run if points == 1 else _together(run, _walk(rng, noise, nights))
                found.append(
                    [
                        _night(rng, sigma * (math.sqrt(SHARED) * a + math.sqrt(1 - SHARED) * b) - c)
                        for a, b, c in zip(shared, own, wrong, strict=True)
                    ]
                )
    return found


def _together(run: Sequence[float], point: Sequence[float]) -> list[float]:
    """A point's deviations, of variance 1: the run's, and its own."""
    return [math.sqrt(TOGETHER) * a + math.sqrt(1 - TOGETHER) * b for a, b in zip(run, point, strict=True)]


def _walk(rng: random.Random, noise: Noise, nights: int) -> list[float]:
    """Deviations of variance 1, each leaning on the one before."""
    found = [noise.shape(rng)]
    fresh = math.sqrt(1 - noise.persistence**2)
    while len(found) < nights:
        found.append(noise.persistence * found[-1] + fresh * noise.shape(rng))
    return found


def _night(rng: random.Random, deviation: float) -> Night:
    # The run's own variance is what its iterations say, and that is uncertain too.
    within = WITHIN**2 / ITERATIONS
    said = within * rng.gammavariate((ITERATIONS - 1) / 2, 2.0) / (ITERATIONS - 1)
    return Night(deviation + rng.gauss(0.0, math.sqrt(within)), said)


def line(nights: Sequence[Night], last: int) -> NightLine:
    """The line of the last night with a rolling baseline of ``last`` nights."""
    earlier = nights[:-1]
    window = earlier[-HISTORY * last :]
    newest = earlier[-last:]
    return NightLine(nights[-1], newest, newest, earlier[:-1][-last:], window, window, recent=last)


def false_alarms(
    noise: Noise, campaigns: int, last: int = LAST_NIGHTS, seed: int = 1, points: int = 1
) -> int:
    """In how many campaigns without any change a cell is called slower or faster."""
    rng = random.Random(f"{seed} {noise.name} {last}")
    return sum(
        any(
            one.direction != "no_difference_shown"
            for one in _outcomes(series(rng, noise, 3 * last + 1, points), last)
        )
        for _ in range(campaigns)
    )


def seen_after(
    noise: Noise, campaigns: int, last: int, most: int, seed: int = 1, points: int = 1
) -> list[float]:
    """The share of a slow machine's lines that were called slower by the first night, the second, ..."""
    slow = CELLS * points
    rng = random.Random(f"{seed} {noise.name} {last}")
    seen = [0] * most
    for _ in range(campaigns):
        lines = series(rng, noise, 2 * last + most, points)
        start = len(lines[0]) - most
        for nights in lines[:slow]:
            nights[start:] = [Night(one.log - math.log(SLOWDOWN), one.within) for one in nights[start:]]
        found = [math.inf] * slow
        for after in range(most):
            outcomes = _outcomes([nights[: start + after + 1] for nights in lines], last)
            for cell, one in enumerate(outcomes[:slow]):
                if one.direction == "slower":
                    found[cell] = min(found[cell], after)
        for after in range(most):
            seen[after] += sum(one <= after for one in found)
    return [count / (campaigns * slow) for count in seen]


def _outcomes(lines: Sequence[Sequence[Night]], last: int) -> list[LineOutcome]:
    return compare([line(nights, last) for nights in lines])


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    z = NormalDist().inv_cdf(0.975)
    share, denominator = count / of, 1 + z * z / of
    centre = (share + z * z / (2 * of)) / denominator
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / denominator
    return max(0.0, centre - half), min(1.0, centre + half)


def _alarm_rows(campaigns: int, points: int) -> Iterator[tuple[object, ...]]:
    for noise in NOISES:
        count = false_alarms(noise, campaigns, points=points)
        low, high = wilson(count, campaigns)
        yield noise.name, count, f"{count / campaigns:.1%}", f"{low:.2%} to {high:.2%}"


def _power_rows(campaigns: int, nights: Sequence[int], points: int) -> Iterator[tuple[object, ...]]:
    for noise in NOISES:
        for last in (5, LAST_NIGHTS, 10):
            shares = seen_after(noise, campaigns, last, max(nights), points=points)
            yield noise.name, last, *(f"{shares[night - 1]:.0%}" for night in nights)


def main(argv: list[str]) -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nights", description=__doc__)
    parser.add_argument("--campaigns", type=int, default=1000, help="of each kind of noise, without change")
    parser.add_argument("--slow", type=int, default=50, help="of each kind of noise, with a slower machine")
    parser.add_argument("--points", type=int, default=1, help="of each plan's sweep")
    arguments = parser.parse_args(argv)
    lines = CELLS * arguments.points
    print_table(
        f"Campaigns of {MACHINES * lines} lines without change, of {arguments.campaigns}",
        [Column("Nights lie apart by"), Column("with an alarm"), Column("share"), Column("95 % interval")],
        list(_alarm_rows(arguments.campaigns, arguments.points)),
    )
    nights = (1, 2, 3, 5, 7)
    print_table(
        f"A machine that is 5 % slower: share of its lines that are called slower by its nth slow night "
        f"({arguments.slow * lines} lines each)",
        [Column("Nights lie apart by"), Column("baseline"), *(Column(f"night {one}") for one in nights)],
        list(_power_rows(arguments.slow, nights, arguments.points)),
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
