"""Secrets are planted, and then searched for wherever they must not be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from obt_conformance.agent_harness import AgentHarness, AgentTarget
from obt_conformance.deadlines import Deadlines
from obt_conformance.listening import AgentListener
from obt_standin import StandIn
from tests.conformance.agent_process import WITHIN_S, running_agent
from tests.link.proxy_doubles import HttpProxyDouble

pytestmark = pytest.mark.slow

TOKEN = "canary-token-4b1d7f"
PROXY_PASSWORD = "canary-proxy-90aa2c"
CANARIES = (TOKEN, PROXY_PASSWORD)
MODEL = "standin-small:latest"


def processes(pid: int) -> Iterator[psutil.Process]:
    process = psutil.Process(pid)
    yield process
    yield from process.children(recursive=True)


def exposed(pid: int) -> dict[str, str]:
    """What every user of the machine, or a child, can see of the agent's processes."""
    seen = {}
    for process in processes(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            seen[f"argv of {process.pid}"] = " ".join(process.cmdline())
            seen[f"environment of {process.pid}"] = json.dumps(process.environ())
    return seen


def leaks(places: dict[str, str], *secrets: str) -> list[str]:
    return [
        f"{secret} is in {place}" for place, text in places.items() for secret in secrets if secret in text
    ]


def test_the_search_finds_what_is_there() -> None:
    assert leaks({"a": "xx canary xx", "b": ""}, "canary") == ["canary is in a"]


@pytest.mark.parametrize("given_by", ["file", "environment"])
async def test_no_secret_is_where_it_must_not_be(tmp_path: Path, standin: StandIn, given_by: str) -> None:
    deadlines = Deadlines(quiet_s=0.5)
    door = AgentListener(answer_within_s=deadlines.answer_s)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(door.open("127.0.0.1", 0))
        proxy = await stack.enter_async_context(
            HttpProxyDouble(door.port, username="somebody", password=PROXY_PASSWORD)
        )
        address = f"http://somebody:{PROXY_PASSWORD}@127.0.0.1:{proxy.port}"
        in_file = given_by == "file"
        agent = await stack.enter_async_context(
            running_agent(
                tmp_path,
                f"http://127.0.0.1:{door.port}",
                standin.url,
                module="obt_agent",
                token=TOKEN,
                env={} if in_file else {"https_proxy": address, "all_proxy": address},
                server={"proxy": address} if in_file else {},
                log={"level": "debug"},
            )
        )
        await door.first_dial(WITHIN_S)
        stage = AgentHarness(AgentTarget(MODEL, MODEL), door, deadlines, agent.redial)
        session = await stage.session()
        await stage.synced(session)
        assert door.dials[-1].headers["authorization"] == f"Bearer {TOKEN}", "the secret is in use"
        info = await session.wire.ask("agent_info")
        rotated = await session.wire.ask("credentials.rotate", {"rotation_id": "r"})
        assert rotated.error_code is None
        await session.wire.ask("generate", stage.generate(options={"num_predict": 3}))
        places = exposed(agent.process.pid)
        frames = [*session.wire.frames]
        door.refuse_next(401)
        session = await stage.session(fresh=True)
        candidates = {dial.headers["authorization"].removeprefix("Bearer ") for dial in door.dials} - {TOKEN}
        assert candidates, "the candidate was tried"
        await stage.end()
        frames += session.wire.frames
        places |= {
            "agent_info": json.dumps(info.message),
            "frames": json.dumps([frame.message for frame in frames]),
            "requests to Ollama": "".join(str((one.headers, one.body)) for one in standin.requests),
        }
        diag = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "obt_agent", "config", "show", "--config", str(tmp_path / "agent.yaml")),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        places["obt-agent config show"] = (await diag.communicate())[0].decode()
    places["log"] = agent.log
    status = tmp_path / "state" / "status.json"
    places["status"] = status.read_text() if status.exists() else ""
    if not in_file:  # its own process holds what its owner gave it; nobody else may
        del places[f"environment of {agent.process.pid}"]
    assert leaks(places, *CANARIES, *candidates) == []
    assert info.result["config"]["ollama"], "the configuration is told, without its secrets"
    assert bool(proxy.credentials) == in_file, "the environment's proxy is not for servers on this machine"
