"""Jobs: started once, followed, and their results committed before they are answered."""

import asyncio
import base64
import gzip
import json
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.errors import DeadlineExceeded, InvalidParams, JobConflict, JobNotFound, NotPermitted, TooLarge
from obt_agent.ollama.payloads import InstalledModel
from obt_agent.protocol.commands import CancelResult
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.jobs import (
    JobProgress,
    JobProgressParams,
    JobStarted,
)
from obt_agent.protocol.limits import Close
from obt_agent.protocol.state import Page
from obt_server.hub.events import JobChanged
from obt_server.hub.jobs import check_job_id
from tests.project.paths import ROOT
from tests.server.agent_double import AgentDouble, Answer, dial, never
from tests.server.conftest import Running, running
from tests.server.databases import rows_in
from tests.server.job_steps import PLAN, RESULT, accept, digest, finish, part, start, summary, sync_jobs, view
from tests.server.test_streams import sample
from tests.waiting import until

# -- starting ---------------------------------------------------------------------------------------------


RUNNING = JobProgress(phase="iteration", iteration=1, iterations_planned=3)


async def test_an_answer_that_progress_has_overtaken_does_not_take_the_job_back(server: Running) -> None:
    async def says_progress_first(agent: AgentDouble, request: Request) -> Answer:
        job_id = msgspec.json.decode(request.params)["job_id"]
        running = JobProgressParams(job_id=job_id, state="running", progress=RUNNING)
        await agent.notify("job.progress", running)
        return JobStarted(job_id=job_id, state="queued", position=1)

    async with server.agent() as agent:
        agent.handlers["run_benchmark"] = says_progress_first
        answer = await server.http.post("/api/v1/benchmarks", json={"agent": agent.agent_id, "plan": PLAN})
        assert await stored_state(server, agent, answer.json()["job_id"]) == "running"


async def test_progress_of_a_job_whose_id_cannot_be_stored_is_a_bad_message(server: Running) -> None:
    async with server.agent() as agent:
        for number in range(10):
            job_id = "a\0b" if number % 2 else "j" * 129
            params = JobProgressParams(job_id=job_id, state="running", progress=RUNNING)
            await agent.notify("job.progress", params)
        assert await agent.until_closed() == (Close.PROTOCOL_ERROR, "ten bad messages in a minute")


async def test_a_result_whose_model_cannot_be_stored_is_kept_without_its_name(server: Running) -> None:
    text = json.dumps({"environment": {"model": "tiny\0", "model_digest": "d\0"}, "metrics": []})
    async with server.agent() as agent:
        job_id = await start(server, agent)
        await finish(agent, job_id, text)
        stored = await server.parts.storage.job_by_id(job_id)
        assert (stored.state, stored.model_digest) == ("completed", None)
        assert await server.parts.storage.result(agent.agent_id, job_id) == text.encode()


async def test_a_list_that_progress_has_overtaken_does_not_take_a_job_back(server: Running) -> None:
    async with server.agent() as agent:
        job_id = await start(server, agent)
        # Both are under way before the list has been compared with what is stored.
        listed = asyncio.create_task(sync_jobs(agent, summary(job_id, "accepted")), name="list of jobs")
        await asyncio.sleep(0)
        running = JobProgressParams(job_id=job_id, state="running", progress=RUNNING)
        await agent.notify("job.progress", running)
        await listed
        await until(lambda: is_running(server, agent, job_id))


async def stored_state(server: Running, agent: AgentDouble, job_id: str) -> str | None:
    job = await server.parts.storage.job(agent.agent_id, job_id)
    return None if job is None else job.state


async def is_running(server: Running, agent: AgentDouble, job_id: str) -> bool:
    return await stored_state(server, agent, job_id) == "running"


