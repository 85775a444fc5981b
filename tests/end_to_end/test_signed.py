"""Requests of an owner who lists signers: the server prepares, somebody signs, a real agent runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from obt_agent.policy.signing import load_key, new_key, sign
from obt_server.cli import main as server_command
from obt_server.client import ApiError
from obt_standin import StandIn
from tests.end_to_end.world import World
from tests.waiting import until

pytestmark = pytest.mark.slow

MODEL = "standin-small:latest"
PLAN = {"model_name": MODEL, "num_iterations": 1, "num_warmup_iterations": 0}


async def owned(here: World, tmp_path: Path) -> tuple[str, Path]:
    """An agent that runs signed requests alone: its id, and the signer's key."""
    key = tmp_path / "operator.pem"
    policy = {"signers": [new_key(key)], "allow_changes": ["copy_model", "delete_model"]}
    await here.enrolled("one", name="one", policy=policy, benchmark={"cooldown_s": 0})
    (view,) = await here.online()
    return view["id"], key


def operators_machine(tmp_path: Path, key: Path, text: str) -> dict[str, str]:
    """What ``obt-agent sign`` makes of a prepared text, in a process of its own."""
    prepared = tmp_path / "request.json"
    prepared.write_text(text + "\n")
    command = ["obt_agent", "sign", "--key", str(key), "--prepared", str(prepared), "--yes"]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=True)
    assert "method      " in done.stderr
    signature: dict[str, str] = json.loads(done.stdout)
    assert signature["text"] == text
    return signature


async def refused(here: World, path: str, body: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError, match=words) as error:
        await here.client.post(path, body)
    assert error.value.kind == "not_permitted"
    assert "policy.signers" in error.value.message


async def ended(here: World, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = {}

    async def over() -> bool:
        job.update(await here.client.get(f"/benchmarks/{job_id}"))
        return job["finished_at"] is not None

    await until(over, lambda: json.dumps(job))
    return job


async def test_a_benchmark_that_was_prepared_and_signed_runs_once(
    here: World, tmp_path: Path, standin: StandIn
) -> None:
    agent, key = await owned(here, tmp_path)
    asked = {"agent": agent, "method": "run_benchmark", "params": {"plan": PLAN}}
    prepared = await here.client.post("/signed-requests/prepare", asked)
    signature = operators_machine(tmp_path, key, prepared["text"])
    started = await here.client.post("/signed-requests", signature)
    assert started["job_id"] == prepared["id"]
    job = await ended(here, prepared["id"])
    assert (job["state"], job["model"], job["requested"]) == ("completed", MODEL, True)
    generated = len([one for one in standin.requests if one.path == "/api/generate"])
    # Again, and once more after the server was made to forget it: the agent remembers the id.
    again = await here.client.post("/signed-requests", signature)
    assert again["state"] == "completed"
    await here.client.command(agent, "list_models", {})
    assert len([one for one in standin.requests if one.path == "/api/generate"]) == generated


async def test_what_is_unsigned_altered_or_too_old_is_refused(here: World, tmp_path: Path) -> None:
    agent, key = await owned(here, tmp_path)
    await refused(here, "/benchmarks", {"agent": agent, "plan": PLAN}, "signed by a key that is listed")
    asked = {"agent": agent, "method": "run_benchmark", "params": {"plan": PLAN}}
    prepared = await here.client.post("/signed-requests/prepare", asked)
    signature = operators_machine(tmp_path, key, prepared["text"])
    altered = signature | {"text": signature["text"].replace('"num_iterations": 1', '"num_iterations": 9')}
    assert altered != signature
    await refused(here, "/signed-requests", altered, "signature is wrong")
    stranger = tmp_path / "stranger.pem"
    new_key(stranger)
    other = operators_machine(tmp_path, stranger, prepared["text"])
    await refused(here, "/signed-requests", other, "signed by a key that is listed")
    params = {"job_id": "late", "plan": PLAN}
    late = sign(load_key(key), agent, "run_benchmark", params, time.time() - 120, 60)
    await refused(here, "/signed-requests", late, "not valid at this time")
    # What a refused request says is not what the operators see of the machine's results.
    assert (await here.client.get("/benchmarks/late"))["state"] == "failed"


async def test_a_signed_deletion_is_not_run_a_second_time(
    here: World, tmp_path: Path, standin: StandIn
) -> None:
    agent, key = await owned(here, tmp_path)
    copy = {"source": MODEL, "destination": "copy:latest"}
    asked = {"agent": agent, "method": "copy_model", "params": copy}
    prepared = await here.client.post("/signed-requests/prepare", asked)
    signature = operators_machine(tmp_path, key, prepared["text"])
    assert await here.client.post("/signed-requests", signature) == {"done": True}
    await refused(here, "/signed-requests", signature, "used already")
    assert len([one for one in standin.requests if one.path == "/api/copy"]) == 1


async def test_the_command_line_prepares_the_same_text(
    here: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent, key = await owned(here, tmp_path)
    params = tmp_path / "params.json"
    params.write_text(json.dumps({"job_id": "by-hand", "plan": PLAN}))
    database = str(tmp_path / "server.sqlite3")

    def run() -> int:
        return server_command(["prepare", "one", "run_benchmark", str(params), "--database", database])

    assert await asyncio.to_thread(run) == 0
    text = capsys.readouterr().out.splitlines()[-1]  # after the lines of the server in this process
    assert json.loads(text)["agent_id"] == agent
    await here.client.post("/signed-requests", operators_machine(tmp_path, key, text))
    assert (await ended(here, "by-hand"))["state"] == "completed"


@pytest.mark.parametrize(
    ("params", "words"),
    [({"plan": {}}, "model_name"), ({"plan": PLAN, "job_id": "a/b"}, "job_id")],
)
async def test_what_no_agent_would_take_is_not_prepared(
    here: World, tmp_path: Path, params: dict[str, Any], words: str
) -> None:
    agent, _ = await owned(here, tmp_path)
    with pytest.raises(ApiError, match=words):
        await here.client.post(
            "/signed-requests/prepare", {"agent": agent, "method": "run_benchmark", "params": params}
        )
