"""Results as tables, Markdown and CSV."""

import csv
import io
import re

import msgspec
import pytest

from obt_agent.benchmark.plan import Sweep
from obt_agent.benchmark.result import BenchmarkResult, ColdLoad, SamplerReport
from obt_agent.cli import bench_report
from obt_agent.errors import OllamaUnavailable
from tests.benchmark.results import iteration, result, speeds
from tests.benchmark.runs import plan

SHAPE = ("--shape", "24:8", "--warmup", "1")


def test_csv_has_a_line_for_each_iteration() -> None:
    rows = list(csv.DictReader(io.StringIO(bench_report.as_csv([speeds(100, 101)]))))
    assert [row["decode_tps_corrected"] for row in rows] == ["100", "101"]
    assert rows[0]["model"] == "standin-small"
    assert rows[0]["energy_joules"] == ""


def test_markdown_has_figures_then_warnings_with_what_to_do() -> None:
    text = bench_report.as_markdown(result(iteration(0, flags=("queued",)), iteration(1)))
    assert text.index("| Decode (tok/s) |") < text.index(
        "**requests waited for a slot (iteration 0)**: lower"
    )


def test_what_sampling_costs_is_shown_when_it_was_asked_for() -> None:
    of = plan(alternate_sampling=True)
    sampler = SamplerReport(interval_ms=500, samples=9, missed=0)

    def footer(*speeds_of: tuple[float, bool]) -> str:
        turns = [iteration(n, speed, sampled=sampled) for n, (speed, sampled) in enumerate(speeds_of)]
        return "\n".join(bench_report.footing(result(*turns, of=of, records={"sampler": sampler})))

    four = footer((99.0, True), (100.0, False), (100.0, False), (98.0, True))
    assert "decode speed with sampling -1.50 % (95 % interval" in four.replace("%", " %").replace("  ", " ")
    assert "2 pairs" in four
    assert "1 pair, too few for an interval" in footer((99.0, True), (100.0, False))
    assert "ask for more iterations" in footer((99.0, True))


def test_counts_have_no_decimals_and_no_interval_leaves_what_is_possible() -> None:
    cpu = [iteration(n, cpu_usage_percent=value) for n, value in enumerate((1.0, 2.0, 60.0))]
    shown = {row[0]: row[1:3] for row in bench_report.rows(result(*cpu), result(*cpu).cells[0])}
    assert shown["Answer (tokens)"] == ("12", "12 – 12")
    low, high = shown["CPU of the machine (%)"][1].split(" – ")
    assert float(low) > 0
    assert float(high) == 100


def test_the_mean_is_named_where_the_median_lies_outside_its_interval() -> None:
    skewed = [iteration(n, first_token_ms=value) for n, value in enumerate([50.0] * 8 + [90.0] * 7)]
    shown = {row[0]: row[1:3] for row in bench_report.rows(result(*skewed), result(*skewed).cells[0])}
    median, interval = shown["Time to first token (ms)"]
    assert median == "50.00"
    assert interval.endswith("(mean 68.67)")
    assert "mean" not in shown["Decode (tok/s)"][1]


def test_one_warning_of_several_cells_is_shown_once_with_its_cells() -> None:
    of = plan(sweep=Sweep(concurrency=(1, 2)))
    flagged = [iteration(n, cell=n // 3, flags=("queued",)) for n in range(6)]
    shown = [message for message, _ in bench_report.warnings(result(*flagged, of=of))]
    where = "(40:12 ctx 4096 x1, iterations 0, 1, 2; 40:12 ctx 4096 x2, iterations 3, 4, 5)"
    assert shown == [f"requests waited for a slot {where}"]


def test_a_sweep_that_is_too_wide_shows_medians_alone() -> None:
    metrics = [iteration(n, 100.0 + n, cell=n // 2) for n in range(4)]
    swept = result(*metrics, of=plan(sweep=Sweep(concurrency=(1, 2))))
    cells = [(one.label, one) for one in swept.cells]
    wide, narrow = (
        [cell for column in bench_report._headline_table("", cells, width).columns for cell in column.cells]  # noqa: SLF001 - the table by width
        for width in (200, 60)
    )
    assert any("±" in str(cell) for cell in wide)
    assert not any("±" in str(cell) for cell in narrow)


def test_in_tables_of_many_cells_too_the_interval_stands_beside_what_it_is_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    skewed = [50.0] * 8 + [90.0] * 7
    metrics = [
        iteration(n + 15 * cell, first_token_ms=value, cell=cell)
        for cell in (0, 1)
        for n, value in enumerate(skewed)
    ]
    several = result(*metrics, of=plan(sweep=Sweep(prompt_tokens=(40, 80))))
    text = io.StringIO()
    bench_report.show([several], None, text)
    assert text.getvalue().count("50.00\u00a0(mean\u00a068.67\u00a0±") == 2


def test_several_models_stand_in_one_table_with_their_names_whole() -> None:
    long = "hf.co/somebody/a-model-with-a-long-name-GGUF:Q4_K_M"
    each = []
    for name, speed in (("small:1b", 100.0), (long, 20.0)):
        one = result(*(iteration(n, speed + n) for n in range(3)))
        about = msgspec.structs.replace(one.environment, model=name)
        each.append(msgspec.structs.replace(one, environment=about))
    text = io.StringIO()
    bench_report.show(each, None, text)
    table = text.getvalue().partition("All models")[2]
    assert re.search(r"small:1b +101\.0\s", table), table
    assert re.search(rf"{re.escape(long)} +21\.00\s", table), table
    assert "All models" not in shown_alone(each[0])


def shown_alone(one: BenchmarkResult) -> str:
    text = io.StringIO()
    bench_report.show([one], None, text)
    return text.getvalue()


def test_of_concurrent_requests_the_tokens_of_each_are_shown_beside_the_sum() -> None:
    swept = plan(sweep=Sweep(concurrency=(2,)))
    both = [iteration(n, prompt_tokens=80, completion_tokens=24) for n in range(3)]
    whole = result(*both, of=swept)
    shown = {row[0]: row[1] for row in bench_report.rows(whole, whole.cells[0])}
    assert shown["Prompt of each request (tokens)"] == "40"
    assert shown["Prompt of all requests (tokens)"] == "80"
    assert shown["Answer of each request (tokens)"] == "12"


def test_a_failed_run_says_how_many_iterations_are_kept() -> None:
    error = OllamaUnavailable("gone")
    some = bench_report.warnings(result(iteration(), status="failed", error=error))
    none = bench_report.warnings(result(status="failed", error=error))
    assert ("gone", "1 iterations measured before are kept") in some
    assert none == [("gone", "nothing was measured")]


def test_a_sweep_is_a_line_for_each_cell() -> None:
    text = io.StringIO()
    swept = plan(sweep=Sweep(prompt_tokens=(64, 128), concurrency=(1, 2)))
    metrics = [iteration(n, 100.0 + n, cell=n // 2, queue_ms_max=5.0, output_tps_total=9.0) for n in range(8)]
    bench_report.show([result(*metrics, of=swept, records={"cold_load": ColdLoad(wall_ms=12.0)})], None, text)
    shown = text.getvalue()
    assert "cold load 12.00 ms" in shown
    assert shown.count(" iterations (") == 4


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12345.6, "12 346"), (123.45, "123.5"), (1.234, "1.23"), (0.01234, "0.0123"), (-5.0, "-5.00")],
)
def test_numbers_are_short_and_have_no_exponent(value: float, shown: str) -> None:
    assert bench_report.number(value) == shown
