"""OpenAI's API, translated to Ollama's and back."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import msgspec

from obt_agent.ollama.names import same_model
from obt_agent.protocol import codec
from obt_server.gateway import openai_answers as answers
from obt_server.gateway.catalogue import ModelCatalogue
from obt_server.gateway.errors import GatewayRefused
from obt_server.gateway.exchange import EVENTS, AnswerHead, Exchange, Parts
from obt_server.gateway.generation import Generating, generated, joined
from obt_server.gateway.machines import MachineChoice
from obt_server.gateway.openai_requests import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    chat_params,
    completion_params,
    embed_params,
)
from obt_server.gateway.settings import GatewaySettings
from obt_server.hub import Hub

JSON: Final = "application/json"
"""As Ollama writes it on these routes."""


class _Vectors(msgspec.Struct):
    embeddings: list[list[float]] = []
    prompt_eval_count: int = 0


class OpenAiApi:
    """The routes below ``/v1``; each method answers one.

    Args:
        hub: asks the agents.
        machines: which machine a request means.
        catalogue: what is there.
        settings: the bounds.
    """

    def __init__(
        self, hub: Hub, machines: MachineChoice, catalogue: ModelCatalogue, settings: GatewaySettings
    ) -> None:
        self._hub = hub
        self._machines = machines
        self._catalogue = catalogue
        self._settings = settings

    async def models(self, exchange: Exchange) -> bytes:
        """``GET /v1/models``."""
        return msgspec.json.encode(answers.models(await self._catalogue.installed(exchange)))

    async def model(self, exchange: Exchange) -> bytes:
        """``GET /v1/models/{model}``."""
        wanted = exchange.path_params["model"]
        # In the list, and not by ``show``: what the token is not for is as unknown as what is not there.
        for one in await self._catalogue.installed(exchange):
            if same_model(one.name, wanted):
                return msgspec.json.encode(answers.model(one))
        raise GatewayRefused(404, f"model '{wanted[:200]}' not found")

    async def chat(self, exchange: Exchange) -> Parts:
        """``POST /v1/chat/completions``."""
        asked = exchange.read(ChatCompletionRequest)
        # Before a machine is chosen: what is no request says so, whoever is there.
        params = chat_params(asked)
        await self._machines.choose(exchange, asked.model)
        if asked.stream:
            stream = answers.ChatCompletionStream(include_usage=asked.include_usage)
            parts = self._stream(exchange, "chat", params, stream)
        else:
            parts = self._whole(exchange, "chat", params, answers.ChatCompletion())
        # Closed here and not when it is collected: the generation at the agent ends with this request.
        async with contextlib.aclosing(parts):
            async for part in parts:
                yield part

    async def completions(self, exchange: Exchange) -> Parts:
        """``POST /v1/completions``."""
        asked = exchange.read(CompletionRequest)
        params = completion_params(asked)
        await self._machines.choose(exchange, asked.model)
        made = answers.Completion(include_usage=asked.include_usage)
        if asked.stream:
            parts = self._stream(exchange, "generate", params, made)
        else:
            parts = self._whole(exchange, "generate", params, made)
        async with contextlib.aclosing(parts):
            async for part in parts:
                yield part

    async def embeddings(self, exchange: Exchange) -> bytes:
        """``POST /v1/embeddings``."""
        asked = exchange.read(EmbeddingRequest)
        params = embed_params(asked)
        model = await self._machines.choose(exchange, asked.model)
        answer = await self._hub.call_text(exchange.chosen_agent, "embed", params)
        exchange.count(answer)
        found = codec.convert(answer, _Vectors, where="result")
        as_base64 = (asked.encoding_format or "").lower() == "base64"
        tokens = found.prompt_eval_count
        return msgspec.json.encode(answers.embeddings(model, found.embeddings, tokens, as_base64=as_base64))

    async def _stream(
        self,
        exchange: Exchange,
        method: Generating,
        params: dict[str, Any],
        made: answers.ChatCompletionStream | answers.Completion,
    ) -> Parts:
        began = False
        text = msgspec.json.encode(params)
        async with contextlib.aclosing(generated(self._hub, exchange, method, text)) as batches:
            async for batch in batches:
                # Only now: what failed until here is a status.
                if not began:
                    began = True
                    yield AnswerHead(EVENTS)
                # What came together goes out together: one write for a burst of tokens.
                yield b"".join(
                    made.events(codec.convert(line, answers.OllamaAnswer, where="chunk")) for line in batch
                )

    async def _whole(
        self,
        exchange: Exchange,
        method: Generating,
        params: dict[str, Any],
        made: answers.ChatCompletion | answers.Completion,
    ) -> Parts:
        text = msgspec.json.encode(params)
        most = self._settings.max_joined_bytes
        found = await joined(self._hub, exchange, method, text, most)
        # Through JSON once more: the fields that are joined are still Ollama's own text.
        answer = codec.convert(msgspec.json.encode(found), answers.OllamaAnswer, where="final")
        body = msgspec.json.encode(made.whole(answer))
        yield AnswerHead(JSON, len(body))
        yield body