async def test_progress_is_published_when_the_state_that_it_says_is_stored(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, stored = server.parts.storage, asyncio.Event()
    change_job = storage.change_job

    async def slow(*change: Any) -> None:
        await stored.wait()
        await change_job(*change)

    async with server.agent() as agent:
        job_id = await start(server, agent)
        monkeypatch.setattr(storage, "change_job", slow)
        with server.parts.hub.events.listen() as listener:
            for iteration in (1, 2):
                progress = JobProgress(phase="iteration", iteration=iteration, iterations_planned=3)
                await agent.notify(
                    "job.progress", JobProgressParams(job_id=job_id, state="running", progress=progress)
                )
            # Behind them on the socket.
            await agent.sync_models()
            assert await stored_state(server, agent, job_id) == "queued"
            stored.set()
            while not isinstance(event := await listener.next(), JobChanged):
                pass
            assert await stored_state(server, agent, job_id) == "running"
            assert event.progress is not None
            assert event.progress.iteration == 2, "the latest"


async def test_a_benchmark_is_started_followed_finished_and_its_result_kept_byte_by_byte(
    server: Running,
) -> None:
    async with server.agent() as agent:
        await agent.sync_models(InstalledModel(name="tiny:latest", digest="d1", size_bytes=1))
        job_id = await start(server, agent)
        sent = msgspec.json.decode(agent.requests[-1].params)
        assert sent["plan"] == PLAN
        assert sent["not_after"] > time.time() + 3000
        shown = await view(server, job_id)
        assert (shown["state"], shown["model"], shown["model_digest"]) == ("queued", "tiny:latest", "d1")
        progress = JobProgress(phase="iteration", iteration=1, iterations_planned=3, tokens_per_second=9.5)
        await agent.notify(
            "job.progress", JobProgressParams(job_id=job_id, state="running", progress=progress)
        )
        await sync_jobs(agent, summary(job_id, "running"))
        shown = await view(server, job_id)
        assert (shown["state"], shown["progress"]["tokens_per_second"]) == ("running", 9.5)
        answer = await finish(agent, job_id)
        assert (answer.sha256, answer.conflict) == (digest(RESULT), False)
    shown = await view(server, job_id)
    assert (shown["state"], shown["model_digest"], shown["progress"]) == ("completed", "d2", None)
    result = await server.http.get(f"/api/v1/benchmarks/{job_id}/result")
    assert result.content == RESULT.encode()
    assert result.headers["etag"] == f'"{digest(RESULT)}"'
    listed = (await server.http.get(f"/api/v1/benchmarks?agent={agent.agent_id}&model=tiny:latest")).json()
    assert [job["job_id"] for job in listed] == [job_id]
    assert (await server.http.get("/api/v1/benchmarks?state=failed")).json() == []


async def test_a_benchmark_for_an_offline_agent_is_refused_and_nothing_is_stored(server: Running) -> None:
    agent_id, _ = await server.enrol()
    answer = await server.http.post("/api/v1/benchmarks", json={"agent": agent_id, "plan": PLAN})
    assert (answer.status_code, answer.json()["error"]["kind"]) == (409, "agent_offline")
    assert (await server.http.get("/api/v1/benchmarks")).json() == []


async def test_a_plan_that_is_none_is_refused_with_the_fields_path(server: Running) -> None:
    async with server.agent() as agent:
        answer = await server.http.post("/api/v1/benchmarks", json={"agent": agent.agent_id, "plan": {}})
        assert answer.status_code == 422
        assert "plan" in answer.json()["error"]["message"]
        assert not agent.requests


async def test_what_the_agent_refuses_is_said_and_the_job_has_failed(server: Running) -> None:
    async def forbidden(*_: object) -> Answer:
        return NotPermitted("no benchmarks here", policy_key="policy.commands")

    async with server.agent() as agent:
        agent.handlers["run_benchmark"] = forbidden
        body = {"agent": agent.agent_id, "plan": PLAN, "job_id": "mine"}
        assert (await server.http.post("/api/v1/benchmarks", json=body)).status_code == 403
    shown = await view(server, "mine")
    assert (shown["state"], shown["error"]["message"]) == ("failed", "no benchmarks here")


async def test_a_start_that_came_too_late_has_failed_and_is_not_sent_again(server: Running) -> None:
    async with server.agent() as agent:

        async def late(_: AgentDouble, __: Request) -> Answer:
            return DeadlineExceeded(
                "params.not_after passed 9 s ago.", retryable=False, waited_for="the start"
            )

        agent.handlers["run_benchmark"] = late
        answer = await server.http.post(
            "/api/v1/benchmarks", json={"agent": agent.agent_id, "plan": PLAN, "job_id": "late"}
        )
        assert answer.status_code == 504
        assert (await view(server, "late"))["state"] == "failed"


async def test_a_refused_repeat_of_an_id_leaves_the_job_that_has_it_as_it_was(server: Running) -> None:
    async def conflict(*_: object) -> Answer:
        return JobConflict("the id is taken by a job with other parameters")

    async with server.agent() as agent:
        job_id = await start(server, agent)
        agent.handlers["run_benchmark"] = agent.handlers["pull_model"] = conflict
        other = {"agent": agent.agent_id, "plan": {**PLAN, "num_iterations": 9}, "job_id": job_id}
        assert (await server.http.post("/api/v1/benchmarks", json=other)).status_code == 409
        pull = f"/api/v1/agents/{agent.agent_id}/commands/pull_model"
        assert (await server.http.post(pull, json={"model": "m", "job_id": job_id})).status_code == 409
        shown = await view(server, job_id)
        assert (shown["state"], shown["kind"], shown["error"]) == ("queued", "benchmark", None)


async def test_jobs_of_other_kinds_start_through_commands_under_an_id_of_ours(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["pull_model"] = accept
        path = f"/api/v1/agents/{agent.agent_id}/commands/pull_model"
        answer = await server.http.post(path, json={"model": "tiny"})
        assert answer.json()["state"] == "queued"
        jobs = (await server.http.get(f"/api/v1/jobs?agent={agent.agent_id}")).json()
    assert [(job["kind"], job["job_id"]) for job in jobs] == [("pull", answer.json()["job_id"])]
    assert (await server.http.get("/api/v1/benchmarks")).json() == []


async def test_a_start_whose_answer_was_lost_is_sent_again_with_the_same_id(server: Running) -> None:
    credentials = await server.enrol()
    async with server.agent(credentials=credentials) as agent:
        agent.handlers["run_benchmark"] = never
        body = {"agent": agent.agent_id, "plan": PLAN, "job_id": "once"}
        asked = asyncio.create_task(server.http.post("/api/v1/benchmarks", json=body))
        await agent.until(lambda: bool(agent.requests))
        await sync_jobs(agent)
        await agent.socket.close()
        assert (await asked).json()["error"]["kind"] == "link_lost"
        first = agent.requests[0].params
    assert (await view(server, "once"))["state"] == "starting"
    async with server.agent(credentials=credentials) as agent:
        agent.handlers["run_benchmark"] = accept
        await sync_jobs(agent)
        await agent.until(lambda: bool(agent.requests))
        assert bytes(agent.requests[0].params) == bytes(first)
        await finish(agent, "once")
    assert (await view(server, "once"))["state"] == "completed"


async def test_a_start_that_the_agent_had_stored_is_not_sent_again(server: Running) -> None:
    credentials = await server.enrol()
    async with server.agent(credentials=credentials) as agent:
        agent.handlers["run_benchmark"] = never
        body = {"agent": agent.agent_id, "plan": PLAN, "job_id": "once"}
        asked = asyncio.create_task(server.http.post("/api/v1/benchmarks", json=body))
        await agent.until(lambda: bool(agent.requests))
        await agent.socket.close()
        await asked
    async with server.agent(credentials=credentials) as agent:
        await sync_jobs(agent, summary("once", "running"))
        assert (await view(server, "once"))["state"] == "running"
        assert not agent.requests


async def test_a_start_that_is_refused_the_second_time_has_failed(server: Running) -> None:
    credentials = await server.enrol()
    async with server.agent(credentials=credentials) as agent:
        agent.handlers["run_benchmark"] = never
        body = {"agent": agent.agent_id, "plan": PLAN, "job_id": "late"}
        asked = asyncio.create_task(server.http.post("/api/v1/benchmarks", json=body))
        await agent.until(lambda: bool(agent.requests))
        await agent.socket.close()
        await asked
    async with server.agent(credentials=credentials) as agent:

        async def too_late(*_: object) -> Answer:
            return InvalidParams("not_after has passed")

        agent.handlers["run_benchmark"] = too_late
        await sync_jobs(agent)
        await until_state(server, "late", "failed")


async def until_state(server: Running, job_id: str, state: str) -> None:
    """Wait by the public stream of a job's progress."""
    async with (
        asyncio.timeout(20),
        server.http.stream("GET", f"/api/v1/benchmarks/{job_id}/progress") as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data:") and json.loads(line[5:])["state"] == state:
                return
    pytest.fail(f"{job_id} never was {state}")


# -- finals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_result_in_parts_is_joined_and_its_parts_are_dropped(
    server: Running, tmp_path: Path, encoding: Any
) -> None:
    text = json.dumps({"metrics": ["é" * 50] * 400}, ensure_ascii=False)
    packed = text.encode() if encoding == "identity" else gzip.compress(text.encode())
    async with server.agent() as agent:
        job_id = await start(server, agent)
        offset = 0
        while offset < len(packed):
            piece = packed[offset : offset + 5001]
            if encoding == "identity":
                data = piece.decode(errors="ignore")
                piece = data.encode()
            else:
                data = base64.b64encode(piece).decode()
            assert await part(agent, job_id, offset, data, encoding=encoding) == offset + len(piece)
            offset += len(piece)
        answer = await finish(agent, job_id, text, result=None, encoding=encoding)
        assert answer.sha256 == digest(text)
    stored = await server.http.get(f"/api/v1/benchmarks/{job_id}/result")
    assert stored.content == text.encode()
    assert rows_in(tmp_path, "select count(*) from obt_result_parts") == [(0,)]


async def test_parts_with_a_hole_are_asked_for_from_where_they_are_missing(server: Running) -> None:
    async with server.agent() as agent:
        job_id = await start(server, agent)
        assert await part(agent, job_id, 0, "abc") == 3
        assert await part(agent, job_id, 9, "later") == 3
        assert await part(agent, job_id, 0, "ab") == 2, "offset 0 starts anew"


async def test_a_final_whose_parts_are_missing_or_wrong_asks_for_them_again(server: Running) -> None:
    text = json.dumps({"metrics": list(range(100))})
    async with server.agent() as agent:
        job_id = await start(server, agent)
        assert (await finish(agent, job_id, text, result=None)).resend_from == 0
        await part(agent, job_id, 0, "x" * len(text))
        assert (await finish(agent, job_id, text, result=None)).resend_from == 0
        await part(agent, job_id, 0, base64.b64encode(b"no gzip").decode(), encoding="gzip")
        assert (await finish(agent, job_id, text, result=None, encoding="gzip")).resend_from == 0
        assert (await view(server, job_id))["result_available"] is False
        await part(agent, job_id, 0, text)
        assert (await finish(agent, job_id, text, result=None)).sha256 == digest(text)


async def test_a_gzip_bomb_is_unpacked_no_further_than_it_says(server: Running) -> None:
    bomb = base64.b64encode(gzip.compress(b" " * 50_000_000)).decode()
    async with server.agent() as agent:
        job_id = await start(server, agent)
        await part(agent, job_id, 0, bomb, encoding="gzip")
        answer = await finish(agent, job_id, "{}", result=None, encoding="gzip")
        assert answer.resend_from == 0


async def test_a_repeated_final_is_answered_alike_also_without_its_parts(server: Running) -> None:
    async with server.agent() as agent:
        job_id = await start(server, agent)
        await finish(agent, job_id)
        assert (await finish(agent, job_id)).sha256 == digest(RESULT)
        again = await finish(agent, job_id, result=None)
        assert (again.sha256, again.resend_from, again.conflict) == (digest(RESULT), None, False)


async def test_the_first_result_wins_and_another_is_set_aside(server: Running, tmp_path: Path) -> None:
    other = '{"other":1}'
    async with server.agent() as agent:
        job_id = await start(server, agent)
        await finish(agent, job_id)
        answer = await finish(agent, job_id, other)
        assert (answer.sha256, answer.conflict) == (digest(other), True)
        assert (await finish(agent, job_id, other, result=None)).conflict is True
    stored = await server.http.get(f"/api/v1/benchmarks/{job_id}/result")
    assert stored.content == RESULT.encode()
    assert rows_in(tmp_path, "select accepted, count(*) from obt_results group by accepted") == [
        (0, 1),
        (1, 1),
    ]


async def test_a_result_of_a_job_that_this_storage_does_not_know_is_kept(server: Running) -> None:
    async with server.agent() as agent:
        await finish(agent, "from-before")
    shown = await view(server, "from-before")
    assert (shown["state"], shown["agent_id"], shown["params"]) == ("completed", agent.agent_id, {})


async def test_one_agents_final_never_ends_another_agents_job(server: Running) -> None:
    async with server.agent("one") as one, server.agent("two") as two:
        job_id = await start(server, one, job_id="shared")
        await finish(two, job_id)
        mine = await server.http.get(f"/api/v1/benchmarks/{job_id}?agent=one")
        assert mine.json()["state"] == "queued"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"state": "running"}, r"params\.state: Invalid enum value"),
        ({"sha256": "0" * 64}, "another size or sha256"),
        ({"result": "[1", "bytes": 2, "sha256": digest("[1")}, "not JSON"),
    ],
)
async def test_a_final_that_cannot_be_true_is_refused(
    server: Running, change: dict[str, Any], error: str
) -> None:
    async with server.agent() as agent:
        with pytest.raises(InvalidParams, match=error):
            await finish(agent, "j", **change)
        with pytest.raises(InvalidParams, match="base64"):
            await part(agent, "j", 0, "***", encoding="gzip")


