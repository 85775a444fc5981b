"""What Ollama answered in the recordings is what a client gets through the gateway, with few exceptions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from obt_server.gateway import GatewaySettings
from obt_standin import Script, StandIn
from tests.gateway.agent import real_agent
from tests.gateway.conftest import token
from tests.ports import free_port
from tests.recordings import Recording, recordings
from tests.server.conftest import running
from tests.standin.test_recordings import (
    SETUPS,
    Asker,
    lines_of,
    outline,
    recorded_models,
    started_alike,
)

pytestmark = pytest.mark.timeout(300)

ROUTES = ("/api/version", "/api/tags", "/api/ps", "/api/show", "/api/generate", "/api/chat", "/api/embed")

VERSION = "0.33.0-rc2"
"""Of the Ollama that was recorded."""
DIFFERENT = {
    "cors-foreign-origin": "the server's own check of Origin answers, in its own words",
    "foreign-host-header": "the server's own check of Host answers, in its own words",
    "options-preflight": "no page of another site is let in: there is no CORS",
    "generate-image-unsupported": "the runner's own words, without the JSON around them",
    "generate-prompt-longer-than-ctx-no-truncate": "the runner's own words, without the JSON around them",
    "generate-prompt-longer-no-truncate-stream": "the runner's own words, without the JSON around them",
    "tags-with-remote": "by default no owner shows a model whose prompts leave the machine",
    "trailing-slash": "no redirect is followed with a token in the request",
    "wrong-method-generate": "a route that is not there is said to be none",
    "wrong-method-tags": "a route that is not there is said to be none",
    "queue-abandon-waiter": "there is no answer in it: the client left",
    "generate-debug-render-only": "its one line says done: false, which no stream ends with",
    "chat-repeat-abort-stream": "a stream that just ends is incomplete, and says so in a last line",
    "generate-repeat-abort-stream": "a stream that just ends is incomplete, and says so in a last line",
    "chat-repeat-abort-nonstream": "an answer that just ends is incomplete, and is an error",
    "generate-repeat-abort-nonstream": "an answer that just ends is incomplete, and is an error",
    "stop-server-mid-stream-sigkill": "the stream ends with a line that says why",
    "stop-server-mid-stream-sigterm": "the stream ends with a line that says why",
}
"""Answers that differ on purpose."""
REFUSED_EARLIER = {
    "chat-embed-only-model",
    "chat-malformed-json",
    "embed-completion-model",
    "generate-bad-image",
    "generate-bad-model-name",
    "generate-bad-option-type",
    "generate-cloud-model",
    "generate-embed-only-model",
    "generate-empty-model",
    "generate-keep-alive-bad",
    "generate-malformed-json",
    "generate-missing-model",
    "generate-not-json",
    "generate-remote",
    "generate-wrong-type",
    "max-queue1-c",
    "max-queue1-g",
    "show-cloud-suffix",
    "show-remote",
    "show-unknown",
}
"""Refused by the gateway or the agent before Ollama: as a refusal too, in other words."""


def through() -> Iterator[Recording]:
    """The exchanges with routes that the gateway has."""
    for recording in recordings().values():
        if recording.path.startswith(ROUTES) and recording.name not in DIFFERENT:
            yield recording


async def differs(recording: Recording, ollama: StandIn, ask: Asker, direct: Asker) -> str:
    """What is not as it was recorded; empty where all is."""
    if recording.name in SETUPS:
        await SETUPS[recording.name](ollama, direct)
    status, content_type, lines, broken = await ask.send(recording)
    if recording.name in REFUSED_EARLIER:
        fits = 400 <= status < 600 and recording.status is not None and recording.status >= 400
        return "" if fits else f"{status}, not a refusal like {recording.status}"
    if (status, broken) != (recording.status, False):
        return f"status {status}, recorded {recording.status}: {lines[:1]}"
    # An error's has no charset in some of Ollama's answers, and is JSON all the same.
    if (content_type or "").partition(";")[0] != (recording.content_type or "").partition(";")[0]:
        return f"content type {content_type}, recorded {recording.content_type}"
    recorded = outline(lines_of(recording.response), whole=recording.end != "client-closed")
    alike = outline(lines, whole=True) == recorded or started_alike(lines, recording)
    return "" if alike else f"{outline(lines, whole=True)}, recorded {recorded}"


# A stand-in that stops under a question of the agent's leaves transports behind: a hundred do here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_each_recorded_exchange_is_the_same_through_the_gateway(tmp_path: Path) -> None:
    wrong: dict[str, str] = {}
    port = free_port()
    async with (
        running(tmp_path / "server", gateway=GatewaySettings()) as server,
        StandIn(Script(version=VERSION, models=[]), port=port) as first,
        real_agent(server, tmp_path / "agent", first.url),
    ):
        await first.stop()
        headers = {"Authorization": f"Bearer {await token(server)}"}
        async with aiohttp.ClientSession(headers=headers) as session, aiohttp.ClientSession() as plain:
            for recording in through():
                # Each meets an Ollama that has just begun, as it was recorded.
                script = Script(
                    version=VERSION, models=list(reversed(recorded_models())), tokens=64, num_parallel=2
                )
                async with StandIn(script, port=port) as ollama, asyncio.timeout(60):
                    ask, direct = Asker(ollama, session), Asker(ollama, plain)
                    ask._url = f"{server.url}/ollama/box"  # noqa: SLF001 - the same requests, elsewhere
                    found = await differs(recording, ollama, ask, direct)
                if found:
                    wrong[recording.name] = found
    assert wrong == {}


def test_each_exception_is_a_recording_that_would_be_played() -> None:
    played = {recording.name for recording in recordings().values() if recording.path.startswith(ROUTES)}
    assert set(DIFFERENT) | REFUSED_EARLIER <= played
    assert len(list(through())) > 100
