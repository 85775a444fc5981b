"""Ollama's own API through the gateway, a real agent and a stand-in, byte by byte where that is promised."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from obt_agent.config.schema import CommandsPolicy, ModelsPolicy
from obt_agent.ollama.payloads import OllamaState
from tests.gateway.agent import real_agent
from tests.gateway.conftest import EMBEDS, MODEL, THINKS, Here
from tests.waiting import until


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.content.splitlines()]


async def test_lines_pass_as_ollama_wrote_them(here: Here) -> None:
    here.standin.script.tokens = 5
    answer = await here.http.post("/api/generate", json={"model": MODEL, "prompt": "x"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    (asked,) = here.asked("/api/generate")
    assert answer.content == b"".join(data for _, data in asked.writes), "every byte, and none beside"


@pytest.mark.parametrize(
    ("path", "body"),
    [("generate", {"prompt": "x"}), ("chat", {"messages": [{"role": "user", "content": "x"}]})],
)
async def test_without_a_stream_one_object_comes_as_ollama_makes_it(
    here: Here, path: str, body: dict[str, Any]
) -> None:
    script = here.standin.script
    script.tokens, script.thinking_tokens, script.numbered = 6, 2, True
    asked = {"model": THINKS, "stream": False, "think": True, **body}
    through = await here.http.post(f"/api/{path}", json=asked)
    async with httpx.AsyncClient(base_url=here.standin.url, trust_env=False) as direct:
        real = await direct.post(f"/api/{path}", json=asked)
    assert through.headers["content-type"] == real.headers["content-type"]
    assert steady(through.json()) == steady(real.json())


def steady(answer: dict[str, Any]) -> dict[str, Any]:
    """Without times."""
    return {name: value for name, value in answer.items() if "duration" not in name and name != "created_at"}


async def test_the_lists_are_those_of_ollama(here: Here) -> None:
    await here.http.post("/api/generate", json={"model": MODEL, "prompt": "x"})
    async with httpx.AsyncClient(base_url=here.standin.url, trust_env=False) as direct:
        for path in ("/api/version", "/api/ps"):
            assert (await here.http.get(path)).json() == (await direct.get(path)).json()
        through = (await here.http.get("/api/tags")).json()["models"]
        real = (await direct.get("/api/tags")).json()["models"]
    # The owner shows no model whose prompts would leave the machine.
    assert through == [model for model in real if "remote_model" not in model]
    assert (await here.http.get("/")).text == "Ollama is running"
    assert (await here.http.head("/")).status_code == 200


async def test_an_ollama_that_has_just_started_answers_at_once(here: Here) -> None:
    (agent_id,) = here.server.parts.hub.online()
    presence = here.server.parts.hub.presence(agent_id)
    assert presence is not None
    # As the machine's last report said, a moment before Ollama started.
    presence.ollama = OllamaState(reachable=False)
    assert (await here.http.get("/api/version")).json() == {"version": here.standin.script.version}
    assert (await here.http.get("/")).text == "Ollama is running"


async def test_the_version_of_an_ollama_that_is_down_is_refused_as_its_lists_are(here: Here) -> None:
    (agent_id,) = here.server.parts.hub.online()
    presence = here.server.parts.hub.presence(agent_id)
    assert presence is not None
    await here.standin.stop()
    presence.ollama = OllamaState(reachable=False)
    answer = await here.http.get("/api/version")
    listed = await here.http.get("/api/tags")
    assert (answer.status_code, answer.json()) == (listed.status_code, listed.json())
    assert (answer.status_code, "Nothing answers" in answer.text) == (502, True)


async def test_show_is_ollamas_without_paths_of_the_host(here: Here) -> None:
    for asked in ({"model": MODEL}, {"name": MODEL}):
        shown = (await here.http.post("/api/show", json=asked)).json()
        assert shown["details"]["quantization_level"] == "Q4_K_M"
        assert "/usr/share/ollama" not in shown["modelfile"]


async def test_embeddings_come_in_both_forms(here: Here) -> None:
    new = (await here.http.post("/api/embed", json={"model": EMBEDS, "input": ["one", "two"]})).json()
    assert len(new["embeddings"]) == 2
    old = (await here.http.post("/api/embeddings", json={"model": EMBEDS, "prompt": "one"})).json()
    assert old == {"embedding": new["embeddings"][0]}
    empty = (await here.http.post("/api/embeddings", json={"model": EMBEDS})).json()
    assert empty == {"embedding": []}


async def test_a_model_is_loaded_and_unloaded_with_one_object_that_is_no_stream(here: Here) -> None:
    for body, reason in (({"model": MODEL}, "load"), ({"model": MODEL, "keep_alive": 0}, "unload")):
        answer = await here.http.post("/api/generate", json=body)
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert answer.json()["done_reason"] == reason
        assert not answer.content.endswith(b"\n")


async def test_what_fails_before_the_first_chunk_is_a_status_in_ollamas_words(here: Here) -> None:
    missing = await here.http.post("/api/chat", json={"model": "nosuch", "messages": [{"role": "user"}]})
    assert (missing.status_code, missing.json()) == (404, {"error": "model 'nosuch' not found"})
    here.standin.script.answer = "load_fails"
    failed = await here.http.post("/api/generate", json={"model": MODEL, "prompt": "x"})
    assert failed.status_code == 500
    assert failed.json() == {"error": "llama-server process has terminated: signal: killed"}


async def test_what_fails_in_mid_stream_is_a_line_of_its_own(here: Here) -> None:
    script = here.standin.script
    script.ending, script.ending_after, script.tokens = "runner_killed", 3, 6
    answer = await here.http.post("/api/generate", json={"model": MODEL, "prompt": "x"})
    assert answer.status_code == 200
    *good, last = lines(answer)
    assert [line["done"] for line in good] == [False] * 3
    assert "error" in last


async def test_a_client_that_goes_ends_the_generation_at_ollama(here: Here) -> None:
    script = here.standin.script
    script.tokens, script.ending, script.ending_after = 50, "hang", 5
    async with here.http.stream("POST", "/api/generate", json={"model": MODEL, "prompt": "x"}) as answer:
        assert answer.status_code == 200
        await anext(answer.aiter_bytes())
    await here.standin.wait_for(lambda _: here.asked("/api/generate")[-1].ended == "client_closed")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_before_the_first_chunk_ends_it_too(here: Here, *, stream: bool) -> None:
    here.standin.script.ttft_s = 600.0
    body = {"model": MODEL, "prompt": "x", "stream": stream}
    asking = asyncio.create_task(here.http.post("/api/generate", json=body))
    await here.standin.wait_for(lambda ollama: ollama.open_streams == 1 and bool(here.asked("/api/generate")))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await here.standin.wait_for(lambda ollama: here.asked("/api/generate")[-1].ended == "client_closed")


async def test_a_client_that_does_not_read_stops_the_reading_of_ollama(here: Here) -> None:
    script = here.standin.script
    script.tokens, script.fast, script.numbered = 200_000, True, True
    body = {"model": MODEL, "prompt": "x", "options": {"num_predict": 200_000}}
    async with here.http.stream("POST", "/api/generate", json=body) as answer:
        assert answer.status_code == 200
        # Nothing is read: what the way holds is bounded, and Ollama has to wait.
        hub = here.server.parts.local_hub
        (agent_id,) = hub.online()
        calls = hub._sessions.require(agent_id).calls  # noqa: SLF001 - what the server holds, shown nowhere
        await until(lambda: sum(request.held_bytes for request in calls._requests.values()) > 0)  # noqa: SLF001
        # Another request on the same link is answered meanwhile: nothing is held up but this stream.
        assert (await here.http.get("/api/tags")).status_code == 200
        held = sum(request.held_bytes for request in calls._requests.values())  # noqa: SLF001 - as above
        assert held < 256 << 10
        assert here.standin.open_streams == 1, "Ollama has not been read to its end"


async def test_models_are_not_changed(here: Here) -> None:
    before = len(here.standin.requests)
    for method, path in (
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/blobs/sha256:00"),
        ("HEAD", "/api/blobs/sha256:00"),
    ):
        answer = await here.http.request(method, path, content=b"" if method == "HEAD" else b'{"model":"x"}')
        assert answer.status_code == 403, path
        assert method == "HEAD" or "not changed through the gateway" in answer.json()["error"]
    asked = [one.path for one in list(here.standin.requests)[before:]]
    assert not [path for path in asked if path not in ("/api/tags", "/api/ps", "/api/version")]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"model":5}', 400),
        (b"{}", 400),
        (b'{"model":"bad name!!"}', 400),
        (b"[" * 100_000, 400),
        (b'{"model":"\xff"}', 400),
    ],
)
async def test_a_request_that_is_none_is_refused_in_ollamas_shape(
    here: Here, content: bytes, status: int
) -> None:
    answer = await here.http.post("/api/chat", content=content)
    assert answer.status_code == status
    assert isinstance(answer.json()["error"], str)


async def test_an_unknown_route_is_said_to_be_none(here: Here) -> None:
    assert (await here.http.get("/api/nothing")).json()["error"].startswith("The gateway has no such route")
    openai = await here.http.post("/v1/responses", json={})
    assert (openai.status_code, openai.json()["error"]["type"]) == (404, "not_found_error")


async def test_what_the_owner_denies_stays_denied(here: Here, tmp_path: Path) -> None:
    async with real_agent(
        here.server,
        tmp_path / "strict",
        here.standin.url,
        name="strict",
        commands=CommandsPolicy(deny=("embed",)),
        models=ModelsPolicy(deny=("standin-think",)),
    ):
        base = f"{here.server.url}/ollama/strict"
        refused = await here.http.post(f"{base}/api/embed", json={"model": EMBEDS, "input": "x"})
        assert refused.status_code == 403
        body = {"model": THINKS, "messages": [{"role": "user", "content": "x"}]}
        refused = await here.http.post(f"{base}/v1/chat/completions", json=body)
        assert refused.status_code == 403
        assert "policy.models.deny" in refused.json()["error"]["message"]
        listed = (await here.http.get(f"{base}/api/tags")).json()["models"]
        assert THINKS not in [model["name"] for model in listed]