async def test_results_over_the_limit_are_refused_and_others_still_pass(tmp_path: Path) -> None:
    async with running(tmp_path, max_result_bytes=1000) as server, server.agent() as agent:
        job_id = await start(server, agent)
        with pytest.raises(TooLarge, match="over the 1000"):
            await finish(agent, job_id, result=None, bytes=5000)
        with pytest.raises(TooLarge, match="unfinished results"):
            await part(agent, "other", 0, "x" * 3000)
        assert (await finish(agent, job_id)).sha256 == digest(RESULT)


async def test_a_result_is_committed_before_it_is_acknowledged(server: Running, tmp_path: Path) -> None:
    async with server.agent() as agent:
        job_id = await start(server, agent)
        seen: list[Any] = []

        def look(message: Any) -> None:
            if getattr(message, "result", None) is not None:
                seen.extend(rows_in(tmp_path, "select job_id, sha256 from obt_jobs"))

        agent.look = look
        await finish(agent, job_id)
    assert seen == [(job_id, digest(RESULT))]


# -- jobs that the agent has or has not -------------------------------------------------------------------


async def test_another_job_store_makes_unfinished_jobs_lost_and_keeps_finished_ones(server: Running) -> None:
    credentials = await server.enrol()
    async with server.agent(credentials=credentials) as agent:
        done, open_ = await start(server, agent), await start(server, agent)
        await finish(agent, done)
    async with server.agent(credentials=credentials) as agent:
        assert (await view(server, open_))["state"] == "queued"
    async with dial(server.url, credentials[1], credentials[0]) as agent:
        agent.store_id = "another store"
        await agent.hello()
        assert (await view(server, open_))["state"] == "lost"
        assert (await view(server, done))["state"] == "completed"
        await finish(agent, open_)
    assert (await view(server, open_))["state"] == "completed", "a result that comes after all is kept"


