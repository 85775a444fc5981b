"""The audit line: each route that changes or runs something writes one, without secrets and prompts."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi.routing import APIRoute
from structlog.testing import capture_logs

from obt_agent.protocol import methods
from obt_agent.protocol.envelope import Request
from obt_server.auth import secrets
from obt_server.gateway import GatewaySettings
from obt_server.rest import audit
from tests.server.agent_double import AgentDouble, Answer, uuid7
from tests.server.conftest import PASSWORD, Running, running
from tests.server.job_steps import PLAN, accept
from tests.waiting import until

CHANGE_NOTHING = {
    "/api/v1/rollouts/preview",
    "/api/v1/campaigns/preview",
    "/api/v1/model-sets/{name}/preview",
    "/api/v1/benchmarks/estimate",
    "/api/v1/signed-requests/prepare",
}
"""Asked by POST, for their bodies. Whoever adds one here says that it neither changes nor runs anything."""
GATEWAY = "/ollama/"
"""Its lines are ``gateway.answered`` (tests/gateway/test_access.py)."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, gateway=GatewaySettings()) as one:
        yield one


def changing(server: Running) -> list[tuple[str, str]]:
    """Method and path of every route that is not asked by GET."""
    return [
        (method, route.path)
        for route in server.parts.app.routes
        if isinstance(route, APIRoute) and not route.path.startswith(GATEWAY)
        for method in sorted((route.methods or set()) - {"GET", "HEAD", "OPTIONS"})
    ]


def lines_of(entries: list[Any]) -> list[dict[str, Any]]:
    return [one for one in entries if one["event"].startswith("audit.")]


async def test_no_route_that_changes_or_runs_something_lacks_an_audit_line(server: Running) -> None:
    asked, lacking, too_many = changing(server), [], []
    for method, path in asked:
        with capture_logs() as entries:
            answer = await server.http.request(method, re.sub(r"\{[^}]*\}", "x", path), json={})
        assert answer.status_code < 500, (method, path, answer.text)
        lines = lines_of(entries)
        if path in CHANGE_NOTHING:
            too_many += [(method, path)] if lines else []
        elif [line["outcome"].split()[0] for line in lines] != [str(answer.status_code)]:
            lacking.append((method, path, lines))
        else:
            assert lines[0]["address"] == "127.0.0.1"
            assert lines[0]["action"] == f"{method} {path.removeprefix('/api/v1')}"
    assert (lacking, too_many) == ([], [])
    assert len(asked) > 40
    assert {path for _, path in asked} >= CHANGE_NOTHING


def test_commands_that_only_read_are_commands_of_the_protocol() -> None:
    assert {method.name for method in methods.COMMANDS} > audit.READING_COMMANDS
    assert not {method.name for method in methods.COMMANDS if method.changes or method.job} & (
        audit.READING_COMMANDS
    )


async def generated(agent: AgentDouble, request: Request) -> Answer:
    await agent.stream(request, b'{"response":"canary-answer"}')
    return agent.final(request)


async def models(_: AgentDouble, __: Request) -> Answer:
    return {"models": [], "stale": False, "ollama": {"reachable": True}, "revision": 1, "list_digest": ""}


async def test_a_line_says_who_from_where_what_on_which_machine_and_what_came_of_it(server: Running) -> None:
    async with server.agent("box") as agent:
        agent.handlers |= {"generate": generated, "list_models": models, "run_benchmark": accept}
        with capture_logs() as entries:
            path = "/api/v1/agents/box/commands"
            prompt = {"model": "m", "prompt": "canary-prompt"}
            assert (await server.http.post(f"{path}/generate", json=prompt)).status_code == 200
            assert (await server.http.post(f"{path}/list_models", json={})).status_code == 200
            plan = {**PLAN, "prompt_config": {"prompt": "canary-prompt", "completion_tokens": 1}}
            await server.http.post("/api/v1/benchmarks", json={"agent": "box", "plan": plan})
            assert (await server.http.delete("/api/v1/agents/none")).status_code == 404
        ran, measured, refused = lines_of(entries)
    tokens = (await server.http.get("/api/v1/api-tokens")).json()
    via = f"token {tokens[0]['id']}"
    assert (ran["event"], ran["who"], ran["via"]) == ("audit.command", "admin", via)
    assert (ran["action"], ran["path"]) == (
        "POST /agents/{agent}/commands/{method}",
        {"agent": "box", "method": "generate"},
    )
    assert (ran["machines"], ran["machine_count"], ran["outcome"]) == ([agent.agent_id], 1, "200")
    assert (measured["machines"], measured["outcome"]) == ([agent.agent_id], "202")
    assert measured["job"]
    assert (refused["outcome"], refused["path"]) == ("404 agent_unknown", {"agent": "none"})
    assert "canary" not in json.dumps(entries, default=str)


