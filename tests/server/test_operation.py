"""What watches the server: probes, and Prometheus. Who may ask, and what they are told."""

import asyncio
import contextlib
import re
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from obt_server.rest import machine_metrics, metrics
from obt_server.rest.health import Readiness
from obt_server.rest.server_metrics import ReplicaFigures
from tests.project.paths import ROOT
from tests.server import buses
from tests.server.agent_double import AgentDouble
from tests.server.conftest import NO_AUTHORITIES, Running, running
from tests.server.databases import SERVER, sqlite_alone
from tests.server.job_steps import finish
from tests.waiting import until

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def sync(gpus: int, name: str = "Card") -> msgspec.Raw:
    found = [
        {
            "id": f"GPU-{number}",
            "vendor": "nvidia",
            "provider": "nvml",
            "name": f"{name} {number}",
            "memory": {"total_bytes": 1000 + number},
        }
        for number in range(gpus)
    ]
    inventory = {"fingerprint": f"f{gpus}{len(name)}", "collected_at": 1.0, "gpus": found}
    return msgspec.Raw(msgspec.json.encode({"revision": 1, "inventory": inventory}))


def heartbeat(*gpus: dict[str, Any], **more: Any) -> msgspec.Raw:
    sample = {"cpu_utilization_ratio": 0.25, "gpus": gpus, **more}
    beat = {
        "ollama": {"reachable": True},
        "loaded": ["a:1"],
        "jobs": {"open": 3},
        "outbox": {"entries": 2, "bytes": 77},
        "streams": 4,
        "t_mono_us": 5,
        "hardware": sample,
    }
    return msgspec.Raw(msgspec.json.encode(beat))


async def scraped(server: Running) -> Series:
    answer = await server.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(series: Series, name: str, /, **labels: str) -> float | None:
    return series.get((name, frozenset(labels.items())))


async def with_heartbeat(server: Running, agent: AgentDouble, beat: msgspec.Raw) -> None:
    await agent.notify("heartbeat", beat)

    def arrived() -> bool:
        presence = server.parts.hub.presence(agent.agent_id)
        return presence is not None and presence.heartbeat is not None

    await until(arrived)


async def test_metrics_show_machines_with_their_gpus_jobs_links_the_database_and_the_process(
    server: Running,
) -> None:
    await server.enrol("away")
    async with server.agent("here") as agent:
        await agent.ask("hardware.sync", sync(2))
        gpu = {
            "id": "GPU-1",
            "state": "active",
            "utilization_ratio": 0.5,
            "memory_used_bytes": 400,
            "temperature_celsius": 61.0,
            "power_watts": 250.5,
        }
        await with_heartbeat(server, agent, heartbeat(gpu))
        await finish(agent, "j1", "{}")
        series = await scraped(server)
        me, second = agent.agent_id, {"agent": agent.agent_id, "gpu": "1"}
        assert of(series, "obt_agents", state="online") == 1
        assert of(series, "obt_agents", state="offline") == 1
        assert of(series, "obt_agent_up", agent=me) == 1
        assert of(series, "obt_agent_info", agent=me, name="here", version="1.2.3") == 1
        assert of(series, "obt_agent_ollama_up", agent=me) == 1
        assert of(series, "obt_agent_open_jobs", agent=me) == 3
        assert of(series, "obt_agent_outbox_bytes", agent=me) == 77
        assert of(series, "obt_agent_cpu_utilization_ratio", agent=me) == 0.25
        assert of(series, "obt_gpu_info", **second, name="Card 1") == 1
        assert of(series, "obt_gpu_utilization_ratio", **second) == 0.5
        assert of(series, "obt_gpu_memory_used_bytes", **second) == 400
        assert of(series, "obt_gpu_memory_total_bytes", **second) == 1001
        assert of(series, "obt_gpu_temperature_celsius", **second) == 61
        assert of(series, "obt_gpu_power_watts", **second) == 250.5
        assert of(series, "obt_gpu_power_watts", agent=me, gpu="0") is None, "what was not read is no zero"
        assert of(series, "obt_jobs", kind="benchmark", state="completed") == 1
        assert of(series, "obt_link_admissions_total") == 1
        assert (of(series, "obt_link_bytes_total", direction="received") or 0) > 100
        assert (of(series, "obt_link_frames_total", direction="sent") or 0) > 1
        assert of(series, "obt_connections", kind="agent") == 1
        if not SERVER:
            assert (of(series, "obt_database_bytes") or 0) >= 4096
            assert (of(series, "obt_database_wal_bytes") or 0) > 10_000
        assert (of(series, "obt_database_transactions_total", kind="write") or 0) > 1
        assert of(series, "obt_retention_removed_total", kind="result") == 0
        assert (of(series, "process_resident_memory_bytes") or 0) > 1 << 20
        await agent.socket.close(1000)
        await agent.until_closed()
    await until(lambda: not server.parts.hub.online())
    series = await scraped(server)
    assert of(series, "obt_link_ends_total", code="1000") == 1
    assert of(series, "obt_agent_up", agent=me) == 0
    assert of(series, "obt_gpu_power_watts", **second) is None
    documented = (ROOT / "docs/how-to/operate-the-server.md").read_text()
    names = {re.sub("_total$", "", name) for name, _ in series if name.startswith("obt_")}
    assert sorted(name for name in names if f"`{name}" not in documented) == []


