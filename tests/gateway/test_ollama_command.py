"""The ``ollama`` command's requests, as its ``api/client.go`` sends them, and what it reads of answers."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx

from tests.gateway.conftest import EMBEDS, MODEL, Here

# As Go writes them: every field that is not marked as left out when empty.
_SHOW = {"model": "", "system": "", "template": "", "verbose": False, "options": None, "name": ""}
_GENERATE = {"model": MODEL, "prompt": "", "suffix": "", "system": "", "template": "", "options": None}
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


async def command(here: Here, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    """One request, with the command's own headers; where something is refused, its words are in ``error``."""
    streams = path in ("/api/generate", "/api/chat", "/api/pull")
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/x-ndjson" if streams else "application/json",
        "User-Agent": "ollama/0.33.0 (amd64 linux) Go/go1.26.0",
        "Accept-Encoding": "gzip",
    }
    content = None if body is None else json.dumps(body)
    answer = await here.http.request(method, path, headers=headers, content=content)
    assert answer.status_code < 400 or method == "HEAD" or isinstance(answer.json()["error"], str)
    return answer


async def goes_on(here: Here) -> None:
    """Every subcommand but ``--version`` begins so, and tells its user to start Ollama where it fails."""
    assert (await command(here, "HEAD", "/")).status_code == 200


async def test_version_list_and_show_have_the_fields_that_the_command_reads(here: Here) -> None:
    await goes_on(here)
    assert (await command(here, "GET", "/api/version")).json()["version"] == here.standin.script.version
    listed = (await command(here, "GET", "/api/tags")).json()["models"]
    assert MODEL in [one["name"] for one in listed]
    for one in listed:
        assert len(one["digest"]) >= 12, (
            "it prints the first twelve, and ends with a panic where there are fewer"
        )
        assert _RFC_3339.fullmatch(one["modified_at"]), "Go reads a time, or nothing of the list"
        assert isinstance(one["size"], int)
    # `show` names the model in the older field, `run` in the newer one.
    for named in ({"name": MODEL}, {"model": MODEL}):
        shown = (await command(here, "POST", "/api/show", _SHOW | named)).json()
        assert "completion" in shown["capabilities"]
        assert shown["model_info"]
        assert _RFC_3339.fullmatch(shown["modified_at"])


async def test_run_ps_and_stop_load_answer_and_unload(here: Here) -> None:
    here.standin.script.tokens = 3
    await goes_on(here)
    loaded = await command(here, "POST", "/api/generate", _GENERATE)
    assert loaded.json()["done_reason"] == "load"
    (running,) = (await command(here, "GET", "/api/ps")).json()["models"]
    assert (running["name"], len(running["digest"]) >= 12) == (MODEL, True)
    assert _RFC_3339.fullmatch(running["expires_at"])
    assert isinstance(running["context_length"], int)
    asked = {"prompt": "Why?", "options": {}}
    said = [
        json.loads(line)
        for line in (await command(here, "POST", "/api/generate", _GENERATE | asked)).content.splitlines()
    ]
    assert said[-1]["done"]
    assert isinstance(said[-1]["eval_count"], int)
    assert said[-1]["context"], "the next line of a conversation goes on from it"
    again = asked | {"context": said[-1]["context"]}
    assert (await command(here, "POST", "/api/generate", _GENERATE | again)).status_code == 200
    messages = [{"role": "user", "content": "Why?"}]
    chat = {"model": MODEL, "messages": messages, "options": {}}
    assert b'"done":true' in (await command(here, "POST", "/api/chat", chat)).content
    embedded = {"model": EMBEDS, "input": "one", "options": None}
    assert len((await command(here, "POST", "/api/embed", embedded)).json()["embeddings"]) == 1
    stopped = await command(here, "POST", "/api/generate", _GENERATE | {"keep_alive": "0s"})
    assert stopped.json()["done_reason"] == "unload"


async def test_pull_rm_cp_and_a_run_of_what_is_not_there_end_with_the_gateways_words(here: Here) -> None:
    await goes_on(here)
    missing = await command(here, "POST", "/api/show", _SHOW | {"model": "nosuch"})
    assert missing.status_code == 404, "it pulls then"
    pulled = {"model": "", "username": "", "password": "", "name": "nosuch"}
    for method, path, body in (
        ("POST", "/api/pull", pulled),
        ("DELETE", "/api/delete", {"model": "", "name": MODEL}),
        ("POST", "/api/copy", {"source": MODEL, "destination": "other"}),
    ):
        refused = await command(here, method, path, body)
        assert (refused.status_code, "not changed" in refused.json()["error"]) == (403, True), path
