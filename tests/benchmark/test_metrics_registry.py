"""One table of metrics, from which everything that names them follows."""

import msgspec

from obt_agent.benchmark.metrics_registry import BY_NAME, METRICS
from obt_agent.benchmark.result import IterationMetrics, RequestTimings
from tests.benchmark.results import iteration, result

OTHER_NAMES = {"latency_ms"}
"""Figures that are another one under OBT's second name for it."""


def test_each_metric_is_a_field_of_an_iteration_and_stands_once() -> None:
    assert len(BY_NAME) == len(METRICS)
    assert set(BY_NAME) <= set(IterationMetrics.__struct_fields__)


def test_each_number_of_a_request_has_a_row() -> None:
    numbers = {
        field.name
        for field in msgspec.structs.fields(RequestTimings)
        if field.type in (float | None, int | None, int)
    }
    assert numbers - set(BY_NAME) == OTHER_NAMES


def test_what_is_combined_is_a_field_of_each_request() -> None:
    combined = {one.name for one in METRICS if one.aggregation in {"mean", "sum"}}
    assert combined <= set(RequestTimings.__struct_fields__)


def test_what_is_compared_or_has_percentiles_has_a_summary() -> None:
    for one in METRICS:
        assert one.summarised or not (one.compared or one.percentiles or one.headline)


def test_a_summary_has_what_the_registry_names_and_an_iteration_has() -> None:
    cell = result(iteration(0), iteration(1)).cells[0]
    there = {one.name for one in METRICS if one.summarised and getattr(iteration(), one.name) is not None}
    assert set(cell.summary) == there
    assert set(cell.percentiles) == {one.name for one in METRICS if one.percentiles} & there