async def test_a_job_that_the_agent_no_longer_lists_is_asked_after(server: Running) -> None:
    credentials = await server.enrol()
    async with server.agent(credentials=credentials) as agent:
        gone, kept, unclear = [await start(server, agent) for _ in range(3)]
        await sync_jobs(agent)
        assert (await view(server, gone))["state"] == "queued", "started in this session: the list is older"

    async def status(_: AgentDouble, request: Request) -> Answer:
        job_id = msgspec.json.decode(request.params)["job_id"]
        if job_id == gone:
            return JobNotFound("no such job")
        if job_id == unclear:
            return NotPermitted("not today", policy_key="policy.commands")
        return {"job": msgspec.to_builtins(summary(job_id, "running"))}

    async with server.agent(credentials=credentials) as agent:
        agent.handlers["benchmark_status"] = status
        await sync_jobs(agent)
        await until_state(server, gone, "lost")
        await until_state(server, kept, "running")
        assert (await view(server, unclear))["state"] == "queued"


async def test_a_finished_job_in_the_list_waits_for_its_final(server: Running) -> None:
    async with server.agent() as agent:
        job_id = await start(server, agent)
        await sync_jobs(agent, summary(job_id, "completed"))
        assert (await view(server, job_id))["state"] == "queued"


async def test_lists_of_jobs_come_in_pages_and_pages_out_of_order_are_refused(server: Running) -> None:
    async with server.agent() as agent:
        one, two = await start(server, agent), await start(server, agent)
        await sync_jobs(agent, summary(one, "running"), page=Page(index=0, last=False))
        assert (await view(server, one))["state"] == "queued", "the list is not whole"
        await sync_jobs(agent, summary(two, "running"), page=Page(index=1, last=True))
        assert (await view(server, one))["state"] == "running"
        assert (await view(server, two))["state"] == "running"
        with pytest.raises(Exception, match="out of order"):
            await sync_jobs(agent, page=Page(index=1, last=True))


