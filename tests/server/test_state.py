"""What agents report, as the interface shows it: models and their versions, hardware, presence, news."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.orm import Session

from obt_agent.errors import InvalidParams
from obt_agent.ollama.payloads import InstalledModel, OllamaState
from obt_agent.protocol.state import ModelsSync, Page
from obt_server.hub import AgentRecord
from obt_server.rest.obt_interface import client_ids
from obt_server.store import agent_removal
from tests.server.agent_double import AgentDouble, never
from tests.server.conftest import Running, running
from tests.server.enrolling import enrol_over_http

HEARTBEAT = msgspec.Raw(
    b'{"ollama":{"reachable":true,"version":"0.9"},"loaded":["a:1"],"jobs":{"open":1},'
    b'"streams":2,"t_mono_us":5,"hardware":{"cpu_utilization_ratio":0.25}}'
)
INVENTORY = {"fingerprint": "f1", "collected_at": 1.0, "of_the_future": {"x": 1}}
HARDWARE_SYNC = msgspec.Raw(msgspec.json.encode({"revision": 1, "inventory": INVENTORY}))


def model(name: str, digest: str) -> InstalledModel:
    return InstalledModel(
        name=name, digest=digest, size_bytes=7, modified_at="2026-01-02T03:04:05Z", family="llama"
    )


async def models_of(server: Running, agent: AgentDouble, query: str = "") -> list[tuple[str, str, bool]]:
    answer = await server.http.get(f"/api/v1/agents/{agent.agent_id}/models{query}")
    return [(one["name"], one["digest"], one["current"]) for one in answer.json()]


async def test_every_digest_seen_under_a_name_is_kept_with_its_times(server: Running) -> None:
    async with server.agent() as agent:
        await agent.sync_models(model("a:1", "d1"), model("b:1", "d2"))
        await agent.sync_models(model("a:1", "d9"), revision=2)
        assert await models_of(server, agent) == [("a:1", "d9", True)]
        history = await models_of(server, agent, "?history=true")
        assert history == [("a:1", "d1", False), ("a:1", "d9", True), ("b:1", "d2", False)]
        await agent.sync_models(model("a:1", "d1"), revision=3)
        assert await models_of(server, agent) == [("a:1", "d1", True)]
        shown = (await server.http.get(f"/api/v1/agents/{agent.agent_id}/models")).json()[0]
        assert shown["first_seen"] < shown["last_seen"]
        assert shown["details"]["family"] == "llama"


async def test_texts_that_cannot_be_stored_are_refused_and_not_shown(server: Running) -> None:
    async with server.agent() as agent:
        first = ModelsSync(
            revision=1,
            ollama=OllamaState(reachable=True),
            list_digest="digest",
            models=(model("a\0:1", "d1"),),
            page=Page(index=0, last=False),
        )
        with pytest.raises(InvalidParams, match=r"params\.models\.name"):  # with its page, and not the last
            await agent.ask("models.sync", first)
        inventory = {"revision": 1, "inventory": INVENTORY | {"fingerprint": "f\0"}}
        with pytest.raises(InvalidParams):
            await agent.ask("hardware.sync", msgspec.Raw(msgspec.json.encode(inventory)))
        shown = await server.http.get(f"/api/v1/agents/{agent.agent_id}/hardware")
        assert shown.json()["inventory"] is None


async def test_machines_that_have_different_digests_under_a_name_have_drifted(server: Running) -> None:
    async with server.agent("one") as one, server.agent("two") as two:
        await one.sync_models(model("a:1", "d1"), model("same:1", "d5"))
        await two.sync_models(model("a:1", "d2"), model("same:1", "d5"))
        shown = (await server.http.get("/api/v1/models?drifted=true")).json()
        assert [(view["name"], view["digests"]) for view in shown] == [("a:1", ["d1", "d2"])]
        assert {seen["agent_name"] for seen in shown[0]["versions"]} == {"one", "two"}
        await two.sync_models(model("a:1", "d1"), revision=2)
        shown = (await server.http.get("/api/v1/models?name=a:1")).json()
        assert (shown[0]["drifted"], shown[0]["digests"]) == (False, ["d1", "d2"])


async def test_models_in_pages_count_when_the_last_page_is_there(server: Running) -> None:
    async with server.agent() as agent:
        for index, name in enumerate(["a:1", "b:1"]):
            sync = ModelsSync(
                revision=1,
                page=Page(index=index, last=index == 1),
                ollama=OllamaState(reachable=True),
                list_digest="",
                models=(model(name, "d"),),
            )
            await agent.ask("models.sync", sync)
            assert len(await models_of(server, agent)) == (0, 2)[index]


async def test_more_models_than_are_taken_are_refused_and_a_new_list_passes(tmp_path: Path) -> None:
    async with running(tmp_path, max_models=2) as server, server.agent() as agent:
        with pytest.raises(Exception, match="At most 2"):
            await agent.sync_models(*(model(f"{n}:1", "d") for n in range(3)))
        await agent.sync_models(model("a:1", "d"), revision=2)
        assert len(await models_of(server, agent)) == 1


async def test_a_stale_list_changes_no_versions(server: Running) -> None:
    async with server.agent() as agent:
        await agent.sync_models(model("a:1", "d1"))
        stale = ModelsSync(
            revision=2, ollama=OllamaState(reachable=False), list_digest="", models=(), stale=True
        )
        await agent.ask("models.sync", stale)
        assert await models_of(server, agent) == [("a:1", "d1", True)]
        shown = (await server.http.get(f"/api/v1/agents/{agent.agent_id}")).json()
        assert shown["ollama"]["reachable"] is False


async def test_hardware_is_kept_whole_and_shown_also_when_the_agent_is_gone(server: Running) -> None:
    async with server.agent() as agent:
        await agent.ask("hardware.sync", HARDWARE_SYNC)
        await agent.notify("heartbeat", HEARTBEAT)
        await agent.sync_models()
        shown = (await server.http.get(f"/api/v1/agents/{agent.agent_id}/hardware")).json()
        assert shown["sample"] == {"cpu_utilization_ratio": 0.25}
    await until_offline(server, agent)
    shown = (await server.http.get(f"/api/v1/agents/{agent.agent_id}/hardware")).json()
    assert (shown["inventory"], shown["fingerprint"], shown["sample"]) == (INVENTORY, "f1", None)


async def test_a_list_of_machines_names_their_gpus_with_their_memory(server: Running) -> None:
    gpus = [
        {
            "id": "GPU-1",
            "vendor": "nvidia",
            "provider": "nvidia",
            "name": "A card",
            "memory": {"total_bytes": 24},
        },
        {"id": "0000:04:00.0", "vendor": "amd", "provider": "amd", "memory": {"shared_total_bytes": 16}},
    ]
    inventory = {**INVENTORY, "gpus": gpus}
    async with server.agent() as agent:
        address = f"/api/v1/agents/{agent.agent_id}"
        assert (await server.http.get(address)).json()["gpus"] == []
        await agent.ask(
            "hardware.sync", msgspec.Raw(msgspec.json.encode({"revision": 1, "inventory": inventory}))
        )
        shown = (await server.http.get(address)).json()["gpus"]
    assert shown == [
        {"id": "GPU-1", "name": "A card", "memory_total_bytes": 24},
        {"id": "0000:04:00.0", "name": "amd", "memory_total_bytes": 16},
    ]


async def test_an_enrolled_agent_is_news_before_it_has_ever_dialled(server: Running) -> None:
    found = news(server)
    enrolled = await server.enrol("first")
    assert (await anext(found))[1]["id"] == enrolled[0]
    assert await anext(found) == ("current", {"agents": [enrolled[0]]})
    later = await server.enrol("second")
    name, data = await anext(found)
    assert (name, data["id"], data["presence"]) == ("agent", later[0], "offline")
    await found.aclose()


async def until_offline(server: Running, agent: AgentDouble) -> None:
    async for name, data in news(server):
        if name == "agent" and data["id"] == agent.agent_id and data["presence"] == "offline":
            return


async def news(server: Running) -> Any:
    async with asyncio.timeout(20), server.http.stream("GET", "/api/v1/events") as answer:
        name = ""
        async for line in answer.aiter_lines():
            if line.startswith("event:"):
                name = line[7:]
            if line.startswith("data:"):
                yield name, json.loads(line[5:])


async def test_an_agent_without_a_report_shows_nothing_made_up(server: Running) -> None:
    agent_id, _ = await server.enrol("quiet")
    shown = (await server.http.get("/api/v1/agents/quiet")).json()
    assert shown["presence"] == "offline"
    assert [shown[key] for key in ("ollama", "hardware", "jobs", "model_count", "last_seen")] == [None] * 5
    hardware = (await server.http.get(f"/api/v1/agents/{agent_id}/hardware")).json()
    assert hardware == {"fingerprint": None, "updated_at": None, "inventory": None, "sample": None}


async def test_a_heartbeat_is_presence(server: Running) -> None:
    async with server.agent() as agent:
        await agent.notify("heartbeat", HEARTBEAT)
        await agent.sync_models(model("a:1", "d1"))
        shown = (await server.http.get(f"/api/v1/agents/{agent.agent_id}")).json()
        assert shown["loaded"] == ["a:1"]
        assert shown["jobs"] == {"open": 1, "finished_unacknowledged": 0}
        assert (shown["streams"], shown["model_count"]) == (2, 1)
        assert shown["heartbeat_at"] is not None
        assert shown["heard_ago_s"] >= 0
        assert (await server.http.get("/api/v1/agents")).json()[0]["id"] == agent.agent_id


async def test_last_seen_is_stored_while_the_agent_is_there(tmp_path: Path) -> None:
    async with running(tmp_path, seen_interval_s=0.01) as server, server.agent() as agent:
        await agent.sync_models(model("a:1", "d1"))
        first = await server.parts.storage.agent(agent.agent_id)
        assert first is not None
        async with asyncio.timeout(20):
            while (now := await server.parts.storage.agent(agent.agent_id)) == first:
                pass
        assert now is not None


async def test_news_come_as_events_agents_first(server: Running) -> None:
    seen: list[tuple[str, Any]] = []
    async with server.agent("first") as agent:
        listening = news(server)
        seen.append(await anext(listening))
        assert (seen[0][0], seen[0][1]["name"]) == ("agent", "first")
        seen.append(await anext(listening))
        assert seen[1] == ("current", {"agents": [agent.agent_id]}), "who comes back learns who is gone"
        await agent.notify(
            "job.progress", msgspec.Raw(b'{"job_id":"j","state":"running","progress":{"phase":"w"}}')
        )
        while seen[-1][0] != "job":
            seen.append(await anext(listening))
        assert (seen[-1][1]["job_id"], seen[-1][1]["progress"]["phase"]) == ("j", "w")
        assert (await server.http.delete(f"/api/v1/agents/{agent.agent_id}")).status_code == 204
        while seen[-1][0] != "agent_gone":
            seen.append(await anext(listening))
        assert seen[-1][1] == {"id": agent.agent_id}
        assert (await agent.until_closed())[0] == 4401
        await listening.aclose()


async def test_who_comes_right_after_a_change_begins_with_it(server: Running) -> None:
    """A page that is loaded again: the news of the change went to nobody, and a kept view is a second old."""
    credentials = await server.enrol("box")

    async def first_news() -> Any:
        listening = news(server)
        name, data = await anext(listening)
        await listening.aclose()
        assert name == "agent"
        return data

    assert (await first_news())["presence"] == "offline"
    async with server.agent("box", credentials=credentials) as agent:
        assert (await first_news())["presence"] == "online"
        await agent.notify("heartbeat", HEARTBEAT)
        await agent.sync_models(model("a:1", "d1"))
        assert (await first_news())["loaded"] == ["a:1"]
        (listed,) = (await server.http.get("/api/v1/agents")).json()
        assert listed["model_count"] == 1
        await server.http.patch(f"/api/v1/agents/{agent.agent_id}", json={"name": "renamed"})
        (listed,) = (await server.http.get("/api/v1/agents")).json()
        assert listed["name"] == "renamed"


async def test_a_deleted_agent_is_gone_with_all_that_it_reported(server: Running) -> None:
    async with server.agent() as agent:
        await agent.sync_models(model("a:1", "d1"))
        await server.http.delete(f"/api/v1/agents/{agent.agent_id}")
    assert (await server.http.get("/api/v1/agents")).json() == []
    assert (await server.http.get("/api/v1/models")).json() == []
    assert (await server.http.delete(f"/api/v1/agents/{agent.agent_id}")).status_code == 404


async def test_an_agent_is_locked_out_before_what_it_reported_is_removed(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = server.parts.storage
    remove, removing, go_on = storage.delete_agent, asyncio.Event(), asyncio.Event()

    async def slowly(agent_id: str) -> None:
        removing.set()
        await go_on.wait()
        await remove(agent_id)

    monkeypatch.setattr(storage, "delete_agent", slowly)
    credentials = await server.enrol()
    async with server.agent(credentials=credentials) as agent:
        deleting = asyncio.create_task(server.http.delete(f"/api/v1/agents/{agent.agent_id}"))
        await removing.wait()
        assert (await agent.until_closed())[0] == 4401
        with pytest.raises(Exception, match="401"):
            async with server.agent(credentials=credentials):
                pass
        go_on.set()
        assert (await deleting).status_code == 204


async def test_an_agent_that_enrols_again_while_it_is_removed_stays(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_id, _ = await server.enrol()
    parts, again = agent_removal._parts, list[tuple[str, str]]()  # noqa: SLF001
    enrolling = asyncio.Event()
    loop = asyncio.get_running_loop()

    def held(db: Session, removed: str) -> bool:
        # Its jobs are gone by now, and it is not.
        loop.call_soon_threadsafe(enrolling.set)
        return parts(db, removed) or not again

    monkeypatch.setattr(agent_removal, "_parts", held)
    deleting = asyncio.create_task(server.http.delete(f"/api/v1/agents/{agent_id}"))
    await enrolling.wait()
    again.append(await enrol_over_http(server.http, "box", agent_id))
    answer = await deleting
    assert (answer.status_code, answer.json()["error"]["kind"]) == (409, "identity_taken")
    async with server.agent(credentials=again[0]) as agent:
        assert [one["id"] for one in (await server.http.get("/api/v1/agents")).json()] == [agent.agent_id]
    assert (await server.http.delete(f"/api/v1/agents/{agent_id}")).status_code == 204


async def test_obts_own_lists_are_derived(server: Running) -> None:
    async with server.agent("pc") as agent:
        await agent.sync_models(model("a:1", "0123456789abcdef"), model("bare", "d2"))
        (client,) = (await server.http.get("/api/v1/models/clients")).json()
        assert (client["id"], client["available"], client["model_count"]) == ("pc", True, 2)
        models = (await server.http.get("/api/v1/models/?client_id=pc")).json()
        assert client["models"] == models
        without_slash = await server.http.get("/api/v1/models", params={"client_id": agent.agent_id})
        assert without_slash.json() == models
        assert models[0] == {
            "name": "a:1",
            "tags": ["1"],
            "size": 7,
            "modified": 1767323045,
            "version": "0123456789ab",
            "digest": "0123456789abcdef",
        }
        assert models[1]["tags"] == []
        assert len((await server.http.get("/api/v1/models/")).json()) == 2
        assert (await server.http.get("/api/v1/models/?client_id=nobody")).status_code == 404
        assert client["hardware"]["cpu"]["name"] == "unknown", "no inventory came yet"
        cpu = {"model": "A CPU", "logical_cores": 8}
        await agent.ask("hardware.sync", {"revision": 1, "inventory": {**INVENTORY, "cpu": cpu}})
        (client,) = (await server.http.get("/api/v1/models/clients")).json()
        assert (client["hardware"]["cpu"]["name"], client["hardware"]["cpu_threads"]) == ("A CPU", 8)
        unreadable = b'{"of":"another age"}'
        await server.parts.storage.save_inventory(agent.agent_id, "f", unreadable, 1.0)
        (client,) = (await server.http.get("/api/v1/models/clients")).json()
        assert client["hardware"]["cpu"]["name"] == "unknown"
        await agent.sync_models(InstalledModel(name="b:1", digest="d", size_bytes=1), revision=2)
        assert (await server.http.get("/api/v1/models/?client_id=pc")).json()[0]["modified"] == 0


async def test_obts_list_of_clients_holds_those_that_could_answer_a_prompt(server: Running) -> None:
    async def listed() -> list[str]:
        return [one["id"] for one in (await server.http.get("/api/v1/models/clients")).json()]

    async with server.agent("pc") as agent:
        assert await listed() == [], "nothing was heard of its Ollama"
        await agent.sync_models(model("a:1", "d1"))
        assert await listed() == ["pc"]
        stopped = ModelsSync(revision=2, ollama=OllamaState(reachable=False), list_digest="digest", models=())
        await agent.ask("models.sync", stopped)
        assert await listed() == []
        await agent.sync_models(model("a:1", "d1"), revision=3)
        assert await listed() == ["pc"]
    await until_offline(server, agent)
    assert await listed() == []


def test_who_takes_anothers_id_or_a_name_that_is_taken_goes_by_its_own_id() -> None:
    def agent(agent_id: str, name: str) -> AgentRecord:
        return AgentRecord(
            id=agent_id,
            name=name,
            version="1",
            session=1,
            store_id=None,
            capabilities=(),
            enrolled_at=0.0,
            last_seen=None,
        )

    agents = [agent("1", "pc"), agent("2", "1"), agent("3", "box"), agent("4", "box"), agent("5", "lab")]
    shown = client_ids(agents, taken={"lab"})
    assert shown == {"1": "pc", "2": "2", "3": "3", "4": "4", "5": "5"}


async def test_a_comment_keeps_an_idle_stream_of_events_open(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obt_server.rest.sse.EventStream.__init__.__kwdefaults__", {"keep_alive_s": 0.01})
    async with server.agent() as agent:
        agent.handlers["generate"] = never
        monkeypatch.setattr("obt_server.rest.commands.FIRST_EVENT_WITHIN_S", 0.01)
        path = f"/api/v1/agents/{agent.agent_id}/commands/generate"
        async with asyncio.timeout(20), server.http.stream("POST", path, json={"model": "m"}) as answer:
            assert answer.status_code == 200, "the headers do not wait for a model that loads"
            async for line in answer.aiter_lines():
                if line == ": keep-alive":
                    break
