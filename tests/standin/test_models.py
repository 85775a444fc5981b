"""Routes about models where the recordings show no example."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import aiohttp

from obt_standin import Model, ModelBlob, PullFault, StandIn


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


SMALL = ModelBlob("sha256:" + "5" * 64, 100)
LARGE = ModelBlob("sha256:" + "a" * 64, 10_000)


async def pulled(standin: StandIn, name: str) -> list[Any]:
    _, text = await send(standin, "POST", "/api/pull", json.dumps({"model": name}).encode())
    return [json.loads(line) for line in text.splitlines()]


async def test_a_pull_that_broke_off_goes_on_where_it_was(standin: StandIn) -> None:
    standin.script.registry.append(Model(name="new:7b", blobs=(SMALL, LARGE)))
    standin.script.pull_faults.append(PullFault(error="max retries exceeded", after=0.6))
    broken, whole = await pulled(standin, "new:7b"), await pulled(standin, "new:7b")
    assert broken[-1] == {"error": "max retries exceeded"}
    assert broken[-2]["completed"] == 6_000
    completed = [line["completed"] for line in whole if line.get("digest") == LARGE.digest]
    assert (completed[0], completed[-1]) == (7_000, 10_000)
    # What is here whole is one line.
    assert [line["completed"] for line in whole if line.get("digest") == SMALL.digest] == [100]
    assert (standin.store.blobs[LARGE.digest], standin.store.partial) == (10_000, {})


async def test_a_pull_onto_a_full_disk_fails_and_keeps_what_it_has(standin: StandIn) -> None:
    standin.script.registry.append(Model(name="new:7b", blobs=(SMALL, LARGE)))
    standin.script.disk_bytes = 4_100
    assert (await pulled(standin, "new:7b"))[-1]["error"].endswith("-partial: no space left on device")
    assert (standin.store.partial[LARGE.digest], standin.store.free_bytes) == (4_000, 0)


async def test_files_that_models_share_go_with_the_last_of_them(standin: StandIn) -> None:
    standin.store.add(Model(name="one:latest", blobs=(LARGE, SMALL)))
    await post(standin, "/api/copy", source="one", destination="copy")
    assert await post(standin, "/api/create", model="made", **{"from": "one"}) == (200, {"status": "success"})
    for gone, left in (("one", True), ("copy", True), ("made", False)):
        await send(standin, "DELETE", "/api/delete", json.dumps({"model": gone}).encode())
        status, _ = await send(standin, "HEAD", f"/api/blobs/{LARGE.digest}")
        assert (status == 200) is left, gone


async def test_a_loaded_model_stays_loaded_when_it_is_deleted(standin: StandIn) -> None:
    await post(standin, "/api/generate", model="standin-small")
    await send(standin, "DELETE", "/api/delete", b'{"model":"standin-small"}')
    assert [one["name"] for one in standin.runners.ps()["models"]] == ["standin-small:latest"]


async def test_a_creation_from_a_model_that_is_not_here_passes_on_all_of_its_pull(standin: StandIn) -> None:
    standin.script.registry.append(Model(name="new:7b"))
    body = json.dumps({"model": "made", "from": "new:7b"}).encode()
    _, text = await send(standin, "POST", "/api/create", body)
    states = [json.loads(line)["status"] for line in text.splitlines()]
    assert states.count("success") == 2
    assert states[-1] == "success"