# -- following, cancelling, deleting ----------------------------------------------------------------------


async def test_progress_is_live_by_events_until_the_job_ends(server: Running) -> None:
    async with server.agent() as agent:
        job_id = await start(server, agent)
        seen: list[tuple[str, str]] = []
        async with server.http.stream("GET", f"/api/v1/benchmarks/{job_id}/progress") as answer:
            lines = answer.aiter_lines()
            seen.append(await next_event(lines))
            progress = JobProgressParams(job_id=job_id, state="running", progress=JobProgress(phase="warmup"))
            await agent.notify("job.progress", progress)
            while seen[-1][1] != "running":
                seen.append(await next_event(lines))
            await finish(agent, job_id, state="interrupted")
            while seen[-1][0] != "end":
                seen.append(await next_event(lines))
    assert seen[0] == ("job", "queued")
    assert seen[-1] == ("end", "interrupted")


async def next_event(lines: Any) -> tuple[str, str]:
    name = ""
    async with asyncio.timeout(20):
        async for line in lines:
            if line.startswith("event:"):
                name = line[7:]
            if line.startswith("data:"):
                return name, json.loads(line[5:])["state"]
    pytest.fail("the stream ended")


async def test_metrics_of_a_running_benchmark_are_one_series_with_its_past(server: Running) -> None:
    async with server.agent() as agent:
        job_id = await start(server, agent)
        agent.handlers["benchmark_metrics"] = never
        hub = server.parts.hub
        async with hub.watch_benchmark(agent.agent_id, job_id, 0) as early:
            await agent.until(lambda: agent.requests[-1].method == "benchmark_metrics")
            await agent.stream_items(agent.requests[-1], sample(1), sample(2), sample(3))
            iterator = aiter(early)
            assert [(await anext(iterator)).n for _ in range(3)] == [1, 2, 3]
            async with hub.watch_benchmark(agent.agent_id, job_id, 1) as late:
                again = aiter(late)
                assert [(await anext(again)).n for _ in range(2)] == [2, 3]
            headers = {"Last-Event-ID": "2"}
            path = f"/api/v1/benchmarks/{job_id}/metrics"
            async with server.http.stream("GET", path, headers=headers) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("id:"):
                        assert line == "id: 3"
                        break


