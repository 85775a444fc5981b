"""The points of a plan's sweep: combinations of prompt, context and concurrency that it measures. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from obt_agent.benchmark.expansion import expand
from obt_agent.errors import AgentError, InvalidParams
from obt_server.campaign_storage import Campaign
from obt_server.result_index import MOST, DigestCell
from obt_server.saved_plans import read_plan

MOST_LINES: Final = 20_000
"""Of one campaign that are compared: machines by models, plans and points. Points beyond are shown alone."""


class SweepPoint(NamedTuple):
    """A point by its place in the order in which the plan measures, from 0, and as people call it."""

    place: int
    label: str


Sweep = tuple[SweepPoint, ...]
"""The points of a plan; none where it measures one combination alone."""
Chosen = Mapping[str, int | None]
"""Which point of each plan is shown, by the plan's hash: null of a plan that has one alone.

Plans without such a point are not in it.
"""


def sweeps_of(campaign: Campaign) -> dict[str, Sweep]:
    """Return the points of each plan of a campaign, by its hash."""
    return {plan.hash: of_plan(plan.plan) for plan in campaign.plans}


def of_plan(fields: Mapping[str, object]) -> Sweep:
    """Return the points of a plan, by its fields without the model."""
    try:
        cells = expand(read_plan({**fields, "model_name": "any"}))
    # A prompt that newer agents know: what the result has first is shown.
    except AgentError:
        return ()
    return _named((cell.index, cell.label) for cell in cells[:MOST])


def of_result(cells: Sequence[DigestCell]) -> Sweep:
    """Return the points that a result has."""
    return _named((cell.index, cell.label) for cell in cells[:MOST])


def _named(points: Iterable[tuple[int, str]]) -> Sweep:
    """Points whose labels differ: prompts of one length, or texts, are called alike."""
    seen: Counter[str] = Counter()
    found = []
    for index, label in points:
        seen[label] += 1
        found.append(SweepPoint(index, label if seen[label] == 1 else f"{label} ({seen[label]})"))
    return tuple(found) if len(found) > 1 else ()


def choose(sweeps: Mapping[str, Sweep], label: str | None) -> dict[str, int | None]:
    """Return which point of each plan a label means; without one each plan's first.

    Raises:
        InvalidParams: no plan has such a point.
    """
    if label is None:
        return {hashed: sweep[0].place if sweep else None for hashed, sweep in sweeps.items()}
    found: dict[str, int | None] = {
        hashed: point.place for hashed, sweep in sweeps.items() for point in sweep if point.label == label
    }
    if not found:
        known = ", ".join(labels(sweeps)) or "none"
        raise InvalidParams(f"There is no point {label[:64]!r}; there are: {known[:500]}.", field="point")
    return found


def labels(sweeps: Mapping[str, Sweep]) -> list[str]:
    """Return the labels of all points, each once, in their order."""
    return list(dict.fromkeys(point.label for sweep in sweeps.values() for point in sweep))


def each(sweeps: Mapping[str, Sweep], lines: int) -> list[dict[str, int | None]]:
    """Return one choice after the other, so that together they have every point of every plan once.

    Args:
        sweeps: the points by plan.
        lines: how many machines, models and plans there are, each with so many points.
    """
    most = max(1, MOST_LINES // max(1, lines))
    count = min(most, max((len(sweep) for sweep in sweeps.values()), default=1) or 1)
    return [
        {
            hashed: sweep[place].place if sweep else None
            for hashed, sweep in sweeps.items()
            if place < max(1, len(sweep))
        }
        for place in range(count)
    ]


def point_of(sweep: Sweep, place: int | None) -> SweepPoint | None:
    """Return the point at that place; none of a plan that measures one combination alone."""
    return next((point for point in sweep if point.place == place), None)