async def test_signing_in_and_enrolling_are_lines_without_a_secret(server: Running) -> None:
    join_token = (await server.http.post("/api/v1/join-tokens", json={})).json()["secret"]
    enrolment = {
        "agent": {"id": uuid7(), "name": "box", "version": "1"},
        "secret_sha256": secrets.sha256("canary"),
    }
    with capture_logs() as entries:
        right = {"name": "admin", "password": PASSWORD}
        assert (await server.http.post("/api/v1/session", json=right)).status_code == 200
        # People type it where the name belongs.
        wrong = {"name": PASSWORD, "password": "canary-password"}
        assert (await server.http.post("/api/v1/session", json=wrong)).status_code == 401
        headers = {"Authorization": f"Bearer {join_token}"}
        enrolled = await server.http.post("/api/v1/agents/enroll", json=enrolment, headers=headers)
        assert enrolled.status_code == 200
        made = await server.http.post("/api/v1/api-tokens", json={"name": "ci"})
    signed_in, refused, joined, token = lines_of(entries)
    assert (signed_in["event"], signed_in["who"], signed_in["via"]) == ("audit.command", "admin", "password")
    assert (refused["event"], refused["who"]) == ("audit.refused", None)
    assert refused["outcome"] == "401 sign_in_refused"
    assert (joined["who"], joined["machines"]) == ("join token", [enrolment["agent"]["id"]])  # type: ignore[index] # one of the two
    assert (token["token_id"], token["scope"]) == (made.json()["token"]["id"], "operator")
    text = json.dumps(entries, default=str)
    for secret in (PASSWORD, join_token, "canary", made.json()["secret"], enrolment["secret_sha256"]):
        assert str(secret) not in text


async def test_what_one_act_does_on_many_machines_names_them(server: Running) -> None:
    async with server.agent("one") as one, server.agent("two") as two:
        body = {"action": "delete", "model": "m:1", "targets": {"all": True}}
        with capture_logs() as entries:
            begun = await server.http.post("/api/v1/rollouts", json=body)
            assert begun.status_code == 201, begun.text
    (line,) = lines_of(entries)
    assert sorted(line["machines"]) == sorted([one.agent_id, two.agent_id])
    assert (line["work"], line["rollout"]) == ("delete", begun.json()["id"])


async def test_generation_by_websocket_is_a_line_for_each_prompt(server: Running) -> None:
    import websockets  # noqa: PLC0415 - here alone

    async with server.agent("box") as agent:
        agent.handlers["generate"] = generated
        url = f"{server.url.replace('http', 'ws')}/api/v1/models/generate/m:1?client_id=box"
        headers = {"Authorization": server.http.headers["Authorization"]}
        with capture_logs() as entries:
            async with websockets.connect(url, additional_headers=headers, proxy=None) as socket:
                for prompt in ('{"prompt":"canary-prompt"}', '{"no":"prompt"}'):
                    await socket.send(prompt)
                    while not msgspec.json.decode(await socket.recv()).get("done"):
                        pass
            await until(lambda: len(lines_of(entries)) == 2)
    done, refused = lines_of(entries)
    assert (done["outcome"], done["machines"], done["who"]) == ("complete", [agent.agent_id], "admin")
    assert refused["outcome"] == "invalid_params"
    assert "canary" not in json.dumps(entries, default=str)