async def test_a_job_is_cancelled_at_its_agent_and_deleted_when_it_has_ended(server: Running) -> None:
    async with server.agent() as agent:
        job_id = await start(server, agent)
        path = f"/api/v1/benchmarks/{job_id}"
        assert (await server.http.delete(path)).json()["error"]["kind"] == "job_open"
        assert (await server.http.post(f"{path}/cancel")).json() == {"state": "cancelling"}
        assert msgspec.json.decode(agent.requests[-1].params) == {"job_id": job_id}
        assert (await server.http.get(f"{path}/result")).status_code == 404
        await finish(agent, job_id, state="cancelled")
        assert (await server.http.delete(path)).status_code == 204
        assert (await server.http.get(path)).status_code == 404
        assert (await server.http.delete(path)).status_code == 404


async def test_progress_of_more_jobs_than_may_run_forgets_the_oldest(tmp_path: Path) -> None:
    async with running(tmp_path, max_in_flight=2) as server, server.agent() as agent:
        for number in range(3):
            params = JobProgressParams(
                job_id=str(number), state="running", progress=JobProgress(phase="warmup")
            )
            await agent.notify("job.progress", params)
        await agent.sync_models()
        presence = server.parts.hub.presence(agent.agent_id)
        assert presence is not None
        assert list(presence.progress) == ["1", "2"]


