"""What an enrolled agent that turned hostile can make the server keep; an honest one loses nothing."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from obt_agent.errors import AgentError, InvalidParams, StorageFull, TooLarge
from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_agent.protocol.errors import ErrorData, WireError
from obt_agent.protocol.jobs import JobPartParams, JobPartResult
from obt_agent.protocol.limits import Close
from obt_agent.protocol.state import ModelsSync, Page, SyncResult
from obt_server.store import AgentQuota
from obt_server.store.tables import JobRow, ModelVersionRow, PartRow, ResultRow, Table
from tests.server.agent_double import AgentDouble
from tests.server.conftest import Running, running
from tests.server.job_steps import finish


def text(pad: int, mark: str = "") -> str:
    return msgspec.json.encode({"mark": mark, "pad": "x" * pad}).decode()


async def rows(server: Running, table: type[Table]) -> int:
    def count(db: Session) -> int:
        return db.scalar(select(func.count()).select_from(table)) or 0

    return await server.parts.database.run(count)


async def test_results_that_nobody_asked_for_are_taken_up_to_a_number_of_jobs(tmp_path: Path) -> None:
    async with running(tmp_path, quota=AgentQuota(unasked_jobs=3)) as server, server.agent() as agent:
        for number in range(3):
            assert (await finish(agent, f"j{number}", text(10))).sha256, "a server that lost its database"
        with pytest.raises(StorageFull, match="The agent keeps the result") as refused:
            await finish(agent, "j3", text(10))
        assert (refused.value.detail["bound"], refused.value.retryable) == ("unasked_jobs", True)
        assert (await finish(agent, "j1", text(10))).sha256, "a repeat is acknowledged whatever the bound"
        assert (await server.http.delete("/api/v1/benchmarks/j0")).status_code == 204
        assert (await finish(agent, "j3", text(10))).sha256, "an operator made room"


async def test_results_that_nobody_asked_for_are_taken_up_to_a_size(tmp_path: Path) -> None:
    async with running(tmp_path, quota=AgentQuota(unasked_bytes=30_000)) as server, server.agent() as agent:
        await finish(agent, "j0", text(20_000))
        with pytest.raises(StorageFull) as refused:
            await finish(agent, "j1", text(20_000))
        assert refused.value.detail["bound"] == "unasked_bytes"
        assert await rows(server, JobRow) == 1


async def test_one_agents_results_leave_the_others_their_room(tmp_path: Path) -> None:
    async with running(tmp_path, quota=AgentQuota(result_bytes=30_000)) as server:
        async with server.agent("greedy") as greedy:
            await finish(greedy, "j0", text(20_000))
            with pytest.raises(StorageFull) as refused:
                await finish(greedy, "j1", text(20_000))
            assert refused.value.detail["bound"] == "result_bytes"
        async with server.agent("honest") as honest:
            assert (await finish(honest, "j1", text(20_000))).sha256


async def test_pieces_of_a_result_that_will_not_be_taken_are_refused_at_the_first(tmp_path: Path) -> None:
    async with running(tmp_path, quota=AgentQuota(unasked_jobs=1)) as server, server.agent() as agent:
        await finish(agent, "j0", text(10))
        with pytest.raises(StorageFull):
            await agent.request("job.part", JobPartParams(job_id="j1", offset=0, data="x"), JobPartResult)
        assert await rows(server, PartRow) == 0


async def test_many_small_pieces_cost_what_their_rows_cost(tmp_path: Path) -> None:
    async with running(tmp_path, max_result_bytes=4096) as server, server.agent() as agent:

        async def piece(number: int) -> None:
            params = JobPartParams(job_id="j", offset=number, data="x")
            await agent.request("job.part", params, JobPartResult)

        with pytest.raises(TooLarge):  # noqa: PT012 - which one it is does not matter
            for number in range(100):
                await piece(number)
        assert await rows(server, PartRow) <= 16


async def test_different_results_of_one_job_are_set_aside_only_so_often(tmp_path: Path) -> None:
    async with running(tmp_path, quota=AgentQuota(conflicts=2)) as server, server.agent() as agent:
        assert (await finish(agent, "j", text(5, "first"))).sha256
        for number in range(6):
            assert (await finish(agent, "j", text(5, str(number)))).conflict
        assert await rows(server, ResultRow) == 3
        kept = await server.parts.storage.result(agent.agent_id, "j")
        assert kept == text(5, "first").encode()


async def test_long_errors_and_names_are_not_kept_as_they_are(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.agent() as agent:
        data = ErrorData(kind="ollama_error", detail={"more": "y" * 100_000})
        error = WireError(code=-32007, message="x" * 100_000, data=data)
        result = msgspec.json.encode({"environment": {"model": "m" * 10_000, "model_digest": "d" * 10_000}})
        await finish(agent, "j", result.decode(), error=error)
        job = await server.parts.storage.job(agent.agent_id, "j")
        assert job is not None
        assert job.error is not None
        assert job.error.data is not None
        assert (len(job.error.message), job.error.data.detail) == (1000, {})
        assert (job.model, job.model_digest) == (None, None)


def model(name: str, digest: str, **more: Any) -> InstalledModel:
    return InstalledModel(name=name, digest=digest, size_bytes=1, **more)


async def sync(agent: AgentDouble, *models: InstalledModel, revision: int, page: Page | None = None) -> None:
    state = OllamaState(reachable=True, version="1")
    params = ModelsSync(revision=revision, page=page or Page(), ollama=state, list_digest="d", models=models)
    await agent.request("models.sync", params, SyncResult)


async def test_digests_that_are_gone_are_remembered_up_to_a_number(tmp_path: Path) -> None:
    async with running(tmp_path, quota=AgentQuota(model_versions=5)) as server, server.agent() as agent:
        for number in range(12):
            await sync(agent, model("a", f"digest-{number}"), model("b", "same"), revision=number)
        assert await rows(server, ModelVersionRow) == 2 + 5
        versions = await server.parts.storage.versions(agent_id=agent.agent_id, name="a")
        assert {version.digest for version in versions} == {f"digest-{number}" for number in range(6, 12)}


async def test_names_that_no_ollama_gives_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.agent() as agent:
        for odd in (model("n" * 600, "d"), model("n", "d" * 200)):
            with pytest.raises(InvalidParams, match=r"params\.models\.(name|digest): 0 to"):
                await sync(agent, odd, revision=1)
        assert await rows(server, ModelVersionRow) == 0


async def test_a_list_in_pages_is_bounded_in_bytes(tmp_path: Path) -> None:
    async with running(tmp_path, max_sync_bytes=50_000) as server, server.agent() as agent:
        large = [model(name, "d", format="f" * 15_000) for name in "abcd"]
        await sync(agent, *large[:2], revision=1, page=Page(index=0, last=False))
        with pytest.raises(TooLarge, match="50000 bytes"):
            await sync(agent, *large[2:], revision=1, page=Page(index=1, last=True))
        await sync(agent, model("a", "d"), revision=2)
        assert await rows(server, ModelVersionRow) == 1


async def test_heartbeats_that_are_too_large_are_not_kept_and_end_the_session(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.agent() as agent:
        beat = {"ollama": {"reachable": True}, "t_mono_us": 1, "loaded": ["m" * 70_000]}
        for _ in range(10):
            await agent.notify("heartbeat", msgspec.Raw(msgspec.json.encode(beat)))
        async with asyncio.timeout(20):
            assert (await agent.until_closed())[0] == Close.PROTOCOL_ERROR


async def test_an_error_that_a_start_is_answered_with_is_kept_short(tmp_path: Path) -> None:
    async with running(tmp_path) as server, server.agent() as agent:

        async def refuse(*_: object) -> AgentError:
            return AgentError("x" * 100_000)

        agent.handlers["run_benchmark"] = refuse
        body = {"agent": agent.agent_id, "plan": {"model_name": "a"}, "job_id": "j"}
        await server.http.post("/api/v1/benchmarks", json=body)
        job = await server.parts.storage.job(agent.agent_id, "j")
        assert job is not None
        assert job.error is not None
        assert len(job.error.message) <= 1000
