"""Routes about models where the recordings show no example."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import aiohttp

from obt_standin import Model, StandIn


async def send(
    standin: StandIn, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, standin.url + path, data=body, headers=headers) as response,
    ):
        return response.status, await response.text()


async def post(standin: StandIn, path: str, **fields: Any) -> tuple[int, Any]:
    status, text = await send(standin, "POST", path, json.dumps(fields).encode())
    return status, json.loads(text.splitlines()[-1]) if text else None


async def test_a_blob_is_taken_once_and_a_model_made_of_it(standin: StandIn) -> None:
    digest = f"sha256:{hashlib.sha256(b'gguf').hexdigest()}"
    assert (await send(standin, "HEAD", f"/api/blobs/{digest}"))[0] == 404
    assert (await send(standin, "POST", f"/api/blobs/{digest}", b"gguf"))[0] == 201
    assert (await send(standin, "POST", f"/api/blobs/{digest}", b"gguf"))[0] == 200
    assert (await send(standin, "HEAD", f"/api/blobs/{digest}"))[0] == 200
    assert await post(standin, "/api/create", model="made", files={"x.gguf": digest}) == (
        200,
        {"status": "success"},
    )
    assert standin.store.find("made") is not None


async def test_a_model_made_from_another_gains_what_its_template_can(standin: StandIn) -> None:
    fields = {"from": "standin-small", "template": "{{ .Tools }}{{ .Think }}", "stream": False}
    assert await post(standin, "/api/create", model="made", **fields) == (200, {"status": "success"})
    made = standin.store.find("made")
    assert made is not None
    assert made.capabilities == ("completion", "tools", "thinking")
    assert made.parent_model == "standin-small:latest"
    status, shown = await post(standin, "/api/show", model="made")
    assert (status, shown["template"]) == (200, fields["template"])


async def test_a_pull_installs_what_the_registry_offers(standin: StandIn) -> None:
    standin.script.registry = [Model(name="new:7b")]
    assert await post(standin, "/api/pull", model="new:7b") == (200, {"status": "success"})
    assert standin.store.find("new:7b") is not None
    assert await post(standin, "/api/pull", model="new:8b", stream=False) == (
        500,
        {"error": "pull model manifest: file does not exist"},
    )


async def test_embeddings_depend_on_the_text_alone_and_have_length_one(standin: StandIn) -> None:
    _, first = await post(standin, "/api/embed", model="standin-embed", input=["a", "b"])
    _, again = await post(standin, "/api/embed", model="standin-embed", input="a", dimensions=256)
    assert first["embeddings"][0] == again["embeddings"][0] != first["embeddings"][1]
    assert abs(sum(x * x for x in again["embeddings"][0]) - 1) < 1e-3


async def test_a_loaded_models_share_on_the_gpu_is_as_scripted(standin: StandIn) -> None:
    standin.store.add(Model(name="half:latest", vram_ratio=0.5))
    await post(standin, "/api/generate", model="half")
    _, text = await send(standin, "GET", "/api/ps")
    (loaded,) = json.loads(text)["models"]
    assert loaded["size_vram"] == loaded["size"] // 2


async def test_pages_of_this_machine_may_ask_and_others_may_not(standin: StandIn) -> None:
    assert (await send(standin, "GET", "/api/version", Origin="http://localhost:3000"))[0] == 200
    assert (await send(standin, "GET", "/api/version", Origin="https://example.com"))[0] == 403
    assert (await send(standin, "GET", "/api/version", Host="example.com"))[0] == 403


async def test_tools_without_parameters_are_called_with_nothing(standin: StandIn) -> None:
    standin.script.tool_call = True
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
    fields = {"messages": [{"role": "user", "content": "Time?"}], "tools": [tool], "stream": False}
    _, answer = await post(standin, "/api/chat", model="standin-think:8b", **fields)
    assert answer["message"]["tool_calls"][0]["function"] == {"index": 0, "name": "now", "arguments": {}}


async def test_images_pass_where_the_model_sees(standin: StandIn) -> None:
    standin.store.add(Model(name="eyes:latest", capabilities=("completion", "vision")))
    status, _ = await post(
        standin, "/api/generate", model="eyes", prompt="What?", images=["aGk="], stream=False
    )
    assert status == 200
