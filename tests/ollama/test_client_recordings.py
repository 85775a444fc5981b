"""What the client makes of the bytes that a real Ollama sent, through a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from obt_agent.config.schema import OllamaConfig
from obt_agent.errors import AgentError, ModelNotFound, OllamaError, StreamIncomplete
from obt_agent.ollama.client import OllamaClient
from tests.ollama.raw_server import recorded_response, replying, serving
from tests.recordings import Recording, recordings

STREAMED = [
    name
    for name, recording in recordings().items()
    if recording.content_type == "application/x-ndjson" and recording.end != "client-closed"
]
WHOLE = [
    name
    for name, recording in recordings().items()
    if recording.method == "POST"
    and recording.path in {"/api/generate", "/api/chat", "/api/embed", "/api/embeddings"}
    and (recording.content_type or "").startswith("application/json")
]
NO_FINAL_LINE = {"generate-repeat-abort-stream", "chat-repeat-abort-stream"}
BROKEN = {"stop-server-mid-stream-sigkill", "stop-server-mid-stream-sigterm"}
BROKEN_OFF_WHOLE = {"generate-repeat-abort-nonstream", "chat-repeat-abort-nonstream"}


def error_lines(recording: Recording) -> bool:
    return recording.response.rsplit(b"\n", 2)[-2].startswith(b'{"error"')


async def streamed(recording: Recording) -> tuple[list[bytes], bytes | None, AgentError | None]:
    """The lines, the final one, and the error that a recorded stream gives."""
    lines: list[bytes] = []
    async with (
        asyncio.timeout(20),
        serving(replying(recorded_response(recording))) as url,
        OllamaClient(OllamaConfig(url=url)) as client,
    ):
        try:
            async with client.stream(recording.path, recording.request) as stream:
                async for batch in stream.batches():
                    lines += [line.raw for line in batch]
                return lines, stream.final.raw, None
        except AgentError as error:
            return lines, None, error


@pytest.mark.parametrize("name", STREAMED)
async def test_every_recorded_stream_comes_through_byte_for_byte_or_ends_in_its_typed_error(
    name: str,
) -> None:
    recording = recordings()[name]
    lines, final, error = await streamed(recording)
    sent = [line for line in recording.response.split(b"\n") if line]
    if name in NO_FINAL_LINE | BROKEN:
        assert isinstance(error, StreamIncomplete)
        assert error.detail["cause"] == ("connection_lost" if name in BROKEN else "no_final_line")
        assert lines == sent
    elif error_lines(recording):
        assert isinstance(error, OllamaError)
        assert error.detail["status"] == 200
        assert lines == sent[:-1]
    else:
        assert error is None
        assert [*lines, final] == sent


@pytest.mark.parametrize("name", WHOLE)
async def test_every_recorded_answer_in_one_piece_comes_through_or_is_its_typed_error(name: str) -> None:
    recording = recordings()[name]
    async with (
        asyncio.timeout(20),
        serving(replying(recorded_response(recording))) as url,
        OllamaClient(OllamaConfig(url=url)) as client,
    ):
        if recording.status == 200 and name not in BROKEN_OFF_WHOLE:
            assert await client.call(recording.path, recording.request) == recording.response
            return
        with pytest.raises(OllamaError) as caught:
            await client.call(recording.path, recording.request)
    check_error(caught.value, recording)


def check_error(error: OllamaError, recording: Recording) -> None:
    """An error has Ollama's status, and its kind follows from what Ollama said."""
    if recording.status == 200:
        assert isinstance(error, StreamIncomplete)
        return
    assert error.detail["status"] == recording.status
    assert isinstance(error, ModelNotFound) == (b"not found" in recording.response)
    assert error.retryable == (recording.status == 503 or recording.name == "kill-runner-nonstream")


Act = Callable[[OllamaClient], object]


@pytest.mark.parametrize(
    "name", [name for name in recordings() if name.startswith("tags-") and "head" not in name]
)
async def test_every_recorded_list_of_models_is_read(name: str) -> None:
    recording = recordings()[name]
    async with (
        serving(replying(recorded_response(recording))) as url,
        OllamaClient(OllamaConfig(url=url)) as client,
    ):
        models = (await client.installed()).models
    assert len(models) == recording.response.count(b'"digest"')
    for model in models:
        assert len(model.digest) == 64
        assert (model.context_length is None) == (model.remote_host is not None)
        assert bool(model.capabilities) == (model.remote_host is None)
        assert model.families == (() if model.remote_host else ("llama",))


@pytest.mark.parametrize("name", [name for name in recordings() if "ps-" in name or name.endswith("-ps")])
async def test_every_recorded_list_of_loaded_models_is_read(name: str) -> None:
    recording = recordings()[name]
    async with (
        serving(replying(recorded_response(recording))) as url,
        OllamaClient(OllamaConfig(url=url)) as client,
    ):
        running = (await client.running()).models
    assert len(running) == recording.response.count(b'"digest"')
    assert all(model.size_vram_bytes == 0 and model.gpu_offload_ratio == 0 for model in running)
    if "forever" in name:
        assert running[0].expires_at == "2319-03-04T13:36:15.5327835Z"


@pytest.mark.parametrize(
    "name", [name for name in recordings() if name.startswith(("show-", "copy-", "delete-"))]
)
async def test_every_recorded_answer_about_one_model_is_passed_on_or_typed(name: str) -> None:
    recording = recordings()[name]
    acts: dict[str, Act] = {
        "show": lambda client: client.show("x"),
        "copy": lambda client: client.copy("x", "y"),
        "delete": lambda client: client.delete("x"),
    }
    async with (
        serving(replying(recorded_response(recording))) as url,
        OllamaClient(OllamaConfig(url=url)) as client,
    ):
        act = acts[name.split("-", maxsplit=1)[0]](client)
        assert asyncio.iscoroutine(act)
        if recording.status == 200:
            assert (await act or b"") == recording.response
            return
        with pytest.raises(OllamaError) as caught:
            await act
    check_error(caught.value, recording)


@pytest.mark.parametrize("name", ["wrong-path", "wrong-method-tags", "cors-foreign-origin", "trailing-slash"])
async def test_answers_that_are_no_json_are_typed_and_say_what_to_do(name: str) -> None:
    recording = recordings()[name]
    async with (
        serving(replying(recorded_response(recording))) as url,
        OllamaClient(OllamaConfig(url=url)) as client,
    ):
        with pytest.raises(OllamaError, match=r"update Ollama|OLLAMA_ORIGINS|ollama\.url") as caught:
            await client.installed()
    assert caught.value.detail["status"] == recording.status