async def test_what_a_hostile_machine_says_of_itself_neither_breaks_the_figures_nor_multiplies_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_metrics, "MAX_GPUS", 4)
    async with running(tmp_path) as server, server.agent('a"b\\c') as agent, server.agent("honest") as honest:
        await agent.ask("hardware.sync", sync(9, 'line\nof"words'))
        # What is larger is no heartbeat.
        huge = 2**63 - 1
        await agent.notify("heartbeat", heartbeat(memory_used_bytes=int("9" * 400)))
        gpus = [{"id": f"GPU-{n}", "state": "x", "memory_used_bytes": huge} for n in range(9)]
        await with_heartbeat(server, agent, heartbeat(*gpus, memory_used_bytes=huge))
        await with_heartbeat(server, honest, heartbeat())
        series = await scraped(server)
        gpus_shown = {dict(labels).get("gpu") for name, labels in series if name == "obt_gpu_info"}
        assert gpus_shown == {"0", "1", "2", "3"}
        assert of(series, "obt_agent_memory_used_bytes", agent=agent.agent_id) == float(huge)
        assert of(series, "obt_agent_cpu_utilization_ratio", agent=honest.agent_id) == 0.25
        monkeypatch.setattr(metrics, "MAX_MACHINES", 1)
        series = await scraped(server)
        assert sum(name == "obt_agent_up" for name, _ in series) == 1
        assert of(series, "obt_agents_without_series") == 1
        assert of(series, "obt_agents", state="online") == 2
        await agent.socket.close(4999)
        await agent.until_closed()
        await until(lambda: len(server.parts.hub.online()) == 1)
        assert of(await scraped(server), "obt_link_ends_total", code="other") == 1


async def test_a_token_for_metrics_opens_nothing_else_and_can_be_made_by_an_operator(server: Running) -> None:
    made = await server.http.post("/api/v1/api-tokens", json={"name": "prometheus", "scope": "metrics"})
    secret, token = made.json()["secret"], made.json()["token"]
    assert (made.status_code, secret[:5], token["scope"]) == (201, "obtm_", "metrics")
    wrong = {"name": "x", "scope": "metrics", "machines": ["*"]}
    assert (await server.http.post("/api/v1/api-tokens", json=wrong)).status_code == 422
    headers = {"Authorization": f"Bearer {secret}"}
    assert (await server.http.get("/metrics", headers=headers)).status_code == 200
    for path in ("/api/v1/agents", "/api/v1/openapi.json", "/api/v1/session"):
        refused = await server.http.get(path, headers=headers)
        assert (refused.status_code, refused.json()["error"]["kind"]) == (403, "wrong_scope")
    await server.parts.operators.store.revoke_token(token["id"])
    assert (await server.http.get("/metrics", headers=headers)).status_code == 401


async def test_probes_need_no_secret_no_name_and_say_one_word(server: Running) -> None:
    async with httpx.AsyncClient(
        base_url=server.url, timeout=20, trust_env=False, verify=NO_AUTHORITIES
    ) as stranger:
        for path in ("/healthz", "/readyz"):
            answer = await stranger.get(path, headers={"Host": "10.1.2.3:8881"})
            assert (answer.status_code, answer.text) == (200, "ok\n")
            assert (await stranger.post(path)).status_code == 405
        assert (await stranger.get("/metrics")).status_code == 401
        named = await stranger.get("/metrics", headers={"Host": "10.1.2.3:8881"})
        assert named.status_code == 421, "all else is asked by the server's names alone"


async def test_a_server_that_is_about_to_stop_is_not_ready_and_still_there(server: Running) -> None:
    await server.parts.hub.drain()
    assert (await server.http.get("/healthz")).status_code == 200
    answer = await server.http.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "not ready\n")


@sqlite_alone
async def test_a_server_whose_database_does_not_answer_is_not_ready(server: Running) -> None:
    with contextlib.closing(sqlite3.connect(server.parts.database.path or "")) as database:
        database.execute("alter table obt_jobs rename to elsewhere")
        database.commit()
        assert (await server.http.get("/readyz")).status_code == 503
        assert (await server.http.get("/healthz")).status_code == 200
        database.execute("alter table elsewhere rename to obt_jobs")
        database.commit()

    async def ready() -> bool:
        return (await server.http.get("/readyz")).status_code == 200

    await until(ready)


@pytest.mark.skipif(bool(buses.ADDRESS), reason="this server is one of several already")
async def test_metrics_show_the_replicas_where_there_are_several(server: Running) -> None:
    before = await scraped(server)
    assert ("obt_replicas", frozenset()) not in before
    figures = ReplicaFigures(running=3, leading=True, epoch=7, bus_connected=False, exchanges=2)
    server.parts.exporter.replicas = lambda: figures
    added = (await scraped(server)).items() - before.items()
    shown = {
        name: value for (name, _), value in added if name.startswith(("obt_replica", "obt_bus", "obt_ex"))
    }
    assert shown == {
        "obt_replicas": 3,
        "obt_replica_leading": 1,
        "obt_replica_epoch": 7,
        "obt_bus_connected": 0,
        "obt_exchanges": 2,
    }


async def test_however_many_ask_the_database_is_asked_once() -> None:
    asked = 0

    async def ask() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)

    readiness = Readiness(lambda: False, ask)
    assert await asyncio.gather(*(readiness.check() for _ in range(50))) == [True] * 50
    assert asked == 1
