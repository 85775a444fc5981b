"""The documented application with agents in it: what it says works, and it lets no stranger in."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from obt_agent.ollama.payloads import InstalledModel
from obt_agent.protocol.envelope import Request
from obt_server.auth import secrets
from tests.project.paths import ROOT
from tests.server.agent_double import AgentDouble, Answer, dial, uuid7
from tests.server.job_steps import RESULT, accept, finish
from tests.server.plain_uvicorn import plain_uvicorn


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("COMPANY_KEY", "let me in")
    spec = importlib.util.spec_from_file_location("embedded_hub", ROOT / "docs/examples/embedded_hub.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def answering(agent: AgentDouble, request: Request) -> Answer:
    await agent.stream(request, b'{"response":"bl","done":false}', b'{"response":"ue","done":false}')
    return agent.final(request)


async def test_the_documented_application_lists_asks_and_measures(
    tmp_path: Path, example: ModuleType
) -> None:
    key = {"X-Company-Key": "let me in"}
    async with (
        plain_uvicorn(example.build(tmp_path / "agents.sqlite3")) as url,
        httpx.AsyncClient(base_url=url, headers=key, timeout=20, trust_env=False) as http,
    ):
        token = (await http.post("/agents/api/v1/join-tokens", json={})).json()["secret"]
        agent_id = uuid7()
        body = {
            "agent": {"id": agent_id, "name": "pc", "version": "1"},
            "secret_sha256": secrets.sha256("mine"),
        }
        bearer = {"Authorization": f"Bearer {token}"}
        answer = await http.post("/agents/api/v1/agents/enroll", json=body, headers=bearer)
        assert answer.status_code == 200, answer.text
        offline = {"name": "pc", "online": False, "models": [], "gpus": []}
        assert (await http.get("/machines")).json() == [offline]
        refused = await http.post("/ask/pc", params={"model": "a:1", "prompt": "p"})
        assert (refused.status_code, refused.json()["kind"]) == (502, "agent_offline")
        async with dial(f"{url}/agents", "mine", agent_id, name="pc") as agent:
            await agent.hello()
            await agent.sync_models(InstalledModel(name="a:1", digest="d", size_bytes=1))
            assert (await http.get("/machines")).json() == [{**offline, "online": True, "models": ["a:1"]}]
            agent.handlers["generate"] = answering
            asked = await http.post("/ask/pc", params={"model": "a:1", "prompt": "Which colour is the sky?"})
            assert asked.json() == {"answer": "blue", "tokens": 2}

            async def measure(agent: AgentDouble, request: Request) -> Answer:
                # The result may be there before the answer to the start is.
                started = await accept(agent, request)
                await finish(agent, getattr(started, "job_id", ""))
                return started

            agent.handlers["run_benchmark"] = measure
            measured = (await http.post("/measure/pc", params={"model": "a:1"})).json()
            assert (measured["state"], measured["bytes"]) == ("completed", len(RESULT.encode()))
        for method, path in (("GET", "/machines"), ("POST", "/ask/pc?model=m&prompt=p")):
            stranger = await http.request(method, path, headers={"X-Company-Key": "guess"})
            assert stranger.status_code == 401
