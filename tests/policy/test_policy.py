"""Commands, plans, rates and quiet hours; what is left is told."""

import datetime as dt
import json
from typing import Any

import msgspec
import pytest

from obt_agent.benchmark.plan import Plan
from obt_agent.errors import ConfigError, InvalidParams, NotPermitted, TooLarge
from obt_agent.protocol.methods import COMMANDS
from tests.policy.configs import config, policy

CHANGES = {"pull_model", "create_model", "copy_model", "delete_model"}


def key_of(section: dict[str, Any], method: str) -> str | None:
    try:
        policy(**section).check_command(method)
    except NotPermitted as error:
        named_key, message = str(error.detail["policy_key"]), error.message
    else:
        return None
    assert named_key in message
    return named_key


def test_by_default_everything_that_reads_and_runs_is_allowed_and_nothing_that_changes() -> None:
    allowed = set(policy().allowed_commands())
    assert allowed == {method.name for method in COMMANDS} - CHANGES
    for method in CHANGES:
        assert key_of({}, method) == "policy.allow_changes"


def test_the_owner_opens_changes_one_by_one() -> None:
    section = {"allow_changes": ["pull_model"]}
    assert key_of(section, "pull_model") is None
    assert key_of(section, "delete_model") == "policy.allow_changes"


def test_allow_and_deny_name_commands_and_deny_wins() -> None:
    section = {"commands": {"allow": ["list_*", "generate"], "deny": ["generate"]}}
    assert key_of(section, "list_models") is None
    assert key_of(section, "chat") == "policy.commands.allow"
    assert key_of(section, "generate") == "policy.commands.deny"


def test_allowing_a_change_among_commands_is_not_enough() -> None:
    assert key_of({"commands": {"allow": ["*"]}}, "delete_model") == "policy.allow_changes"
    denied = {"allow_changes": ["pull_model"], "commands": {"deny": ["pull_model"]}}
    assert key_of(denied, "pull_model") == "policy.commands.deny"


def test_cancel_is_always_allowed() -> None:
    assert key_of({"commands": {"allow": [], "deny": ["*"]}}, "cancel") is None
    assert policy(commands={"allow": [], "deny": ["*"]}).allowed_commands() == ("cancel",)


def test_what_is_left_is_described_with_the_configurations_keys() -> None:
    named_key = json.loads(msgspec.json.encode(policy(max_tokens=99, models={"deny": ["x"]}).describe()))
    assert named_key["models_deny"] == ["x"]
    assert named_key["max_tokens"] == 99
    assert named_key["options"]["num_ctx"] == 131_072
    assert set(CHANGES).isdisjoint(named_key["commands"])


PLANS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"num_iterations": 1_000_000}, "policy.benchmark.max_iterations"),
    (
        {},
        {
            "sweep": {"num_ctx": [2**n for n in range(8, 17)], "concurrency": list(range(1, 17))},
            "num_iterations": 100,
        },
        "policy.benchmark.max_iterations",
    ),
    (
        {},
        {"prompts": [{"prompt_tokens": 10, "completion_tokens": 16_000}] * 60, "num_iterations": 10},
        "policy.benchmark.max_tokens",
    ),
    (
        {"benchmark": {"max_prompt_bytes": 1000}},
        {"prompt_config": {"prompt": "x" * 900}},
        "policy.benchmark.max_prompt_bytes",
    ),
    ({"benchmark": {"max_seconds": 60}}, {}, "policy.benchmark.max_seconds"),
    ({"max_streams": 2}, {"sweep": {"concurrency": [1, 3]}}, "policy.max_streams"),
    ({}, {"num_ctx": 10_000_000}, "policy.options.num_ctx"),
    ({}, {"sweep": {"num_ctx": [4096, 10_000_000]}}, "policy.options.num_ctx"),
    ({"options": {"num_thread": 2}}, {"num_thread": 8}, "policy.options.num_thread"),
    ({"max_seconds": 60}, {"timeout_s": 900}, "policy.max_seconds"),
    ({}, {"keep_alive": -1}, "policy.options.keep_alive_s"),
    ({}, {"keep_alive": "48h"}, "policy.options.keep_alive_s"),
    (
        {"max_tokens": 50},
        {"prompt_config": {"prompt": "hi", "completion_tokens": 51}},
        "policy.max_tokens",
    ),
    ({"max_prompt_bytes": 100}, {"prompt_config": {"prompt": "x" * 101}}, "policy.max_prompt_bytes"),
    (
        {"max_prompt_bytes": 1000},
        {"prompt_config": {"prompt_tokens": 10}, "sweep": {"prompt_tokens": [10, 2000]}},
        "policy.max_prompt_bytes",
    ),
    ({"models": {"deny": ["tiny"]}}, {}, "policy.models.deny"),
]


