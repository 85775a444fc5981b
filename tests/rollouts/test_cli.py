"""The commands about models, rollouts and sets, as programs that ask a running server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from obt_agent.errors import NotPermitted
from obt_server.cli import parser
from tests.rollouts.machines import MODEL, QUICK, Machine, connected, machines, model
from tests.server.commands import answer, obt
from tests.server.conftest import Running, running

pytestmark = pytest.mark.slow


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path / "server", rollouts=QUICK) as one:
        yield one


@pytest.fixture
async def lab(quick: Running) -> AsyncIterator[list[Machine]]:
    """Two machines with a label, of which one has the model."""
    some = await machines(quick, 2, allowed=("list_models", "pull_model"))
    some[0].models = {MODEL: model()}
    for machine in some:
        await quick.http.put(f"/api/v1/agents/{machine.id}/labels", json={"labels": ["lab"]})
    async with connected(quick, some):
        yield some


async def test_a_rollout_is_begun_waited_for_and_shown(quick: Running, lab: list[Machine]) -> None:
    preview = await obt(quick, "rollouts", "start", "pull", "Tiny", "--all", "--preview")
    assert (preview.status, [line.split()[:2] for line in preview.output.splitlines()[1:]]) == (
        0,
        [["m0", "update?"], ["m1", "pull"]],
    ), preview
    ended = await obt(quick, "rollouts", "start", "pull", "Tiny", "--label", "lab", "--wait")
    assert ended.status == 0, ended
    assert [line.split()[:2] for line in ended.output.splitlines()[1:3]] == [["m0", "done"], ["m1", "done"]]
    (listed,) = await answer(quick, "rollouts", "list")
    shown = await answer(quick, "rollouts", "show", listed["id"])
    assert (shown["model"], shown["counts"]["done"]) == (MODEL, 2)
    assert [sum(machine.started.values()) for machine in lab] == [1, 1]


async def test_a_refusal_is_shown_with_what_would_allow_it_and_fails(
    quick: Running, lab: list[Machine]
) -> None:
    lab[1].refusal = NotPermitted("No.", policy_key="policy.allow_changes")
    ended = await obt(quick, "rollouts", "start", "pull", "Tiny", "--all", "--wait", "--key", "once")
    assert ended.status == 1
    assert "policy.allow_changes: [pull_model]" in ended.output
    lab[1].refusal = None
    (listed,) = await answer(quick, "rollouts", "list")
    await answer(quick, "rollouts", "retry", listed["id"], "--agent", "m1")
    again = await obt(quick, "rollouts", "start", "pull", "Tiny", "--all", "--wait", "--key", "once")
    assert again.status == 0, "the same request is the same rollout"


async def test_a_creation_takes_its_parts_from_options(quick: Running, lab: list[Machine]) -> None:
    words = ["start", "create", "terse", "--from", "tiny", "--system", "Be brief.", "--agent", "m0", "--wait"]
    ended = await obt(quick, "rollouts", *words, "--parameter", "num_ctx=2048", "--parameter", "stop=END")
    assert ended.status == 0, ended
    asked = lab[0].asked[0][1]
    assert (asked["from"], asked["system"]) == (MODEL, "Be brief.")
    assert asked["parameters"] == {"num_ctx": 2048, "stop": "END"}


async def test_models_are_listed_with_their_machines_and_changes(quick: Running, lab: list[Machine]) -> None:
    listed = await obt(quick, "models", "list")
    assert [line.split()[0] for line in listed.output.splitlines()] == ["MODEL", MODEL]
    assert "m0" in listed.output
    assert (await answer(quick, "models", "list", "--drifted"))["models"] == []
    lab[1].models[MODEL] = model()
    await lab[1].list_models()
    changes = await obt(quick, "models", "changes", "--agent", "m1", "--model", "Tiny")
    assert "at the machine" in changes.output


async def test_a_set_is_kept_compared_and_converged(quick: Running, lab: list[Machine]) -> None:
    assert (await obt(quick, "sets", "put", "base", "--model", "Tiny", "--label", "lab")).status == 0
    assert (await answer(quick, "sets", "list"))[0]["models"] == [{"name": MODEL}]
    differs = await obt(quick, "sets", "drift", "base")
    assert (differs.status, "m1" in differs.output) == (1, True), "as diff does"
    assert [step["agent_name"] for step in await answer(quick, "sets", "preview", "base")] == ["m1"]
    (begun,) = await answer(quick, "sets", "converge", "base")
    assert begun["counts"]["waiting"] + begun["counts"]["starting"] + begun["counts"]["done"] == 1
    assert await answer(quick, "sets", "converge", "base") == []
    assert (await obt(quick, "sets", "delete", "base")).status == 0


async def test_what_the_server_refuses_is_said_in_its_words(quick: Running) -> None:
    ended = await obt(quick, "rollouts", "start", "pull", "tiny", "--all")
    assert (ended.status, "no machine is meant" in ended.errors) == (2, True)
    assert (await obt(quick, "rollouts", "show", "nothing")).status == 2


async def test_the_token_comes_from_a_file_or_the_environment_and_is_needed(
    quick: Running, tmp_path: Path
) -> None:
    nothing = await obt(quick, "rollouts", "list", token="")
    assert (nothing.status, "OBT_SERVER_TOKEN" in nothing.errors) == (2, True)
    file = tmp_path / "token"
    file.write_text(quick.http.headers["Authorization"].removeprefix("Bearer ") + "\n")
    assert (await obt(quick, "rollouts", "list", "--token-file", str(file), token="")).status == 0
    assert "not_signed_in" in (await obt(quick, "rollouts", "list", token="wrong")).errors
    away = await obt(quick, "rollouts", "list", "--url", "http://127.0.0.1:9")
    assert (away.status, "does not answer" in away.errors) == (1, True)


def test_no_command_takes_a_token_as_an_argument() -> None:
    for words in (["rollouts", "list"], ["sets", "list"], ["models", "list"], ["campaigns", "list"]):
        with pytest.raises(SystemExit):
            parser().parse_args([*words, "--token", "secret"])
