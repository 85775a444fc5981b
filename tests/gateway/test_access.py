"""Who may use the gateway: tokens of one scope, their limits, the bounds, and what revoking does."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog.testing

from obt_server.gateway import GatewaySettings
from obt_server.store.postgresql import DatabaseUnavailable
from obt_standin import StandIn
from tests.gateway.agent import real_agent
from tests.gateway.conftest import MODEL, THINKS, Here, client, token
from tests.server.conftest import NO_AUTHORITIES, PASSWORD, Running, running
from tests.waiting import until

GENERATE = {"model": MODEL, "prompt": "x"}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def test_without_the_switch_there_is_no_gateway(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        secret = await token(server)
        # A gateway would refuse a stranger, and say in its own shape which machine there is not.
        for headers in ({"Authorization": "Bearer nobody"}, bearer(secret)):
            answer = await server.http.get("/ollama/box/api/version", headers=headers)
            assert (answer.status_code, answer.json()["error"]["kind"]) == (404, "not_found")


async def test_only_a_token_of_scope_inference_opens_it(here: Here) -> None:
    operators = here.server.http.headers["Authorization"]
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer obti_nobody"}, 401),
        ({"Authorization": operators}, 403),
        ({"Authorization": "Basic eDp5"}, 401),
    ):
        async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as stranger:
            for path in ("/api/version", "/api/pull", "/v1/models", "/v1/nothing"):
                answer = await stranger.get(f"{here.server.url}/ollama/box{path}", headers=headers)
                assert answer.status_code == status, (path, headers)
                assert ("WWW-Authenticate" in answer.headers) == (status == 401)


async def test_a_signed_in_browser_is_a_stranger_to_it(here: Here) -> None:
    async with httpx.AsyncClient(base_url=here.server.url, trust_env=False, verify=NO_AUTHORITIES) as browser:
        signed_in = await browser.post("/api/v1/session", json={"name": "admin", "password": PASSWORD})
        assert signed_in.status_code == 200
        assert (await browser.get("/api/v1/agents")).status_code == 200
        assert (await browser.get("/ollama/box/api/tags")).status_code == 401


async def test_no_page_of_another_site_is_let_in_or_may_read(here: Here) -> None:
    foreign = {"Origin": "https://chat.example.com"}
    assert (await here.http.post("/api/generate", json=GENERATE, headers=foreign)).status_code == 403
    asked = foreign | {"Access-Control-Request-Method": "POST"}
    preflight = await here.http.options("/api/generate", headers=asked)
    assert preflight.status_code == 403
    assert not [name for name in preflight.headers if name.startswith("access-control")]
    assert here.asked("/api/generate") == []


async def test_every_route_refuses_every_token_of_another_scope(here: Here) -> None:
    secret = await token(here.server)
    document = (await here.server.http.get("/api/v1/openapi.json")).json()
    operators = {"Authorization": here.server.http.headers["Authorization"]}
    wrong, seen = [], 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            # Routes that check a secret of their own know neither scope.
            security = operation.get("security", document["security"])
            if path.startswith("/ollama"):
                assert security == [{"inferenceToken": []}]
                headers = operators
            elif security == document["security"]:
                headers = bearer(secret)
            else:
                continue
            seen += 1
            filled = path.replace("{machine}", "box").replace("{", "").replace("}", "")
            async with httpx.AsyncClient(trust_env=False, verify=NO_AUTHORITIES) as other:
                answer = await other.request(method, here.server.url + filled, headers=headers)
            if answer.status_code != 403:
                wrong.append((method, path, answer.status_code))
    assert wrong == []
    assert seen > 70


async def test_the_operators_sockets_refuse_it_too(here: Here) -> None:
    import websockets  # noqa: PLC0415 - for this one test

    url = here.server.url.replace("http", "ws") + f"/api/v1/models/generate/{MODEL}?client_id=box"
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(url, additional_headers=bearer(await token(here.server)), proxy=None)
    assert refused.value.response.status_code == 403


async def test_a_token_reaches_its_machines_alone_and_learns_of_no_other(here: Here) -> None:
    (agent_id,) = here.server.parts.hub.online()
    other, _ = await here.server.enrol("other")
    async with client(here.server, machines=(other,)) as stranger:
        known = await stranger.get("/api/tags")
        unknown = await stranger.get(f"{here.server.url}/ollama/nobody/api/tags")
        assert (known.status_code, unknown.status_code) == (404, 404)
        assert known.json()["error"].replace("box", "nobody") == unknown.json()["error"]
    async with client(here.server, machines=("box",)) as allowed:
        assert (await allowed.get("/api/tags")).status_code == 200
        made = (await here.server.http.get("/api/v1/api-tokens")).json()
        assert made[-1]["machines"] == [agent_id], "by id: another machine of that name gets nothing"


async def test_a_token_of_a_label_follows_what_operators_labelled(here: Here) -> None:
    async with client(here.server, machines=("@gpu",)) as labelled:
        assert (await labelled.get("/api/tags")).status_code == 404
        await here.server.http.put("/api/v1/agents/box/labels", json={"labels": ["gpu"]})
        assert (await labelled.get("/api/tags")).status_code == 200
        await here.server.http.put("/api/v1/agents/box/labels", json={"labels": []})
        assert (await labelled.get("/api/tags")).status_code == 404


async def test_a_token_is_for_its_models_in_every_spelling(here: Here) -> None:
    async with client(here.server, models=("standin-small",)) as small:
        listed = (await small.get("/api/tags")).json()["models"]
        assert [model["name"] for model in listed] == [MODEL]
        assert [model["id"] for model in (await small.get("/v1/models")).json()["data"]] == [MODEL]
        for name in ("standin-small", "Standin-Small:latest", "registry.ollama.ai/library/standin-small"):
            assert (await small.post("/api/generate", json=GENERATE | {"model": name})).status_code == 200
        for path, body in (
            ("/api/generate", GENERATE | {"model": THINKS}),
            ("/api/generate", GENERATE | {"model": "library/standin-think:8b"}),
            ("/api/chat", {"model": THINKS, "messages": []}),
            ("/api/show", {"model": THINKS}),
            ("/api/embed", {"model": THINKS, "input": "x"}),
            ("/api/embeddings", {"model": THINKS, "prompt": "x"}),
            ("/v1/chat/completions", {"model": THINKS, "messages": [{"role": "user", "content": "x"}]}),
            ("/v1/completions", {"model": THINKS, "prompt": "x"}),
            ("/v1/embeddings", {"model": THINKS, "input": "x"}),
        ):
            assert (await small.post(path, json=body)).status_code == 403, path
        # The last of equal keys counts, for Ollama as for this check.
        twice = json.dumps(GENERATE)[:-1] + f', "model": "{THINKS}"}}'
        assert (await small.post("/api/generate", content=twice)).status_code == 403
        # Ollama reads keys without regard to case; the agent takes no other spelling.
        spelled = await small.post("/api/generate", json=GENERATE | {"MODEL": THINKS})
        assert spelled.status_code == 400
        loaded = {one["name"] for one in (await here.http.get("/api/ps")).json()["models"]}
        assert loaded == {MODEL}


async def test_a_revoked_token_ends_the_stream_that_it_opened(here: Here) -> None:
    script = here.standin.script
    script.tokens, script.ending, script.ending_after = 50, "hang", 5
    async with here.http.stream("POST", "/api/generate", json=GENERATE) as answer:
        received = answer.aiter_lines()
        await anext(received)
        (made,) = [
            one
            for one in (await here.server.http.get("/api/v1/api-tokens")).json()
            if one["scope"] == "inference"
        ]
        await here.server.http.delete(f"/api/v1/api-tokens/{made['id']}")
        *_, last = [line async for line in received]
        assert "token of scope inference" in json.loads(last)["error"]
    await here.standin.wait_for(lambda _: here.asked("/api/generate")[-1].ended == "client_closed")


async def test_while_the_database_is_away_new_requests_wait_and_open_ones_go_on(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def away(*_: object) -> None:
        nonlocal asked
        asked += 1
        raise DatabaseUnavailable("away")

    here.standin.script.tokens, here.standin.script.decode_tps = 80, 20.0
    async with here.http.stream("POST", "/api/generate", json=GENERATE) as answer:
        received = answer.aiter_lines()
        await anext(received)
        monkeypatch.setattr(here.server.parts.operators.store, "valid_token", away)
        refused = await here.http.get("/api/version")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        await until(lambda: asked > 2)
        *_, last = [line async for line in received]
        assert json.loads(last)["done"]


async def test_an_offline_machine_is_503_at_once(gateway_server: Running) -> None:
    await gateway_server.enrol("box")
    async with client(gateway_server) as http:
        for path, body in (
            ("/api/generate", GENERATE),
            ("/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}),
        ):
            answer = await http.post(path, json=body)
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1


async def test_a_token_may_have_so_many_requests_open_and_then_waits(
    tmp_path: Path, standin: StandIn
) -> None:
    settings = GatewaySettings(requests_of_token=2)
    standin.script.tokens, standin.script.ending, standin.script.ending_after = 9, "hang", 1
    standin.script.num_parallel = 4
    async with (
        running(tmp_path / "server", gateway=settings) as server,
        real_agent(server, tmp_path / "agent", standin.url),
        client(server) as http,
        client(server) as another,
    ):
        streams = [http.stream("POST", "/api/generate", json=GENERATE) for _ in range(2)]
        for stream in streams:
            assert (await stream.__aenter__()).status_code == 200
        refused = await http.post("/api/generate", json=GENERATE)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert (await another.get("/api/tags")).status_code == 200, "each token has a share of its own"
        for stream in streams:
            await stream.__aexit__(None, None, None)

        async def free() -> bool:
            return (await http.get("/api/version")).status_code == 200

        await until(free)


async def test_a_body_over_the_bound_is_refused_however_its_length_is_said(tmp_path: Path) -> None:
    settings = GatewaySettings(max_body_bytes=1000)

    async def pieces() -> Any:
        for _ in range(3):
            yield b"x" * 500

    async with running(tmp_path, gateway=settings) as server, client(server) as http:
        for content in (b"x" * 1001, pieces()):
            answer = await http.post("/v1/completions", content=content)
            assert answer.status_code == 413
            assert answer.json()["error"]["type"] == "api_error"


async def test_all_bodies_together_are_bounded(tmp_path: Path, standin: StandIn) -> None:
    script = standin.script
    script.tokens, script.ending, script.ending_after = 9, "hang", 1
    async with (
        running(tmp_path / "server", gateway=GatewaySettings(max_bodies_bytes=1000)) as server,
        real_agent(server, tmp_path / "agent", standin.url),
        client(server) as http,
    ):
        async with http.stream("POST", "/api/generate", json=GENERATE | {"prompt": "x" * 900}) as answer:
            await anext(answer.aiter_bytes())
            # The first one's counts until its answer has ended.
            refused = await http.post("/api/generate", content=b"y" * 200)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")

        async def free() -> bool:
            return (await http.post("/api/generate", content=b"y" * 200)).status_code == 400

        await until(free)


async def test_the_log_has_counts_and_times_and_neither_prompt_nor_answer(here: Here) -> None:
    here.standin.script.text, here.standin.script.tokens = ("canary-answer ",), 3
    with structlog.testing.capture_logs() as entries:
        await here.http.post("/api/generate", json=GENERATE | {"prompt": "canary-prompt"})
        body = {"model": MODEL, "messages": [{"role": "user", "content": "canary-prompt"}]}
        await here.http.post("/v1/chat/completions", json=body)
        await until(lambda: len([one for one in entries if one["event"] == "gateway.answered"]) == 2)
    first = next(one for one in entries if one["event"] == "gateway.answered")
    assert (first["route"], first["status"], first["outcome"]) == ("/api/generate", 200, "complete")
    assert (first["output_tokens"], first["prompt_tokens"] > 0) == (4, True), "the end is one"
    assert 0 < first["first_ms"] <= first["total_ms"]
    assert "canary" not in json.dumps(entries, default=str)


async def test_a_token_says_what_it_is_for_and_needs_machines(here: Here) -> None:
    for body in (
        {"name": "n", "scope": "inference"},
        {"name": "n", "machines": ["*"]},
        {"name": "n", "scope": "everything"},
        {"name": "n", "scope": "inference", "machines": [""]},
    ):
        assert (await here.server.http.post("/api/v1/api-tokens", json=body)).status_code == 422, body
    unknown = {"name": "n", "scope": "inference", "machines": ["nobody"]}
    assert (await here.server.http.post("/api/v1/api-tokens", json=unknown)).status_code == 404
    listed = (await here.server.http.get("/api/v1/api-tokens")).json()
    assert [(one["scope"], one["machines"], one["models"]) for one in listed] == [
        ("operator", [], []),
        ("inference", ["*"], ["*"]),
    ]