@pytest.mark.parametrize(
    ("section", "fields", "key"), PLANS, ids=[f"{n} {p[2]}" for n, p in enumerate(PLANS)]
)
def test_a_plan_over_a_limit_is_refused_with_the_key(
    section: dict[str, Any], fields: dict[str, Any], key: str
) -> None:
    plan = msgspec.convert({"model_name": "tiny", **fields}, Plan)
    with pytest.raises(NotPermitted) as error:
        policy(**section).check_plan(plan)
    assert error.value.detail["policy_key"] == key
    assert key in error.value.message


def test_a_plan_that_multiplies_into_millions_is_refused_without_being_listed() -> None:
    plan = msgspec.convert(
        {
            "model_name": "tiny",
            "num_iterations": 1_000_000,
            "prompts": [{"prompt_tokens": 16, "completion_tokens": 1}] * 64,
            "sweep": {
                "prompt_tokens": list(range(1, 33)),
                "num_ctx": list(range(4096, 4128)),
                "concurrency": list(range(1, 17)),
            },
        },
        Plan,
    )
    with pytest.raises(NotPermitted, match=r"policy\.benchmark\.max_iterations"):
        policy().check_plan(plan)


def test_an_owner_may_leave_keep_alive_to_ollama_in_plans_too() -> None:
    plan = Plan(model_name="tiny", keep_alive=-1)
    assert policy(options={"keep_alive_s": None}).check_plan(plan) is plan


def test_a_policy_that_cannot_be_read_leaves_the_one_before_in_force() -> None:
    owner = policy(max_tokens=7)
    wrong = config(quiet_hours=["night"])
    with pytest.raises(ConfigError):
        owner.adopt(wrong)
    assert owner.describe().max_tokens == 7


def test_an_ordinary_plan_passes_unaltered() -> None:
    plan = Plan(model_name="tiny")
    assert policy().check_plan(plan) is plan


def test_a_plan_that_nothing_can_run_is_refused() -> None:
    with pytest.raises(InvalidParams):
        policy().check_plan(Plan(model_name="tiny", keep_alive="soon"))
    many = {
        "prompts": [{"prompt_tokens": 16, "completion_tokens": 1}] * 64,
        "sweep": {"concurrency": list(range(1, 17)), "num_ctx": list(range(4096, 4104))},
    }
    generous = {"benchmark": {"max_iterations": 10**9, "max_tokens": 10**9, "max_prompt_bytes": 10**12}}
    with pytest.raises(TooLarge):
        policy(**generous).check_plan(msgspec.convert({"model_name": "x", **many}, Plan))


@pytest.mark.parametrize(
    ("ranges", "at", "hours"),
    [
        ([], "03:00", 0),
        (["22:00-07:00"], "03:00", 4),
        (["22:00-07:00"], "23:00", 8),
        (["22:00-07:00"], "07:00", 0),
        (["22:00 - 07:00"], "21:59", 0),
        (["09:00-12:00", "12:00-13:00"], "11:00", 2),
        (["00:00-24:00"], "13:00", 24),
        (["00:00-00:00"], "13:00", 24),
    ],
)
def test_quiet_hours_say_how_long_a_benchmark_waits(ranges: list[str], at: str, hours: float) -> None:
    now = dt.datetime.fromisoformat(f"2026-03-04T{at}:00+01:00")
    waits = policy(quiet_hours=ranges).quiet_wait_s(now) / 3600
    assert waits == pytest.approx(hours) if hours < 24 else waits >= 11


@pytest.mark.parametrize("text", ["night", "22:00", "25:00-26:00", "10:61-11:00", "24:00-01:00"])
def test_hours_that_no_clock_shows_are_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigError, match="quiet_hours"):
        policy(quiet_hours=[text])


def test_a_template_is_refused_unless_the_owner_allows_it() -> None:
    with pytest.raises(NotPermitted) as error:
        policy().check_template("{{ range . }}{{ end }}")
    assert error.value.detail["policy_key"] == "policy.templates"
    policy().check_template(None)
    policy(templates=True).check_template("{{ .Prompt }}")
