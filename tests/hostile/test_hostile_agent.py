"""An agent that means harm, over the wire, against a server process: what the others feel of it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest

from obt_agent.errors import AgentError
from obt_server import app as application
from obt_server.auth import secrets
from obt_server.storage import Enrolment
from tests.hostile.server_attacks import IN_A_FRAME, send_list
from tests.server.agent_double import AgentDouble, dial, uuid7
from tests.server.enrolling import enrol
from tests.server.process import ServerProcess, server_process

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def attacked(folder: Path) -> AsyncIterator[tuple[ServerProcess, AgentDouble, httpx.AsyncClient]]:
    """A server process, an admitted agent, and a client of an operator."""
    agent_id, secret = uuid7(), secrets.new_secret("test")
    parts = application.build(application.AppSettings(database=folder / "obt.sqlite3"))
    enrolment = Enrolment(agent_id=agent_id, name="box", version="1", secret_sha256=secrets.sha256(secret))
    await enrol(parts.storage, enrolment, time.time())
    await parts.operators.set_password("admin", "a password of the tests")
    token, _ = await parts.operators.new_token("admin", "tests", None)
    parts.database.close()
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        server_process(folder / "obt.sqlite3") as server,
        httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60, trust_env=False) as client,
        dial(server.url, secret, agent_id, name="box") as agent,
    ):
        await agent.hello()
        yield server, agent, client


async def test_lists_of_fresh_models_without_end_hold_up_no_reader(tmp_path: Path) -> None:
    async with attacked(tmp_path) as (_, agent, client):
        await send_list(agent, 1, 10)
        await client.get("/api/v1/agents")  # that the token was used is stored now, and not again for a while
        # Another process holds the database's place for writers: no write of the server ends meanwhile.
        with contextlib.closing(sqlite3.connect(tmp_path / "obt.sqlite3", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            flood = asyncio.create_task(send_list(agent, 2, IN_A_FRAME), name="list")
            try:
                for path in ("/agents", "/models", f"/agents/{agent.agent_id}/models", "/jobs", "/results"):
                    assert (await client.get("/api/v1" + path)).status_code == 200, path
                assert not flood.done(), "the list was stored, and nothing was held"
            finally:
                db.execute("ROLLBACK")
        with contextlib.suppress(AgentError):  # on a slow machine it was held for longer than a write waits
            await flood
        await send_list(agent, 3, IN_A_FRAME)
        models = (await client.get(f"/api/v1/agents/{agent.agent_id}/models")).json()
        assert len(models) == IN_A_FRAME


async def test_long_strings_in_lists_of_models_are_refused_and_kept_by_nobody(tmp_path: Path) -> None:
    async with attacked(tmp_path) as (server, agent, _):
        before = psutil.Process(server.process.pid).memory_info().rss
        for revision in range(1, 40):
            with pytest.raises(AgentError, match="an entry has at most"):
                await send_list(agent, revision, 1, family="x" * 900_000)
        assert psutil.Process(server.process.pid).memory_info().rss - before < 64 << 20
    with contextlib.closing(sqlite3.connect(tmp_path / "obt.sqlite3")) as db, db:
        assert db.execute("SELECT count(*) FROM obt_model_versions").fetchone() == (0,)


async def test_versions_that_are_gone_are_bounded_in_bytes(tmp_path: Path) -> None:
    async with attacked(tmp_path) as (_, agent, _):
        for revision in range(1, 8):
            await send_list(agent, revision, 400, family="x" * 15_000, at_once=50)
    with contextlib.closing(sqlite3.connect(tmp_path / "obt.sqlite3")) as db, db:
        (size,) = db.execute(
            "SELECT sum(length(details)) FROM obt_model_versions WHERE NOT current"
        ).fetchone()
    assert 8 << 20 < size <= 16 << 20
