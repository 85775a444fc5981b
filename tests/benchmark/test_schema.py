"""The published schemas are current, results obey them, and OBT gets its own form."""

from typing import Any

import jsonschema
import msgspec
import pytest

from obt_agent.benchmark import report
from obt_agent.benchmark.expansion import expand
from obt_agent.benchmark.obt_format import ObtResult, to_obt
from obt_agent.benchmark.plan import Plan, PlanHardware, PromptConfig, plan_hash
from obt_agent.benchmark.presets import preset
from obt_agent.benchmark.result import BenchmarkResult
from obt_agent.benchmark.schema import TYPES, as_text, schema_of
from obt_standin import StandIn
from tests.benchmark.results import as_json, iteration, result
from tests.benchmark.runs import plan, result_of
from tests.obt.fields import AcceptedResult
from tests.project.paths import ROOT

EXAMPLE = ROOT / "docs/examples/benchmark-result.json"
OBTS_EXAMPLE = ROOT / "docs/examples/benchmark-result.obt.json"
RESULT = schema_of(BenchmarkResult)
PLAN = schema_of(Plan)


def check(value: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(value)


@pytest.mark.parametrize("name", TYPES)
def test_the_published_schemas_are_current(name: str) -> None:
    published = ROOT / "docs/schemas" / name
    assert published.read_text() == as_text(schema_of(TYPES[name])), "run make docs"
    jsonschema.Draft202012Validator.check_schema(schema_of(TYPES[name]))


async def test_a_measured_result_obeys_the_schema_and_survives_its_json(standin: StandIn) -> None:
    measured = await result_of(standin, plan(cold_load=True, cache_mode="pair"))
    check(as_json(measured), RESULT)
    again = msgspec.json.decode(msgspec.json.encode(measured), type=BenchmarkResult)
    assert again == measured


async def test_a_failed_result_obeys_the_schema(standin: StandIn) -> None:
    check(as_json(await result_of(standin, plan(model_name="absent"))), RESULT)


@pytest.mark.parametrize("name", ["quick", "standard", "thorough"])
def test_plans_obey_their_schema(name: str) -> None:
    check(msgspec.json.decode(msgspec.json.encode(preset(name, "m"))), PLAN)


def test_the_schema_refuses_what_is_no_result() -> None:
    broken = as_json(result(iteration()))
    broken["metrics"][0]["tokens_per_second"] = "fast"
    with pytest.raises(jsonschema.ValidationError):
        check(broken, RESULT)


def test_the_example_obeys_the_schema_and_its_conversion_stands_beside_it() -> None:
    text = EXAMPLE.read_bytes()
    check(msgspec.json.decode(text), RESULT)
    example = msgspec.json.decode(text, type=BenchmarkResult)
    assert example.status == "completed"
    converted = msgspec.json.decode(OBTS_EXAMPLE.read_bytes(), type=ObtResult)
    assert to_obt(example) == converted


def test_the_example_is_what_the_code_gives_today() -> None:
    example = msgspec.json.decode(EXAMPLE.read_bytes(), type=BenchmarkResult)
    again = "run python docs/example.py"
    assert example.environment.plan_hash == plan_hash(example.config), again
    for cell, planned in zip(example.cells, expand(example.config), strict=True):
        figured = report.cell_result(example.config, planned, example.metrics, cell.stopping, example.status)
        assert figured.summary.keys() == cell.summary.keys(), again
        for name, summary in figured.summary.items():
            assert as_json(summary) == pytest.approx(as_json(cell.summary[name])), again
    for one in example.metrics:
        written = set(as_json(one)) | one.unavailable.keys()
        names = {name for name in one.__struct_fields__ if getattr(one, name) is None}
        assert names - {"excluded", "gpu_memory_method", "power_scope", "energy_method"} <= written, again


def test_obts_required_numbers_are_never_null_and_its_optional_ones_may_be() -> None:
    bare = iteration(0, None, memory_usage_mb=None, cpu_usage_percent=None, first_token_ms=None)
    (one,) = to_obt(result(bare)).metrics
    assert (one.tokens_per_second, one.memory_usage_mb, one.first_token_ms) == (0.0, 0.0, 0.0)
    assert one.gpu_memory_usage_mb is None


def test_obts_own_rules_accept_a_result() -> None:
    for text in (OBTS_EXAMPLE.read_bytes(), msgspec.json.encode(to_obt(result(status="failed")))):
        AcceptedResult.model_validate_json(text)


def test_obts_form_has_what_its_page_reads() -> None:
    first = iteration(0, 40.0, first_token_ms=100.0, power_usage_watts=200.0)
    found = as_json(to_obt(result(first, iteration(1, 60.0, first_token_ms=300.0))))
    assert found["average_tokens_per_second"] == pytest.approx(50.0 * 12 / 11)
    assert found["average_latency_ms"] == 200.0
    assert found["average_power_usage"] == 200.0
    assert found["config"]["client_id"] == found["client_id"]
    assert [row["timestamp"] for row in found["metrics"]] == [first.started_at.timestamp()] * 2
    assert [row["latency_ms"] for row in found["metrics"]] == [100.0, 300.0]


def test_the_averages_of_nothing_are_zero_and_power_is_null() -> None:
    found = to_obt(result(status="failed"))
    assert (found.average_tokens_per_second, found.average_latency_ms) == (0.0, 0.0)
    assert found.average_power_usage is None


def test_a_result_without_iterations_says_so_by_an_empty_list() -> None:
    assert as_json(result(status="failed"))["metrics"] == []


@pytest.mark.parametrize(
    ("of", "uses"),
    [
        (plan(), True),
        (plan(num_gpu=0), False),
        (plan(hardware=PlanHardware(use_gpu=False)), False),
        (plan(num_gpu=12), True),
    ],
)
def test_obts_configuration_says_whether_gpus_were_used(of: Plan, *, uses: bool) -> None:
    assert as_json(to_obt(result(iteration(), of=of)))["config"]["hardware"] == {
        "use_gpu": uses,
        "gpu_id": None,
    }


def test_excluded_iterations_are_left_out_of_obts_form() -> None:
    both = result(iteration(0), iteration(1, excluded="reloaded"))
    assert len(to_obt(both).metrics) == 1


def test_obts_hardware_is_derived_and_never_null() -> None:
    full = to_obt(result(iteration())).hardware_info
    assert (full.cpu_model, full.cpu_cores, full.cpu_threads, full.ram_total) == ("A CPU", 8, 16, 65536)
    assert (full.gpus[0].id, full.gpus[0].name, full.gpus[0].memory_total) == (0, "A GPU", 24576)
    none = to_obt(result(iteration(), records={"hardware": None})).hardware_info
    assert (none.cpu_model, none.cpu_cores, none.gpus) == ("unknown", 0, ())


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        (PromptConfig(prompt="Say."), None),
        (PromptConfig(prompt_name="code"), "code"),
        (PromptConfig(prompt_tokens=64), "synthetic-64"),
    ],
)
def test_obts_prompt_is_a_name_or_a_text(prompt: PromptConfig, name: str | None) -> None:
    found = to_obt(result(iteration(), of=plan(prompt_config=prompt))).config.prompt_config
    assert found.prompt_name == name
    assert (found.prompt is None) == (name is not None)
    assert (found.suite_name == "obt-agent") == (name is not None)
