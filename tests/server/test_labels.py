"""Labels: an agent's own come with its hello, operators' are set at the server; neither changes the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from obt_agent.errors import InvalidParams
from obt_agent.protocol import codec
from obt_agent.protocol.admission import AgentIdentity
from tests.server.agent_double import AgentDouble
from tests.server.conftest import Running, running
from tests.waiting import until


async def labels_of(server: Running, agent: AgentDouble) -> tuple[list[str], list[str]]:
    view = (await server.http.get(f"/api/v1/agents/{agent.agent_id}")).json()
    return view["labels"], view["own_labels"]


async def put(server: Running, agent: AgentDouble, labels: Any) -> Any:
    return await server.http.put(f"/api/v1/agents/{agent.agent_id}/labels", json={"labels": labels})


async def test_an_agents_own_labels_and_the_operators_stand_side_by_side(server: Running) -> None:
    async with server.agent("box", labels=("lab", "gpu", "lab")) as agent:
        answer = await put(server, agent, ["rack=2", "lab", "rack=2"])
        assert (answer.status_code, answer.json()["labels"]) == (200, ["lab", "rack=2"])
        assert await labels_of(server, agent) == (["lab", "rack=2"], ["gpu", "lab"])
        listed = (await server.http.get("/api/v1/agents")).json()
        assert [one["labels"] for one in listed] == [["lab", "rack=2"]]
        await put(server, agent, [])
        assert await labels_of(server, agent) == ([], ["gpu", "lab"])


async def test_the_next_hello_replaces_an_agents_own_labels_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        credentials = await server.enrol("box")
        async with server.agent("box", credentials=credentials, labels=("old",)) as agent:
            await put(server, agent, ["kept"])
    # A restart of the server loses neither.
    async with running(tmp_path) as server, server.agent("box", credentials=credentials) as agent:
        await until(lambda: server.parts.hub.directory.records[agent.agent_id].own_labels == ())
        assert await labels_of(server, agent) == (["kept"], [])


@pytest.mark.parametrize(
    "labels",
    [["Lab"], [""], ["a b"], ["a\n"], ["-a"], ["a" * 64], ["ä"], [1], "lab", [f"l{n}" for n in range(17)]],
)
async def test_what_is_no_label_is_refused_and_changes_nothing(server: Running, labels: Any) -> None:
    async with server.agent() as agent:
        await put(server, agent, ["good"])
        answer = await put(server, agent, labels)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "invalid_params")
        assert answer.json()["error"]["detail"]["field"].startswith("body.labels")
        assert await labels_of(server, agent) == (["good"], [])


def test_a_hello_with_a_label_that_is_none_is_refused_as_a_whole() -> None:
    old = msgspec.Raw(b'{"id":"a","name":"n","version":"1","instance":"i"}')
    assert codec.convert(old, AgentIdentity).labels == ()
    with pytest.raises(InvalidParams):
        codec.convert(msgspec.Raw(bytes(old)[:-1] + b',"labels":["Lab"]}'), AgentIdentity)


async def test_labels_are_set_by_those_who_may_drive_machines_and_the_log_says_by_whom(
    server: Running,
) -> None:
    async with server.agent() as agent:
        address = f"{server.url}/api/v1/agents/{agent.agent_id}/labels"
        nobody = {"Authorization": "Bearer x"}
        stranger = await server.http.put(address, json={"labels": ["x"]}, headers=nobody)
        assert stranger.status_code == 401
        with capture_logs() as lines:
            await put(server, agent, ["x"])
    (line,) = (one for one in lines if one["event"] == "audit.command")
    assert (line["machines"], line["labels"], line["who"]) == ([agent.agent_id], "x", "admin")
    assert (await server.http.put("/api/v1/agents/none/labels", json={"labels": []})).status_code == 404
