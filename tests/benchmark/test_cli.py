"""``obt-agent bench``: options make a plan, results come in four forms, Ctrl-C keeps them."""

import argparse
import asyncio
import io
import os
import signal
import sys
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from obt_agent.benchmark.lock import BenchmarkLock
from obt_agent.benchmark.obt_format import ObtResult
from obt_agent.benchmark.plan import Plan, PromptConfig
from obt_agent.benchmark.presets import preset, shape
from obt_agent.benchmark.records import Progress
from obt_agent.benchmark.result import BenchmarkResult
from obt_agent.benchmark.run import BenchmarkRun
from obt_agent.cli import bench, bench_report, bench_run, main
from obt_agent.config.schema import Config, OllamaConfig
from obt_agent.errors import InvalidParams
from obt_agent.hardware.service import HardwareService
from obt_standin import StandIn
from tests.benchmark.results import speeds
from tests.benchmark.runs import generations, plan

SHAPE = ("--shape", "24:8", "--warmup", "1")


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(["m", *words])


def planned(*words: str) -> Plan:
    return bench.plan_of(parsed(*words), "m")


async def command(
    standin: StandIn, folder: Path, *words: str, interrupt: bool = False, **variables: str
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
        env=os.environ | variables,
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
        (["--threads", "3"], {"num_thread": 3}),
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


@pytest.mark.slow
async def test_a_table_for_people_and_a_comparison_with_before(standin: StandIn, tmp_path: Path) -> None:
    standin.script.decode_tps = 500
    code, out, err = await command(standin, tmp_path, "standin-small", *SHAPE, "--output", "a.json")
    assert (code, out) == (0, "")
    assert "Written to a.json." in err
    code, out, err = await command(standin, tmp_path, "standin-small", *SHAPE, "--compare", "a.json")
    assert code == 0
    assert "Decode (tok/s)" in out
    assert "measured apart" in err
    assert "time to first token" in err.lower()
    assert "prefill_tps_ttft" not in err
    before = len(standin.requests)
    other = ("standin-small", "--shape", "24:9", "--warmup", "1", "--compare", "a.json")
    code, _, err = await command(standin, tmp_path, *other)
    assert code == 1
    assert "another plan (it differs in prompts)" in err
    assert len(standin.requests) == before, "it is refused before anything is measured"


@pytest.mark.slow
async def test_ctrl_c_shows_what_was_measured(standin: StandIn, tmp_path: Path) -> None:
    standin.script.once = []
    standin.script.decode_tps = 4
    words = ("standin-small", *SHAPE, "--json")
    code, out, _ = await command(standin, tmp_path, *words, interrupt=True)
    assert code == 130
    found = msgspec.json.decode(out, type=BenchmarkResult)
    assert (found.status, len(found.metrics)) == ("cancelled", 1)
    await standin.wait_for(lambda ollama: ollama.open_streams == 0)


def test_a_file_that_cannot_be_compared_with_is_refused_before_anything_is_measured() -> None:
    several = [speeds(100.0, model="a"), speeds(100.0, model="b")]
    several = [
        msgspec.structs.replace(one, config=plan(model_name=name))
        for one, name in zip(several, ("a", "b"), strict=True)
    ]
    mine = plan(model_name="b:latest")
    bench.check_comparable([mine], several, parsed("--compare", "f.json"))
    with pytest.raises(InvalidParams, match="none of m: a, b"):
        bench.check_comparable([plan(model_name="m")], several, parsed("--compare", "f.json"))
    bench.check_comparable([plan(model_name="m")], several[:1], parsed("--compare", "f.json"))
    with pytest.raises(InvalidParams, match="differs in seed"):
        bench.check_comparable([plan(model_name="b", seed=7)], several, parsed("--compare", "f.json"))
    with pytest.raises(InvalidParams, match="leave --compare out"):
        bench.check_comparable([mine], several, parsed("--pairs", "2", "--compare", "f.json"))


class Deaf:
    """A run that does not end when it is stopped."""

    job_id = "deaf"

    def __init__(self) -> None:
        self.stops: list[str] = []

    async def execute(self) -> BenchmarkResult:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()
        raise AssertionError("never")

    def stop(self, cause: str) -> None:
        self.stops.append(cause)
        os.kill(os.getpid(), signal.SIGTERM)

    def result_so_far(self) -> BenchmarkResult:
        return speeds(100.0, 101.0)


async def test_a_second_ctrl_c_does_not_wait_and_still_keeps_what_was_measured() -> None:
    run = Deaf()
    async with asyncio.timeout(20):
        with bench_run._Signals() as signals:  # noqa: SLF001 - there is no other way to a run that is deaf
            found = await signals.execute(cast("BenchmarkRun", run))
    assert run.stops == ["cancelled"]
    assert (found.status, len(found.metrics)) == ("cancelled", 2)
    assert "may still be loaded" in (found.error or "")


async def test_ctrl_c_between_two_models_loses_nothing_and_begins_nothing(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(self: HardwareService) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(5):  # a signal's handler is called a few turns of the loop later
            await asyncio.sleep(0)

    monkeypatch.setattr(HardwareService, "start", interrupted)
    config = msgspec.structs.replace(Config(), ollama=OllamaConfig(url=standin.url))
    async with asyncio.timeout(20):
        assert await bench_run.run_all([plan(), plan()], config) == []
    assert generations(standin) == []


def test_ctrl_c_while_the_command_is_still_imported_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", impatient)
    assert main(["bench", "m"]) == 130


def test_a_narrow_terminal_keeps_the_time_left() -> None:
    now = Progress(
        phase="waiting", iteration=2, tokens_per_second=50.0, first_token_ms=9.0, remaining_s=61.0,
        cpu_utilization_ratio=0.5,
    )  # fmt: skip
    facts = bench_run._facts(now)  # noqa: SLF001 - what the line is made of
    assert facts == ["about 0:01:01 left", "50.0 tok/s", "TTFT 9 ms", "CPU 50 %"]
    assert [bench_run._facts_shown(width) for width in (60, 80, 120)] == [1, 2, 4]  # noqa: SLF001 - as above
    assert bench_run._phase(now) == "waiting for Ollama"  # noqa: SLF001 - as above


@pytest.mark.slow
async def test_the_second_benchmark_learns_who_runs_the_first(standin: StandIn, tmp_path: Path) -> None:
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


@pytest.mark.slow
async def test_two_models_in_turns_have_an_interval_on_their_ratio(standin: StandIn, tmp_path: Path) -> None:
    standin.script.decode_tps = 500
    words = ("standin-small", "standin-think:8b", *SHAPE, "--pairs", "2", "--json")
    code, out, err = await command(standin, tmp_path, *words)
    assert code == 0, err
    found = msgspec.json.decode(out, type=list[BenchmarkResult])
    assert [len(one.metrics) for one in found] == [2, 2]
    assert "measured in turns" in err


def test_json_of_several_models_is_a_list_that_can_be_compared_with(tmp_path: Path) -> None:
    path, text = tmp_path / "r.json", io.StringIO()
    bench_report.show([speeds(1, 2), speeds(3, 4, model="n:latest")], "json", text)
    path.write_text(text.getvalue())
    assert [one.environment.model for one in bench.read_results(path)] == ["m:latest", "n:latest"]


def test_results_are_written_in_obts_own_form() -> None:
    text = io.StringIO()
    bench_report.show([speeds(1, 2)], parsed("--obt").form, text)
    found = msgspec.json.decode(text.getvalue(), type=ObtResult)
    assert [round(one.tokens_per_second * 11 / 12) for one in found.metrics] == [1, 2]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]"])
def test_a_file_that_holds_no_result_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(InvalidParams, match=r"r\.json holds no result"):
        bench.read_results(path)
    with pytest.raises(InvalidParams, match="cannot be read"):
        bench.read_results(tmp_path / "absent")


@pytest.mark.slow
@pytest.mark.parametrize(("encoding", "form"), [("ascii", ()), ("latin-1", ("--markdown",))])
async def test_a_finished_measurement_is_shown_on_a_terminal_of_any_encoding(
    encoding: str, form: tuple[str, ...], standin: StandIn, tmp_path: Path
) -> None:
    words = ("standin-small", *SHAPE, "--iterations", "1", *form)
    code, out, err = await command(standin, tmp_path, *words, PYTHONIOENCODING=encoding)
    assert code == 0, err
    assert "standin-small" in out
    assert "Traceback" not in err
