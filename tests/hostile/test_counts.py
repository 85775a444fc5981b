"""Integers that no float holds, from a hostile Ollama and from hostile peers: nothing computes with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from obt_agent.cli.models import size_text
from obt_agent.config.schema import OllamaConfig
from obt_agent.jobs import GenerationGate
from obt_agent.jobs.transfer_run import TransferConditions
from obt_agent.jobs.transfers import TransferRunner
from obt_agent.ollama import lists
from obt_agent.ollama.client import OllamaClient
from obt_agent.protocol.jobs import JobProgress
from tests.dispatcher.doubles import permissive
from tests.ollama.raw_server import chunked, head, replying, serving
from tests.server.conftest import running

ODD = [
    pytest.param(10**400, id="10^400"),
    pytest.param(-(10**400), id="-10^400"),
    pytest.param(-1, id="-1"),
    pytest.param(1 << 64, id="2^64"),
]


@pytest.mark.parametrize("count", ODD)
def test_sizes_of_models_that_can_be_none_are_zero(count: int) -> None:
    tag = {"name": "m", "digest": "d", "size": count, "details": {"context_length": count}}
    (model,) = lists.read_installed(json.dumps({"models": [tag]}).encode()).models
    assert (size_text(model.size_bytes), model.context_length) == ("0 B", None)
    loaded = {"name": "m", "digest": "d", "size": count, "size_vram": count, "context_length": count}
    (run,) = lists.read_running(json.dumps({"models": [loaded]}).encode()).models
    assert (run.size_bytes / 1024, run.size_vram_bytes / 1024, run.context_length) == (0, 0, None)
    info = {"general.architecture": "a", "a.context_length": count}
    assert lists.read_shown(json.dumps({"model_info": info}).encode())[1] is None


@pytest.mark.parametrize("count", ODD)
async def test_a_pull_with_sizes_that_can_be_none_ends_in_order(count: int) -> None:
    line = json.dumps({"status": "pulling", "digest": "d", "total": count, "completed": count}).encode()
    good = json.dumps({"status": "pulling", "digest": "e", "total": 8, "completed": 4}).encode()
    body = chunked(line + b"\n", good + b"\n", b'{"status":"success"}\n')
    seen: list[JobProgress] = []
    async with (
        serving(replying(head(200, "application/x-ndjson", "Transfer-Encoding: chunked") + body)) as url,
        OllamaClient(OllamaConfig(url=url)) as ollama,
    ):
        policy = permissive(allow_changes=["pull_model"])
        runner = TransferRunner(ollama, policy, TransferConditions(GenerationGate()))
        outcome = await runner.begin(stored_pull(), (), seen.append).execute()
    assert outcome.state == "completed"
    assert [one.completed_bytes for one in seen if one.total_bytes == 8]
    assert msgspec.json.decode(outcome.text)["total_bytes"] == 8


FIELDS: list[tuple[str, type]] = [
    ("job_id", str),
    ("kind", str),
    ("model", str),
    ("params", bytes),
    ("starts", int),
]


def stored_pull() -> Any:
    return msgspec.defstruct("Job", FIELDS)("j", "pull", "m", b'{"job_id":"j","model":"m"}', 0)


async def test_a_clock_of_10_to_the_400_hertz_is_refused_and_breaks_no_list(tmp_path: Path) -> None:
    cpu = {"base_hertz": 10**400, "max_hertz": 10**400}
    inventory = {"fingerprint": "f", "collected_at": 0, "cpu": cpu}
    async with running(tmp_path) as server, server.agent("odd") as odd, server.agent("pc"):
        sync = {"revision": 1, "page": {"index": 0, "last": True}, "inventory": inventory}
        raw = json.dumps({"jsonrpc": "2.0", "id": 9, "method": "hardware.sync", "params": sync}).encode()
        before = len(odd.notes)
        await odd.send(raw)
        await odd.ask("jobs.sync", {"revision": 1, "store_id": "s", "jobs": []})
        assert len(odd.notes) == before + 1, "it is refused"
        await odd.sync_models()
        answer = await server.http.get("/api/v1/models/clients")
        assert answer.status_code == 200, answer.text
        assert [(one["id"], one["hardware"]["cpu"]["base_clock"]) for one in answer.json()] == [("odd", 0)]
