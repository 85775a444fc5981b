"""Plans: OBT's names and ranges, hashes, cells, and what they cost before anything runs."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.benchmark import prompts
from obt_agent.benchmark.expansion import MAX_CELLS, budget, context_for, expand, prompt_text
from obt_agent.benchmark.plan import Plan, PlanHardware, PromptConfig, Settle, Sweep, plan_hash
from obt_agent.benchmark.presets import PRESETS, preset, shape
from obt_agent.errors import InvalidParams, TooLarge

OBTS = b"""{"model_name": "llama3", "prompt_config": {"suite_name": "obt-agent", "prompt_name": "code",
"completion_tokens": 200}, "num_iterations": 3, "temperature": 0.7, "top_p": 1.0, "top_k": 40,
"repeat_penalty": 1.1, "hardware": {"use_gpu": true}}"""


def decoded(data: bytes) -> Plan:
    return msgspec.json.decode(data, type=Plan)


def test_obts_own_configuration_is_a_plan() -> None:
    plan = decoded(OBTS)
    assert plan.prompt_config == PromptConfig(
        suite_name="obt-agent", prompt_name="code", completion_tokens=200
    )
    assert (plan.num_iterations, plan.temperature, plan.top_k, plan.repeat_penalty) == (3, 0.7, 40, 1.1)
    assert len(expand(plan)) == 1


def test_the_least_plan_is_a_models_name_with_obts_defaults() -> None:
    plan = decoded(b'{"model_name": "m", "prompt_config": {"prompt": "hello"}}')
    assert plan.prompt_config is not None
    assert plan.prompt_config.completion_tokens == 100
    assert (plan.num_iterations, plan.top_p, plan.hardware) == (3, 1.0, PlanHardware(use_gpu=True))


@pytest.mark.parametrize(
    "field",
    [
        '"num_iterations": 0',
        '"temperature": 1.5',
        '"top_p": -0.1',
        '"top_k": -1',
        '"repeat_penalty": -1',
        '"prompt_config": {"prompt": "x", "completion_tokens": 0}',
        '"prompt_config": {"completion_tokens": 5}',
        '"prompt_config": {"prompt": "x", "prompt_tokens": 5}',
        '"prompts": [{"prompt": "x"}], "prompt_config": {"prompt": "x"}',
        '"prompts": [{"prompt": "x"}], "sweep": {"prompt_tokens": [5]}',
        '"sweep": {"concurrency": [0]}',
        '"timeout_s": 0',
        '"cache_mode": "cold"',
        '"sample_interval_ms": 10',
    ],
)
def test_values_out_of_range_are_refused_with_their_path(field: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        decoded(f'{{"model_name": "m", {field}}}'.encode())


def test_equal_plans_have_equal_hashes_however_they_are_written() -> None:
    short = decoded(b'{"model_name": "a", "prompt_config": {"prompt": "x"}}')
    long = decoded(
        b'{"prompts": [{"prompt": "x", "completion_tokens": 100}], "num_iterations": 3, "model_name": "b"}'
    )
    assert plan_hash(short) == plan_hash(long)


def test_the_hash_knows_a_named_prompt_by_its_text() -> None:
    named = Plan(model_name="m", prompt_config=PromptConfig(prompt_name="code"))
    written = Plan(model_name="m", prompt_config=PromptConfig(prompt=prompts.NAMED["code"]))
    assert plan_hash(named) == plan_hash(written)


CHANGES: list[dict[str, object]] = [
    {"num_iterations": 4},
    {"temperature": 0.1},
    {"seed": 1},
    {"think": False},
    {"raw": True},
    {"num_ctx": 8192},
    {"cache_mode": "warm"},
    {"cold_load": True},
    {"target_ci": 0.05},
    {"sweep": Sweep(concurrency=(2,))},
    {"prompt_config": PromptConfig(prompt_tokens=511, completion_tokens=128)},
    {"hardware": PlanHardware(use_gpu=False)},
    {"keep_alive": "1h"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_whatever_changes_the_method_changes_the_hash(change: dict[str, object]) -> None:
    plan = Plan(model_name="m")
    assert plan_hash(msgspec.structs.replace(plan, **change)) != plan_hash(plan)


def test_waiting_for_an_idle_machine_is_no_part_of_the_method_and_counts_in_the_time() -> None:
    plan = Plan(model_name="m", max_duration_s=1e6)
    waiting = msgspec.structs.replace(plan, settle=Settle(max_wait_s=500.0))
    assert plan_hash(waiting) == plan_hash(plan)
    assert budget(waiting).worst_seconds == budget(plan).worst_seconds + 500


def test_the_hash_of_the_least_plan_is_pinned() -> None:
    # It changes only with a new field or default, and results of before then no longer compare.
    assert plan_hash(Plan(model_name="m")) == (
        "55cdf2552f63f02cf30c0da5689b181ada0b0bbbcfea4217606d1e0f3a0fd72b"
    )


def test_sweeps_cross_and_contexts_are_outermost() -> None:
    plan = Plan(
        model_name="m",
        prompts=(shape("1:10"), shape("1:20")),
        sweep=Sweep(prompt_tokens=(64, 128), num_ctx=(2048, 4096), concurrency=(1, 2)),
    )
    cells = expand(plan)
    assert len(cells) == 16
    assert [cell.index for cell in cells] == list(range(16))
    assert [cell.num_ctx for cell in cells] == [2048] * 8 + [4096] * 8
    assert cells[0].label == "64:10 ctx 2048 x1"
    assert len({cell.label for cell in cells}) == 16


def test_an_open_context_is_pinned_to_hold_every_cell() -> None:
    plan = Plan(model_name="m", prompts=(shape("16:1536"), shape("8000:256")))
    assert context_for(plan) == 9216
    assert {cell.num_ctx for cell in expand(plan)} == {9216}
    assert context_for(Plan(model_name="m")) == 4096
    swept = Plan(model_name="m", prompts=(shape("1:100"),), sweep=Sweep(prompt_tokens=(100, 5000)))
    assert context_for(swept) == 6144


def test_a_cell_that_does_not_fit_its_context_says_what_would() -> None:
    plan = Plan(model_name="m", num_ctx=512, prompts=(shape("512:128"),))
    with pytest.raises(InvalidParams, match="raise num_ctx to at least 896"):
        expand(plan)


def test_an_unknown_prompt_names_those_that_there_are() -> None:
    plan = Plan(model_name="m", prompt_config=PromptConfig(prompt_name="codingLandingpage"))
    with pytest.raises(InvalidParams, match=r"send its text as prompt, or use one of: code, explain"):
        budget(plan)
    with pytest.raises(InvalidParams, match="of suite 'other'"):
        prompt_text(PromptConfig(suite_name="other", prompt_name="code"))


def test_a_plan_that_multiplies_into_millions_is_counted_and_never_listed() -> None:
    plan = Plan(
        model_name="m",
        prompts=tuple(shape(f"10:{n}") for n in range(1, 65)),
        num_iterations=1_000_000,
        max_duration_s=86_400,
        sweep=Sweep(
            prompt_tokens=tuple(range(1, 33)),
            num_ctx=tuple(range(4096, 4128)),
            concurrency=tuple(range(1, 33)),
        ),
    )
    cost = budget(plan)
    assert cost.cells == 64 * 32 * 32 * 32
    assert cost.iterations == cost.cells * 1_000_000
    assert cost.worst_seconds == 86_400
    with pytest.raises(TooLarge, match=f"{MAX_CELLS} is the most"):
        expand(plan)


counts = st.lists(st.integers(1, 40), min_size=1, max_size=3, unique=True).map(tuple)


@given(counts, counts, st.integers(1, 5), st.integers(1, 9), st.sampled_from(["bust", "warm", "pair"]))
def test_the_budget_bounds_what_the_cells_add_up_to(
    lengths: tuple[int, ...], streams: tuple[int, ...], iterations: int, most: int, mode: str
) -> None:
    plan = decoded(
        msgspec.json.encode(
            Plan(
                model_name="m",
                prompts=(shape("1:7"), shape("1:11")),
                num_iterations=iterations,
                max_iterations=most,
                cache_mode=mode,  # type: ignore[arg-type] # one of the three
                sweep=Sweep(prompt_tokens=lengths, concurrency=streams),
            )
        )
    )
    cost, cells = budget(plan), expand(plan)
    each = plan.most_iterations * (2 if mode == "pair" else 1)
    assert cost.cells == len(cells)
    assert cost.iterations == len(cells) * each
    requests = sum(cell.concurrency * (each * 4 + 4) for cell in cells)
    assert cost.requests == requests
    assert cost.completion_tokens == sum(
        cell.concurrency * (each * 4 + 4) * cell.prompt.completion_tokens for cell in cells
    )
    assert cost.prompt_tokens == sum(
        cell.concurrency * (each * 4 + 4) * (cell.prompt.prompt_tokens or 0) for cell in cells
    )
    assert cost.concurrency == max(streams)


def test_the_budget_counts_a_given_texts_bytes() -> None:
    plan = Plan(model_name="m", prompt_config=PromptConfig(prompt="ü" * 100), warmup_iterations=0)
    assert budget(plan).prompt_bytes == 3 * 4 * 200


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_plan_that_passes_its_own_checks(name: str) -> None:
    plan = preset(name, "m")
    assert decoded(msgspec.json.encode(plan)) == plan
    assert expand(plan)
    assert plan.temperature == 0
    assert plan.seed == 1


@pytest.mark.parametrize("text", ["512", "512:", ":128", "a:b", "0:5", "5:0", "-1:5"])
def test_a_shape_is_two_positive_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="PROMPT:COMPLETION"):
        shape(text)


def test_the_agents_own_prompts_are_few_and_not_empty() -> None:
    assert 3 <= len(prompts.NAMED) <= 8
    assert all(len(text) > 100 for text in prompts.NAMED.values())