async def test_results_are_compared_and_converted_and_what_is_none_is_refused(
    server: Running,
) -> None:
    measured = (ROOT / "docs/examples/benchmark-result.json").read_text()
    async with server.agent() as agent:
        a, b, odd, open_ = [await start(server, agent) for _ in range(4)]
        await finish(agent, a, measured)
        await finish(agent, b, measured)
        await finish(agent, odd, "{}")
    path = "/api/v1/benchmarks/compare"
    in_their_form = await server.http.get(f"/api/v1/benchmarks/{a}/result?form=obt")
    assert in_their_form.json() == json.loads((ROOT / "docs/examples/benchmark-result.obt.json").read_text())
    refused = await server.http.get(f"/api/v1/benchmarks/{odd}/result?form=obt")
    assert (refused.status_code, refused.json()["error"]["kind"]) == (422, "invalid_params")
    same = await server.http.get(f"{path}?a={a}&b={b}")
    assert same.status_code == 200, same.text
    refused = await server.http.get(f"{path}?a={a}&b={odd}")
    assert (refused.status_code, refused.json()["error"]["kind"]) == (422, "invalid_params")
    assert (await server.http.get(f"{path}?a={a}&b={open_}")).status_code == 404
    assert (await server.http.get(f"{path}?a={a}&b=nothing")).status_code == 404


async def test_an_agent_cannot_answer_for_a_job_that_was_started_elsewhere(server: Running) -> None:
    forged = RESULT.replace("tiny", "forged")
    async with server.agent("liar") as liar, server.agent("honest") as honest:
        honest.handlers["cancel"] = cancelling
        await finish(liar, "job-7", forged)
        alone = await view(server, "job-7")
        assert (alone["agent_id"], alone["requested"]) == (liar.agent_id, False)
        await start(server, honest, job_id="job-7")
        shown = await view(server, "job-7")
        assert (shown["agent_id"], shown["requested"]) == (honest.agent_id, True)
        assert (await server.http.post("/api/v1/benchmarks/job-7/cancel")).json() == {"state": "cancelling"}
        await finish(honest, "job-7")
        result = await server.http.get("/api/v1/benchmarks/job-7/result")
        theirs = await server.http.get(f"/api/v1/benchmarks/job-7/result?agent={liar.agent_id}")
        apart = (await server.http.get("/api/v1/benchmarks?requested=false")).json()
        listed = (await server.http.get("/api/v1/results")).json()["results"]
    assert (result.content, theirs.content) == (RESULT.encode(), forged.encode())
    assert [job["agent_id"] for job in apart] == [liar.agent_id]
    assert {(row["agent_name"], row["requested"]) for row in listed} <= {("liar", False), ("honest", True)}


async def test_a_job_id_that_two_agents_were_asked_for_needs_the_agent(server: Running) -> None:
    async with server.agent("one") as one, server.agent("two") as two:
        await start(server, one, job_id="same")
        await start(server, two, job_id="same")
        answer = await server.http.get("/api/v1/benchmarks/same")
        assert (answer.status_code, answer.json()["error"]["kind"]) == (409, "job_ambiguous")
        named = await server.http.get("/api/v1/benchmarks/same?agent=two")
    assert named.json()["agent_id"] == two.agent_id


async def cancelling(_: AgentDouble, __: Request) -> Answer:
    return CancelResult(state="cancelling")


@given(st.text(max_size=140) | st.sampled_from(["a/b", ".", "..", "compare", "a b", "x" * 128]))
def test_a_job_id_is_refused_or_is_the_last_part_of_its_address(job_id: str) -> None:
    try:
        check_job_id(job_id, "params.job_id")
    except InvalidParams:
        return
    path = str(httpx.URL(f"http://host/api/v1/benchmarks/{job_id}").path)
    assert path == f"/api/v1/benchmarks/{job_id}"
    assert job_id != "compare"


@pytest.mark.parametrize("job_id", ["a/b", "..", "compare", "a b"])
async def test_a_job_under_an_id_that_no_address_can_name_is_refused(server: Running, job_id: str) -> None:
    async with server.agent() as agent:
        agent.handlers["run_benchmark"] = accept
        body = {"agent": agent.agent_id, "plan": PLAN, "job_id": job_id}
        answer = await server.http.post("/api/v1/benchmarks", json=body)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "invalid_params")
        with pytest.raises(InvalidParams, match="job_id"):
            await finish(agent, job_id)
