"""A campaign's file: what it becomes, and how a mistake is named."""

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from obt_server.cli.campaign_file import CampaignFile, read
from obt_server.cli.options import UsageError
from obt_server.demo.fleet import MACHINES, PLANS

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "nightly.yaml"
LEAST = "name: n\nplans: [quick]\nmodels: [m]\ntargets: {all: true}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text, "utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        read(written(folder, text))
    return str(caught.value).removeprefix(f"{folder / 'c.yaml'}:")


def test_the_example_is_a_campaign_and_a_schedule() -> None:
    file = read(EXAMPLE)
    body = file.body()
    assert body["name"] == "nightly"
    assert body["plans"][0] == {"name": "short answers"}
    assert body["plans"][1]["label"] == "longer prompts"
    assert body["plans"][1]["plan"]["prompt_config"] == {"prompt_tokens": 512, "completion_tokens": 48}
    assert body["targets"] == {"agents": ["gpu-tower", "gpu-desk", "cpu-box"]}
    assert body["settle"] == {"idle_for_s": 1, "max_wait_s": 5}
    assert body["baseline"] == {"mode": "rolling", "last": 7}
    assert "schedule" not in body
    when = file.schedule_body()
    assert (file.schedule_name, when["cron"], when["time_zone"]) == ("nightly", "30 2 * * *", "Europe/Berlin")
    assert (when["jitter_s"], when["late_s"], when["campaign"]) == (600, 3600, body)


def test_the_example_measures_what_the_demonstration_has() -> None:
    file = read(EXAMPLE)
    scripts = {machine.name: msgspec.json.decode(machine.script) for machine in MACHINES}
    assert set(file.targets.agents) <= scripts.keys()
    for name in file.targets.agents:
        assert set(file.models) <= {model["name"] for model in scripts[name]["models"]}
    assert {one for one in file.plans if isinstance(one, str)} <= PLANS.keys()


def test_what_is_not_written_is_not_sent_so_that_the_server_decides(tmp_path: Path) -> None:
    body = read(written(tmp_path, LEAST)).body()
    assert body == {"name": "n", "plans": [{"name": "quick"}], "models": ["m"], "targets": {"all": True}}


def test_a_time_and_a_key_of_the_command_line_go_with_it(tmp_path: Path) -> None:
    body = read(written(tmp_path, LEAST)).body(within_s=60, key="night-7")
    assert 0 < body["not_after"] - time.time() <= 60
    assert body["key"] == "night-7"


def test_quiet_hours_and_versions_are_sent_as_the_interface_has_them(tmp_path: Path) -> None:
    text = LEAST.replace("[quick]", "[{name: p, version: 3}]")
    text += 'quiet_hours: {from: "08:00", to: "18:00", time_zone: Europe/Berlin}\n'
    body = read(written(tmp_path, text)).body()
    assert body["plans"] == [{"name": "p", "version": 3}]
    assert body["quiet_hours"] == {"from": "08:00", "to": "18:00", "time_zone": "Europe/Berlin"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LEAST.replace("models", "modles"), "3: modles: there is no such key; did you mean models?"),
        (LEAST.replace("models: [m]\n", ""), "1: object missing required field `models`"),
        (LEAST + "repeat: 40\n", "5: repeat: expected `int` <= 20"),
        (LEAST + 'repeat: "2"\n', "5: repeat: expected `int | null`, got `str`"),
        (LEAST + "order: fastest\n", "5: order: invalid enum value 'fastest'"),
        (LEAST + "name: again\n", "5: name: stands here a second time"),
        (
            LEAST.replace("{all: true}", "{all: false}"),
            "4: targets: name machines: agents, labels, or all: true",
        ),
        (LEAST.replace("[quick]", "[]"), "2: plans: expected `array` of length >= 1"),
        (LEAST.replace("[quick]", "[{}]"), "2: plans[0]: give name (of a saved plan) or plan (written out)"),
        (LEAST.replace("[m]", "\n- a\n- 5"), "5: models[1]: expected `str`, got `int`"),
        (LEAST + "schedule:\n  cron: 0 2 * * *\n", "5: schedule: object missing required field `time_zone`"),
        (LEAST + "settle: {idle_for_s: -1}\n", "5: settle.idle_for_s: expected `float` >= 0.0"),
        (LEAST + "settle: &s {idle_for_s: 1}\nbaseline: *s\n", "6: uses the alias *s; write the value out"),
        ("name: [\n", "2: is not YAML"),
        ("- name\n", "1: expected"),
    ],
)
def test_a_mistake_is_named_by_its_key_and_line(tmp_path: Path, text: str, message: str) -> None:
    assert refused(tmp_path, text).startswith(message)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            "num_iteration: 3",
            "4: plans[0].plan.num_iteration: there is no such key; did you mean num_iterations?",
        ),
        ("num_iterations: 0", "4: plans[0].plan.num_iterations: expected `int` >= 1"),
        ("model_name: m", "4: plans[0].plan.model_name: a campaign names models under models"),
        (
            "prompt_config: {promt: x, prompt_tokens: 5}",
            "4: plans[0].plan.prompt_config.promt: there is no such key",
        ),
        (
            "prompts: [{prompt_tokens: 5}, {prompt_tokens: 5, tokens: 1}]",
            "4: plans[0].plan.prompts[1].tokens: there",
        ),
        ("num_ctx: 64", "3: plans[0].plan: 640 tokens of prompt and answer do not fit num_ctx 64"),
        ("sweep: {concurency: [1]}", "4: plans[0].plan.sweep.concurency: there is no such key"),
    ],
)
def test_a_mistake_in_a_plan_that_is_written_out_is_found_before_anything_is_sent(
    tmp_path: Path, plan: str, message: str
) -> None:
    text = f"name: n\nplans:\n- plan:\n    {plan}\nmodels: [m]\ntargets: {{all: true}}\n"
    assert refused(tmp_path, text).startswith(message)


def test_a_file_that_is_not_there_or_has_no_schedule_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="has no schedule"):
        read(written(tmp_path, LEAST)).schedule_body()


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)


@given(
    name=words, models=st.lists(words, min_size=1, max_size=3), labels=st.lists(words, min_size=1, max_size=3)
)
def test_whatever_yaml_writes_of_a_campaign_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, name: str, models: list[str], labels: list[str]
) -> None:
    content: dict[str, Any] = {
        "name": name,
        "plans": ["quick"],
        "models": models,
        "targets": {"labels": labels},
    }
    # Quoted, for without quotes "1" is a number and "null" is nothing.
    text = yaml.safe_dump(content, default_style='"', allow_unicode=True)
    file: CampaignFile = read(written(tmp_path_factory.mktemp("file"), text))
    assert (file.name, list(file.models), list(file.targets.labels)) == (name, models, labels)
