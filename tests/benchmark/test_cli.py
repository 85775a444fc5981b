"""``obt-agent bench``: options make a plan, results come in four forms, Ctrl-C keeps them."""

import argparse
import asyncio
import csv
import io
import random
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from obt_agent.benchmark.lock import BenchmarkLock
from obt_agent.benchmark.pairs import merged, single, turns
from obt_agent.benchmark.plan import Plan, PromptConfig
from obt_agent.benchmark.presets import preset, shape
from obt_agent.benchmark.result import BenchmarkResult, ColdLoad, SamplerReport
from obt_agent.cli import bench, bench_report
from obt_agent.errors import InvalidParams, OllamaUnavailable
from obt_standin import StandIn
from tests.benchmark.results import iteration, result, speeds
from tests.benchmark.runs import generations, plan

SHAPE = ("--shape", "24:8", "--warmup", "1")


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.register(parser.add_subparsers())
    return parser.parse_args(["bench", "m", *words])


def planned(*words: str) -> Plan:
    return bench.plan_of(parsed(*words), "m")


async def command(
    standin: StandIn, folder: Path, *words: str, interrupt: bool = False
) -> tuple[int | None, str, str]:
    """Run the command in a process of its own: status, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from obt_agent.cli import main; raise SystemExit(main())",
        "bench",
        *words,
        "--ollama-url",
        standin.url,
        "--set",
        f"benchmark.lock_dir={folder / 'locks'}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
    )
    if interrupt:
        await standin.wait_for(lambda ollama: len(generations(ollama)) == 3)
        process.send_signal(signal.SIGINT)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def test_without_options_the_plan_is_the_quick_preset() -> None:
    assert planned() == preset("quick", "m")
    assert planned("--preset", "thorough") == preset("thorough", "m")


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["--iterations", "7"], {"num_iterations": 7, "max_iterations": 7}),
        (["--iterations", "7", "--max-iterations", "9"], {"num_iterations": 7, "max_iterations": 9}),
        (["--num-ctx", "2048"], {"num_ctx": 2048}),
        (["--think", "on"], {"think": True}),
        (["--think", "off"], {"think": False}),
        (["--think", "low"], {"think": "low"}),
        (["--cache", "pair"], {"cache_mode": "pair"}),
        (["--cold-load"], {"cold_load": True}),
        (["--preset", "standard", "--no-cold-load"], {"cold_load": False}),
        (["--raw"], {"raw": True}),
        (["--cpu"], {"num_gpu": 0}),
        (["--sampler-effect"], {"alternate_sampling": True}),
        (
            ["--prompt", "Say.", "--completion-tokens", "9"],
            {"prompts": (PromptConfig(prompt="Say.", completion_tokens=9),)},
        ),
        (["--prompt-name", "code"], {"prompts": (PromptConfig(prompt_name="code"),)}),
        (["--shape", "16:8,32:9"], {"prompts": (shape("16:8"), shape("32:9"))}),
        (["--completion-tokens", "9"], {"prompts": (shape("512:9"),)}),
        (
            ["--preset", "thorough", "--prompt-tokens", "64"],
            {"prompts": (shape("16:1536"), shape("512:128"), shape("4096:256"))},
        ),
    ],
)
def test_options_become_fields_of_the_plan(words: list[str], fields: dict[str, Any]) -> None:
    found = planned(*words)
    assert {name: getattr(found, name) for name in fields} == fields


def test_lists_become_a_sweep() -> None:
    found = planned("--prompt-tokens", "512,4096", "--num-ctx", "8192,16384", "--concurrency", "1,2,4")
    assert found.sweep.prompt_tokens == (512, 4096)
    assert found.sweep.num_ctx == (8192, 16384)
    assert found.sweep.concurrency == (1, 2, 4)
    assert found.num_ctx is None


@pytest.mark.parametrize(
    "words",
    [
        ["--iterations", "0"],
        ["--temperature", "3"],
        ["--prompt", "x", "--prompt-tokens", "5"],
        ["--prompt", "x", "--prompt-name", "code"],
        ["--prompt-name", "absent"],
        ["--num-ctx", "64"],
        ["--concurrency", "0"],
    ],
)
def test_options_that_make_no_benchmark_are_refused(words: list[str]) -> None:
    with pytest.raises(InvalidParams):
        planned(*words)


async def test_json_goes_to_standard_output_and_nothing_else_does(standin: StandIn, tmp_path: Path) -> None:
    code, out, _ = await command(standin, tmp_path, "standin-small", *SHAPE, "--json")
    assert code == 0
    found = msgspec.json.decode(out, type=BenchmarkResult)
    assert (found.status, len(found.metrics)) == ("completed", 3)


async def test_a_table_for_people_and_a_comparison_with_before(standin: StandIn, tmp_path: Path) -> None:
    standin.script.decode_tps = 500
    code, out, err = await command(standin, tmp_path, "standin-small", *SHAPE, "--output", "a.json")
    assert (code, out) == (0, "")
    assert "Written to a.json." in err
    code, out, err = await command(standin, tmp_path, "standin-small", *SHAPE, "--compare", "a.json")
    assert code == 0
    assert "Decode (tok/s)" in out
    assert "measured apart" in err
    other = ("standin-small", "--shape", "24:9", "--warmup", "1", "--compare", "a.json")
    code, _, err = await command(standin, tmp_path, *other)
    assert code == 1
    assert "Not comparable: the plans differ" in err


async def test_ctrl_c_shows_what_was_measured(standin: StandIn, tmp_path: Path) -> None:
    standin.script.once = []
    standin.script.decode_tps = 4
    words = ("standin-small", *SHAPE, "--json")
    code, out, _ = await command(standin, tmp_path, *words, interrupt=True)
    assert code == 130
    found = msgspec.json.decode(out, type=BenchmarkResult)
    assert (found.status, len(found.metrics)) == ("cancelled", 1)
    await standin.wait_for(lambda ollama: ollama.open_streams == 0)


async def test_the_second_benchmark_is_told_who_runs_the_first(standin: StandIn, tmp_path: Path) -> None:
    with BenchmarkLock(standin.url, tmp_path / "locks", who="somebody's job"):
        code, _, err = await command(standin, tmp_path, "standin-small")
    assert code == 75
    assert "somebody's job" in err


async def test_a_missing_model_and_a_missing_ollama_have_their_exit_codes(
    standin: StandIn, tmp_path: Path
) -> None:
    code, out, _ = await command(standin, tmp_path, "absent")
    assert code == 1
    assert "ollama pull absent" in out.replace("\n", " ")
    await standin.stop()
    code, out, _ = await command(standin, tmp_path, "absent")
    assert code == 69


async def test_two_models_in_turns_have_an_interval_on_their_ratio(standin: StandIn, tmp_path: Path) -> None:
    standin.script.decode_tps = 500
    words = ("standin-small", "standin-think:8b", *SHAPE, "--pairs", "2", "--json")
    code, out, err = await command(standin, tmp_path, *words)
    assert code == 0, err
    found = msgspec.json.decode(out, type=list[BenchmarkResult])
    assert [len(one.metrics) for one in found] == [2, 2]
    assert "measured in turns" in err


def test_each_pair_holds_both_sides_in_random_order() -> None:
    order = turns(200, random.Random(1))
    pairs = [tuple(order[at : at + 2]) for at in range(0, len(order), 2)]
    assert set(pairs) == {(0, 1), (1, 0)}
    assert 70 < pairs.count((0, 1)) < 130


def test_one_sides_runs_become_one_result() -> None:
    turn = single(plan(cold_load=True, max_iterations=9))
    assert (turn.num_iterations, turn.max_iterations, turn.cold_load) == (1, None, False)
    runs = [speeds(100 + n, of=turn) for n in range(3)]
    whole = merged(runs)
    assert [one.index for one in whole.metrics] == [0, 1, 2]
    assert whole.summary["decode_tps_corrected"].mean == 101
    assert whole.cells[0].stopping.reason == "fixed"


def test_json_of_several_models_is_a_list_that_can_be_compared_with(tmp_path: Path) -> None:
    path, text = tmp_path / "r.json", io.StringIO()
    bench_report.show([speeds(1, 2), speeds(3, 4, model="n:latest")], "json", text)
    path.write_text(text.getvalue())
    assert [one.environment.model for one in bench.read_results(path)] == ["m:latest", "n:latest"]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]"])
def test_a_file_that_holds_no_result_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(InvalidParams, match=r"r\.json holds no result"):
        bench.read_results(path)
    with pytest.raises(InvalidParams, match="cannot be read"):
        bench.read_results(tmp_path / "absent")


def test_csv_has_a_line_for_each_iteration() -> None:
    rows = list(csv.DictReader(io.StringIO(bench_report.as_csv([speeds(100, 101)]))))
    assert [row["decode_tps_corrected"] for row in rows] == ["100", "101"]
    assert rows[0]["model"] == "standin-small"
    assert rows[0]["energy_joules"] == ""


def test_markdown_has_figures_then_warnings_with_what_to_do() -> None:
    text = bench_report.as_markdown(result(iteration(0, flags=("queued",)), iteration(1)))
    assert text.index("| Decode (tok/s) |") < text.index(
        "**requests waited for a slot (iterations 0)**: lower"
    )


def test_what_sampling_costs_is_shown_when_it_was_asked_for() -> None:
    of = plan(alternate_sampling=True)
    sampler = SamplerReport(interval_ms=500, samples=9, missed=0)

    def footer(*speeds_of: tuple[float, bool]) -> str:
        turns = [iteration(n, speed, sampled=sampled) for n, (speed, sampled) in enumerate(speeds_of)]
        return "\n".join(bench_report.footing(result(*turns, of=of, gathered={"sampler": sampler})))

    four = footer((99.0, True), (100.0, False), (100.0, False), (98.0, True))
    assert "decode speed with sampling -1.50 % (95 % interval" in four.replace("%", " %").replace("  ", " ")
    assert "2 pairs" in four
    assert "1 pair, too few for an interval" in footer((99.0, True), (100.0, False))
    assert "ask for more iterations" in footer((99.0, True))


def test_a_failed_run_says_how_many_iterations_are_kept() -> None:
    error = OllamaUnavailable("gone")
    some = bench_report.cautions(result(iteration(), status="failed", error=error))
    none = bench_report.cautions(result(status="failed", error=error))
    assert ("gone", "1 iterations measured before are kept") in some
    assert none == [("gone", "nothing was measured")]


def test_a_sweep_is_a_line_for_each_cell() -> None:
    text = io.StringIO()
    swept = planned("--prompt-tokens", "64,128", "--concurrency", "1,2")
    metrics = [iteration(n, 100.0 + n, cell=n // 2, queue_ms_max=5.0, output_tps_total=9.0) for n in range(8)]
    bench_report.show(
        [result(*metrics, of=swept, gathered={"cold_load": ColdLoad(wall_ms=12.0)})], None, text
    )
    shown = text.getvalue()
    assert "cold load 12.00 ms" in shown
    assert shown.count(" iterations (") == 4


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12345.6, "12 346"), (123.45, "123.5"), (1.234, "1.23"), (0.01234, "0.0123"), (-5.0, "-5.00")],
)
def test_numbers_are_short_and_have_no_exponent(value: float, shown: str) -> None:
    assert bench_report.number(value) == shown
