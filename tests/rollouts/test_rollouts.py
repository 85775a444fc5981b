"""One action on many machines: each is asked once, in turn, and its state is told truthfully."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from obt_agent.errors import (
    Busy,
    DigestDiffers,
    InvalidParams,
    ModelNotFound,
    NotPermitted,
    OllamaError,
    OllamaUnavailable,
    StorageLow,
)
from obt_agent.protocol.jobs import JobProgress, JobProgressParams
from obt_server.store import rollouts as rollout_rows
from obt_server.store.postgresql import DatabaseUnavailable
from tests.rollouts.machines import (
    DIGEST,
    MODEL,
    QUICK,
    SIZE,
    begin,
    connected,
    machines,
    model,
    only,
    shown,
    states,
    until_over,
    until_shown,
)
from tests.server.conftest import Running, running
from tests.server.job_steps import accept
from tests.waiting import until


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Running]:
    """A server whose rollouts pause shortly."""
    async with running(tmp_path, rollouts=QUICK) as one:
        yield one


async def post(server: Running, path: str, body: dict[str, Any] | None = None) -> Any:
    return await server.http.post(f"/api/v1{path}", json=body or {})


def counts_are(**counts: int) -> Callable[[dict[str, Any]], bool]:
    return lambda view: all(view["counts"][state] == count for state, count in counts.items())


async def test_a_pull_reaches_every_machine_once_and_ends_with_its_digest(quick: Running) -> None:
    some = await machines(quick, 5)
    async with connected(quick, some):
        view = await until_over(quick, (await begin(quick))["id"])
    assert (view["state"], view["counts"]["done"], view["completed_bytes"]) == ("done", 5, 5 * SIZE)
    assert {target["digest_after"] for target in view["targets"]} == {DIGEST}
    assert [sum(one.started.values()) for one in some] == [1] * 5
    assert view["created_by"] == "admin"
    (listed,) = (await quick.http.get("/api/v1/rollouts")).json()
    assert listed["counts"] == view["counts"]
    assert "targets" not in listed


async def test_an_older_agent_is_asked_which_version_its_pull_brought(quick: Running) -> None:
    some = await machines(quick, 1, says_digest=False)
    async with connected(quick, some):
        target = only(await until_over(quick, (await begin(quick))["id"]))
    assert (target["state"], target["digest_after"]) == ("done", DIGEST)


async def test_no_more_machines_work_at_once_than_the_rollout_says(quick: Running) -> None:
    some = await machines(quick, 5, at_once=False)
    async with connected(quick, some):
        rollout = await begin(quick, parallelism=2)
        for ended in range(5):
            at_work = min(2, 5 - ended)
            view = await until_shown(quick, rollout["id"], counts_are(running=at_work, done=ended))
            assert sum(len(one.jobs) for one in some) == ended + at_work
            waiting = [target for target in view["targets"] if target["state"] == "waiting"]
            assert {target["waiting_for"] for target in waiting} <= {"turn"}
            busy = next(one for one in some if "running" in one.jobs.values())
            await busy.finish_pull()
        assert (await until_over(quick, rollout["id"]))["counts"]["done"] == 5


async def test_two_requests_with_one_key_are_one_rollout(quick: Running) -> None:
    some = await machines(quick, 2)
    async with connected(quick, some):
        body = {"action": "pull", "model": MODEL, "targets": {"all": True}, "key": "a click"}
        answers = await asyncio.gather(*(post(quick, "/rollouts", body) for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 201]
        (rollout_id,) = {answer.json()["id"] for answer in answers}
        await until_over(quick, rollout_id)
        assert (await post(quick, "/rollouts", body)).status_code == 200
    assert [sum(one.started.values()) for one in some] == [1, 1]


async def test_labels_names_and_ids_choose_machines_together(quick: Running) -> None:
    some = await machines(quick, 4)
    await quick.http.put(f"/api/v1/agents/{some[2].id}/labels", json={"labels": ["gpu"]})
    async with connected(quick, some[:3]), some[3].connected(quick, labels=("own",)):
        chosen = {"agents": ["m0", some[0].id], "labels": ["gpu", "own"]}
        view = await until_over(quick, (await begin(quick, targets=chosen))["id"])
    assert set(states(view)) == {"m0", "m2", "m3"}


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"targets": {}}, 422, "invalid_params"),
        ({"targets": {"labels": ["nobody"]}}, 422, "invalid_params"),
        ({"targets": {"agents": ["nobody"]}}, 404, "agent_unknown"),
        ({"model": "a b"}, 422, "invalid_params"),
        ({"action": "push"}, 422, "invalid_params"),
        ({"action": "copy"}, 422, "invalid_params"),
        ({"action": "copy", "destination": f"registry.ollama.ai/library/{MODEL}"}, 422, "invalid_params"),
        ({"destination": "other"}, 422, "invalid_params"),
        ({"action": "create"}, 422, "invalid_params"),
        ({"action": "create", "create": {"from": "a", "files": {}}}, 422, "invalid_params"),
        ({"digest": "short"}, 422, "invalid_params"),
        ({"parallelism": 65}, 422, "invalid_params"),
        ({"until": 1.0}, 422, "invalid_params"),
        ({"colour": "red"}, 422, "invalid_params"),
    ],
)
async def test_what_cannot_be_meant_is_refused_and_nothing_is_kept(
    server: Running, body: dict[str, Any], status: int, kind: str
) -> None:
    await server.enrol("m0")
    asked = {"action": "pull", "model": MODEL, "targets": {"all": True}} | body
    answer = await post(server, "/rollouts", asked)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (status, kind), answer.text
    assert (await server.http.get("/api/v1/rollouts")).json() == []


@pytest.mark.parametrize(
    "name",
    ["Tiny", "tiny", "registry.ollama.ai/library/TINY:latest", "https://registry.ollama.ai/library/tiny"],
)
async def test_every_spelling_of_a_name_is_the_model_that_ollama_opens(quick: Running, name: str) -> None:
    (machine,) = some = await machines(quick, 1)
    async with connected(quick, some):
        view = await until_over(quick, (await begin(quick, model=name))["id"])
    assert view["model"] == MODEL
    assert machine.asked[0][1]["model"] == MODEL


async def test_offline_machines_are_skipped_or_waited_for(quick: Running) -> None:
    here, away = await machines(quick, 2)
    async with here.connected(quick):
        skipped = await until_over(quick, (await begin(quick))["id"])
        assert states(skipped) == {"m0": "done", "m1": "skipped"}
        rollout = await begin(quick, offline="wait")
        view = await until_shown(quick, rollout["id"], lambda view: view["counts"]["done"] == 1)
        target = view["targets"][1]
        assert (target["state"], target["waiting_for"]) == ("waiting", "machine")
        async with away.connected(quick):
            assert states(await until_over(quick, rollout["id"])) == {"m0": "done", "m1": "done"}
    assert sum(away.started.values()) == 1


async def test_a_machine_that_went_a_moment_ago_is_not_skipped(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        some = await machines(server, 1)
        rollout = await begin(server)
        await until_shown(server, rollout["id"], lambda view: only(view)["waiting_for"] == "machine")
        async with connected(server, some):
            assert only(await until_over(server, rollout["id"]))["state"] == "done"


async def test_what_was_not_begun_in_time_is_skipped(quick: Running) -> None:
    await machines(quick, 1)
    view = await until_over(quick, (await begin(quick, offline="wait", until=time.time() + 2))["id"])
    assert (only(view)["state"], only(view)["reason"]) == ("skipped", "It was not begun in time.")


async def test_a_refusal_names_the_key_and_the_line_that_would_allow_it(quick: Running) -> None:
    refusal = NotPermitted("The host's owner does not allow pull_model.", policy_key="policy.allow_changes")
    some = await machines(quick, 1, refusal=refusal)
    async with connected(quick, some):
        target = only(await until_over(quick, (await begin(quick))["id"]))
    assert (target["state"], target["policy_key"]) == ("refused", "policy.allow_changes")
    assert target["remedy"] == "policy.allow_changes: [pull_model]"
    assert target["retry_helps"] is False
    assert target["error"]["data"]["kind"] == "not_permitted"


@pytest.mark.parametrize(
    ("failure", "helps"),
    [
        (OllamaError("pull model manifest: file does not exist"), False),
        (OllamaError('Get "https://registry/v2": dial tcp: lookup registry: no such host'), True),
        (OllamaError("write /blobs/x: no space left on device"), True),
        (InvalidParams("no"), False),
        # What agents tell apart themselves.
        (OllamaUnavailable("Ollama went away for ten minutes."), True),
        (ModelNotFound("The registry has no such model."), False),
        (DigestDiffers("Another version came.", wanted="a", digest="b"), False),
    ],
)
async def test_a_failure_says_why_and_whether_another_try_helps(
    quick: Running, failure: Any, helps: bool
) -> None:
    some = await machines(quick, 1, failure=failure)
    async with connected(quick, some):
        target = only(await until_over(quick, (await begin(quick))["id"]))
    assert (target["state"], target["reason"], target["retry_helps"]) == ("failed", failure.message, helps)


async def test_a_model_that_does_not_fit_is_refused_with_the_figures_until_there_is_room(
    quick: Running,
) -> None:
    some = await machines(quick, 1, failure=StorageLow("It does not fit.", needed_bytes=5, free_bytes=1))
    async with connected(quick, some):
        target = only(await until_over(quick, (await begin(quick))["id"]))
    assert (target["state"], target["reason"], target["retry_helps"]) == ("refused", "It does not fit.", True)
    assert target["error"]["data"]["detail"] == {"needed_bytes": 5, "free_bytes": 1}


async def test_what_a_machine_says_at_length_is_kept_short(quick: Running) -> None:
    some = await machines(quick, 1, failure=OllamaError("x" * 6000, detail="y" * 5000))
    async with connected(quick, some):
        target = only(await until_over(quick, (await begin(quick))["id"]))
    assert len(target["reason"]) == 500
    assert len(str(target["error"])) < 2000


async def test_a_machine_that_is_busy_is_asked_again_under_another_id(quick: Running) -> None:
    (machine,) = some = await machines(quick, 1, refusal=Busy("32 jobs are open"))
    async with connected(quick, some):
        rollout = await begin(quick)
        await until_shown(quick, rollout["id"], lambda view: only(view)["attempt"] >= 2)
        machine.refusal = None
        target = only(await until_over(quick, rollout["id"]))
    assert target["state"] == "done"
    asked = [params["job_id"] for _, params in machine.asked]
    assert len(asked) == len(set(asked))
    assert sum(machine.started.values()) == 1


async def test_a_command_waits_for_as_long_as_the_machine_is_busy_and_says_why(quick: Running) -> None:
    (machine,) = some = await machines(
        quick, 1, models={MODEL: model()}, refusal=Busy("A benchmark measures it.")
    )
    async with connected(quick, some):
        rollout = await begin(quick, action="delete")
        view = await until_shown(quick, rollout["id"], lambda view: only(view)["waiting_for"] == "machine")
        assert (only(view)["state"], only(view)["reason"]) == ("waiting", "A benchmark measures it.")
        await until(lambda: len(machine.asked) > QUICK.busy_tries)
        machine.refusal = None
        target = only(await until_over(quick, rollout["id"]))
    assert (target["state"], target["attempt"]) == ("done", 1)


async def test_cancelling_stops_what_runs_and_begins_nothing_more(quick: Running) -> None:
    some = await machines(quick, 3, at_once=False)
    async with connected(quick, some):
        rollout = await begin(quick, parallelism=1)
        await until_shown(quick, rollout["id"], lambda view: view["counts"]["running"] == 1)
        # It is shown as running before the machine has heard of it, and could still be taken back.
        await until(lambda: len(some[0].jobs) == 1)
        assert (await post(quick, f"/rollouts/{rollout['id']}/cancel")).status_code == 200
        view = await until_over(quick, rollout["id"])
    assert (view["state"], view["counts"]["cancelled"]) == ("cancelled", 3)
    assert [len(one.cancels) for one in some] == [1, 0, 0]
    assert [len(one.jobs) for one in some] == [1, 0, 0]


async def test_some_machines_are_cancelled_and_begun_again(quick: Running) -> None:
    some = await machines(quick, 3, at_once=False)
    async with connected(quick, some):
        rollout = await begin(quick)
        await until_shown(quick, rollout["id"], lambda view: view["counts"]["running"] == 3)
        await post(quick, f"/rollouts/{rollout['id']}/cancel", {"agents": ["m1"]})
        await until_shown(quick, rollout["id"], lambda view: view["counts"]["cancelled"] == 1)
        some[0].failure = OllamaError("EOF")
        await some[0].finish_pull()
        await some[2].finish_pull()
        view = await until_over(quick, rollout["id"])
        assert (view["state"], states(view)) == ("done", {"m0": "failed", "m1": "cancelled", "m2": "done"})
        some[0].failure = None
        for one in some:
            one.at_once = True
        await post(quick, f"/rollouts/{rollout['id']}/retry", {"agents": ["m0", "m2"]})
        view = await until_over(quick, rollout["id"])
        assert states(view) == {"m0": "done", "m1": "cancelled", "m2": "done"}
        await post(quick, f"/rollouts/{rollout['id']}/retry")
        view = await until_over(quick, rollout["id"])
    assert states(view) == {"m0": "done", "m1": "done", "m2": "done"}
    assert [sum(one.started.values()) for one in some] == [2, 2, 1]
    assert [target["attempt"] for target in view["targets"]] == [2, 2, 1]


async def test_a_pull_that_was_queued_is_shown_as_running_when_its_progress_says_so(tmp_path: Path) -> None:
    # Only what it hears makes it look again.
    settings = dataclasses.replace(QUICK, poll_s=3600)
    async with running(tmp_path, rollouts=settings) as server:
        (machine,) = await machines(server, 1)
        async with machine.connected(server):
            machine.link.handlers["pull_model"] = accept
            rollout = await begin(server)
            await until_shown(server, rollout["id"], lambda view: only(view)["waiting_for"] == "job")
            pull = next(one for one in machine.link.requests if one.method == "pull_model")
            job_id = msgspec.json.decode(pull.params)["job_id"]
            await machine.link.notify(
                "job.progress",
                JobProgressParams(job_id=job_id, state="running", progress=JobProgress(phase="pulling")),
            )
            await until_shown(server, rollout["id"], lambda view: only(view)["state"] == "running")


async def test_a_cancellation_reaches_a_machine_that_is_away_when_it_is_back(quick: Running) -> None:
    (machine,) = await machines(quick, 1, at_once=False)
    async with machine.connected(quick):
        rollout = await begin(quick)
        await until_shown(quick, rollout["id"], lambda view: only(view)["state"] == "running")
    await until_shown(quick, rollout["id"], lambda view: "offline" in (only(view)["reason"] or ""))
    await post(quick, f"/rollouts/{rollout['id']}/cancel")
    view = await shown(quick, rollout["id"])
    assert (view["state"], only(view)["cancelling"]) == ("running", True), "the machine still pulls"
    async with machine.connected(quick):
        assert only(await until_over(quick, rollout["id"]))["state"] == "cancelled"
    assert len(machine.cancels) == 1


async def test_a_second_rollout_on_the_same_model_and_machine_waits_for_the_first(quick: Running) -> None:
    (machine,) = some = await machines(quick, 1, at_once=False, models={MODEL: model()})
    async with connected(quick, some):
        first = await begin(quick)
        await until_shown(quick, first["id"], lambda view: only(view)["state"] == "running")
        second = await begin(quick, action="delete", model="Tiny")
        view = await until_shown(quick, second["id"], lambda view: only(view)["waiting_for"] == "rollout")
        assert only(view)["state"] == "waiting"
        other = await begin(quick, action="load", model="other")
        assert only(await until_over(quick, other["id"]))["state"] == "done", "another model waits for nobody"
        await machine.finish_pull()
        assert only(await until_over(quick, first["id"]))["state"] == "done"
        target = only(await until_over(quick, second["id"]))
    assert (target["state"], target["freed_bytes"]) == ("done", SIZE)
    assert machine.models == {}


async def test_a_job_that_stands_behind_a_benchmark_is_shown_as_waiting_for_it(quick: Running) -> None:
    (machine,) = some = await machines(quick, 1, at_once=False)
    async with connected(quick, some):
        rollout = await begin(quick)
        await until_shown(quick, rollout["id"], lambda view: only(view)["state"] == "running")
        await machine.say_progress(phase="waiting", waiting_for="a benchmark")
        view = await until_shown(quick, rollout["id"], lambda view: only(view)["state"] == "waiting")
        assert (only(view)["waiting_for"], only(view)["reason"]) == ("job", "It waits for a benchmark.")
        await machine.say_progress(phase="pulling", completed_bytes=10, total_bytes=SIZE, remaining_s=5.0)
        view = await until_shown(quick, rollout["id"], lambda view: only(view)["state"] == "running")
        assert (view["completed_bytes"], only(view)["remaining_s"]) == (10, 5.0)
        await machine.finish_pull()
        await until_over(quick, rollout["id"])


async def test_a_copy_that_is_there_already_is_not_made_again(quick: Running) -> None:
    (machine,) = some = await machines(quick, 1, models={MODEL: model()})
    async with connected(quick, some):
        copy = {"action": "copy", "destination": "mine:latest"}
        first = only(await until_over(quick, (await begin(quick, **copy))["id"]))
        second = only(await until_over(quick, (await begin(quick, **copy))["id"]))
    assert (first["state"], first["digest_before"], first["digest_after"]) == ("done", None, DIGEST)
    assert (second["state"], second["reason"]) == ("done", "It was there already.")
    assert [method for method, _ in machine.asked] == ["copy_model"]


async def test_deleting_what_is_not_there_is_done(quick: Running) -> None:
    some = await machines(quick, 1)
    async with connected(quick, some):
        target = only(await until_over(quick, (await begin(quick, action="delete"))["id"]))
    assert (target["state"], target["reason"]) == ("done", "It was not there.")


async def test_a_command_that_may_not_begin_while_the_database_is_away_is_sent_later(
    quick: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, refusals = quick.parts.hub, 2
    call_text = hub.call_text

    async def away(*words: Any, **options: Any) -> bytes:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise DatabaseUnavailable("away", retry_after_ms=1000)
        return await call_text(*words, **options)

    monkeypatch.setattr(hub, "call_text", away)
    some = await machines(quick, 1)
    async with connected(quick, some):
        view = await until_over(quick, (await begin(quick, action="load"))["id"])
        assert (only(view)["state"], refusals) == ("done", 0), view


async def test_loading_what_is_not_there_fails(quick: Running) -> None:
    some = await machines(quick, 1, refusal=ModelNotFound("model 'tiny' not found"))
    async with connected(quick, some):
        target = only(await until_over(quick, (await begin(quick, action="load"))["id"]))
    assert (target["state"], target["retry_helps"]) == ("failed", False)


async def test_a_creation_brings_its_parts_to_each_machine(quick: Running) -> None:
    (machine,) = some = await machines(quick, 1)
    create = {"from": "Tiny", "system": "You are terse.", "parameters": {"num_ctx": 2048}}
    async with connected(quick, some):
        view = await until_over(
            quick, (await begin(quick, action="create", model="mine", create=create))["id"]
        )
    method, params = machine.asked[0]
    assert (method, params["model"], params["from"]) == ("create_model", "mine:latest", MODEL)
    assert (params["system"], params["parameters"]) == ("You are terse.", {"num_ctx": 2048})
    assert view["create"]["from"] == MODEL


async def test_a_machine_that_was_removed_fails_and_holds_nothing_up(quick: Running) -> None:
    await machines(quick, 1)
    rollout = await begin(quick, offline="wait")
    await until_shown(quick, rollout["id"], lambda view: only(view)["waiting_for"] == "machine")
    assert (await quick.http.delete("/api/v1/agents/m0")).status_code == 204
    target = only(await until_over(quick, rollout["id"]))
    assert (target["state"], target["error"]["data"]["kind"]) == ("failed", "agent_unknown")


async def preview(server: Running, **fields: Any) -> dict[str, tuple[str, int | None]]:
    """By machine: what would happen, and bytes."""
    body = {"action": "pull", "model": MODEL, "targets": {"all": True}} | fields
    answer = await post(server, "/rollouts/preview", body)
    assert answer.status_code == 200, answer.text
    return {one["agent_name"]: (one["would"], one["bytes"]) for one in answer.json()}


async def test_a_preview_says_what_would_happen_and_sends_nothing(quick: Running) -> None:
    some = await machines(quick, 4, allowed=("pull_model", "copy_model", "delete_model", "load_model"))
    some[0].models = {MODEL: model(), "mine:latest": model("mine:latest")}
    some[2].allowed = ("list_models",)
    async with connected(quick, some[:3]):
        there = {"m0": ("update?", SIZE), "m1": ("pull", SIZE), "m2": ("refused", SIZE)}
        assert await preview(quick) == there | {"m3": ("skip", SIZE)}
        assert (await preview(quick, offline="wait"))["m3"] == ("wait", SIZE)
        assert (await preview(quick, digest=DIGEST))["m0"] == ("nothing", SIZE)
        assert (await preview(quick, action="copy", destination="mine"))["m0"] == ("nothing", None)
        assert (await preview(quick, action="copy", destination="other"))["m0"] == ("copy", None)
        assert (await preview(quick, action="copy", destination="other"))["m1"] == ("refused", None)
        deleted = await preview(quick, action="delete")
        assert (deleted["m0"], deleted["m1"]) == (("delete", None), ("nothing", None))
        assert (await preview(quick, action="load"))["m0"] == ("load", None)
    assert [one.asked for one in some] == [[]] * 4
    assert (await quick.http.get("/api/v1/rollouts")).json() == []


async def test_only_a_rollout_that_has_ended_can_be_forgotten(quick: Running) -> None:
    some = await machines(quick, 1, at_once=False)
    async with connected(quick, some):
        rollout = await begin(quick)
        await until_shown(quick, rollout["id"], lambda view: only(view)["state"] == "running")
        address = f"/api/v1/rollouts/{rollout['id']}"
        refused = await quick.http.delete(address)
        assert (refused.status_code, refused.json()["error"]["kind"]) == (409, "rollout_open")
        await some[0].finish_pull()
        await until_over(quick, rollout["id"])
        await until(lambda: not quick.parts.context.rollouts.running())
        assert (await quick.http.delete(address)).status_code == 204
        assert (await quick.http.get(address)).status_code == 404


async def test_the_oldest_rollouts_that_have_ended_make_room(
    quick: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_rows, "MAX_ROLLOUTS", 2)
    some = await machines(quick, 1)
    async with connected(quick, some):
        ids = [(await until_over(quick, (await begin(quick))["id"]))["id"] for _ in range(3)]
        listed = (await quick.http.get("/api/v1/rollouts")).json()
        assert [one["id"] for one in listed] == ids[:0:-1]
        some[0].at_once = False
        open_ones = [(await begin(quick))["id"] for _ in range(2)]
        body = {"action": "pull", "model": MODEL, "targets": {"all": True}}
        refused = await post(quick, "/rollouts", body)
        assert (refused.status_code, refused.json()["error"]["kind"]) == (429, "busy")
        assert {one["id"] for one in (await quick.http.get("/api/v1/rollouts")).json()} == set(open_ones)


async def test_rollouts_are_listed_by_state_model_and_machine(quick: Running) -> None:
    some = await machines(quick, 2)
    async with connected(quick, some):
        one = await until_over(quick, (await begin(quick, targets={"agents": ["m0"]}))["id"])
        two = await until_over(quick, (await begin(quick, model="other"))["id"])
    for query, wanted in (
        ("state=running", []),
        ("state=done", [two["id"], one["id"]]),
        ("model=Other:latest", [two["id"]]),
        ("agent=m1", [two["id"]]),
        ("limit=1", [two["id"]]),
    ):
        listed = (await quick.http.get(f"/api/v1/rollouts?{query}")).json()
        assert [shown["id"] for shown in listed] == wanted, query
