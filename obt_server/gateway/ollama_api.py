"""Ollama's own API. Requests go to the agent as they came, and lines come back as Ollama wrote them."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import msgspec

from obt_agent.protocol import codec
from obt_server.gateway import ollama_lists
from obt_server.gateway.catalogue import ModelCatalogue
from obt_server.gateway.errors import GatewayRefused
from obt_server.gateway.exchange import JSON, NDJSON, AnswerHead, Exchange, Parts
from obt_server.gateway.generation import Generating, generated, joined
from obt_server.gateway.machines import MachineChoice
from obt_server.gateway.settings import GatewaySettings
from obt_server.hub import Hub

_NO_CHANGES: Final = (
    "Models are not changed through the gateway: whoever runs the server or the machine pulls, creates, "
    "copies and deletes them."
)


class _Asked(msgspec.Struct):
    """What the gateway reads of a request; the rest is the agent's and Ollama's to read."""

    model: str | None = None
    # ``show`` took this name first, and still does.
    name: str | None = None
    stream: bool | None = None
    verbose: bool = False


class _OldEmbedding(msgspec.Struct):
    model: str | None = None
    prompt: str = ""
    options: msgspec.Raw | None = None
    keep_alive: msgspec.Raw | None = None


class _Embedded(msgspec.Struct):
    embeddings: list[msgspec.Raw] = []


class OllamaApi:
    """The routes below ``/api``; each method answers one.

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

    async def root(self, exchange: Exchange) -> bytes:
        """``GET /``: what the ``ollama`` command asks first."""
        await self._catalogue.version(exchange)
        return b"Ollama is running"

    async def version(self, exchange: Exchange) -> bytes:
        """``GET /api/version``."""
        return msgspec.json.encode({"version": await self._catalogue.version(exchange)})

    async def tags(self, exchange: Exchange) -> bytes:
        """``GET /api/tags``."""
        return msgspec.json.encode(ollama_lists.tags(await self._catalogue.installed(exchange)))

    async def ps(self, exchange: Exchange) -> bytes:
        """``GET /api/ps``."""
        running = await self._catalogue.running(exchange)
        # Ollama says here, too, what a model is; agents say it of the installed ones.
        installed = await self._catalogue.installed(exchange) if running else []
        return msgspec.json.encode(ollama_lists.ps(running, installed))

    async def show(self, exchange: Exchange) -> bytes:
        """``POST /api/show``: as Ollama answers it, without paths of the host."""
        asked = exchange.read(_Asked)
        model = await self._machines.choose(exchange, asked.model or asked.name)
        # Made anew, with nothing else of the body: the command takes these two.
        params = {"model": model, "verbose": asked.verbose}
        return await self._hub.call_text(exchange.chosen_agent, "show_model", params)

    async def generation(self, method: Generating, exchange: Exchange) -> Parts:
        """``POST /api/generate`` and ``POST /api/chat``."""
        asked = exchange.read(_Asked)
        await self._machines.choose(exchange, asked.model)
        # Ollama streams unless it is told not to; the agent streams in any case.
        if asked.stream is False:
            most = self._settings.max_joined_bytes
            answer = await joined(self._hub, exchange, method, exchange.body, most)
            text = msgspec.json.encode(answer)
            yield AnswerHead(JSON, len(text))
            yield text
            return
        head: AnswerHead | None = None
        async with contextlib.aclosing(generated(self._hub, exchange, method, exchange.body)) as batches:
            async for batch in batches:
                if head is None:
                    # One object alone (a model was loaded or unloaded) is no stream, and has no newline.
                    head = AnswerHead(JSON, len(batch[0])) if exchange.ended else AnswerHead(NDJSON)
                    yield head
                yield batch[0] if head.length is not None else b"".join(line + b"\n" for line in batch)

    async def embed(self, exchange: Exchange) -> bytes:
        """``POST /api/embed``."""
        await self._machines.choose(exchange, exchange.read(_Asked).model)
        answer = await self._hub.call_text(exchange.chosen_agent, "embed", exchange.body)
        exchange.count(answer)
        return answer

    async def embeddings(self, exchange: Exchange) -> bytes:
        """``POST /api/embeddings``, the older form, from the newer one: the vector's length is 1 here."""
        asked = exchange.read(_OldEmbedding)
        model = await self._machines.choose(exchange, asked.model)
        # Nothing to embed loads the model, in both forms.
        params: dict[str, Any] = {"model": model, "input": asked.prompt or []}
        params |= {
            name: value
            for name, value in (("options", asked.options), ("keep_alive", asked.keep_alive))
            if value is not None
        }
        answer = await self._hub.call_text(exchange.chosen_agent, "embed", params)
        exchange.count(answer)
        vectors = codec.convert(answer, _Embedded, where="result").embeddings
        return msgspec.json.encode({"embedding": vectors[0] if vectors else []})


async def no_change(_: Exchange) -> bytes:
    """Every route of Ollama's that changes models."""
    raise GatewayRefused(403, _NO_CHANGES)


async def no_route(_: Exchange) -> bytes:
    """Whatever else Ollama has."""
    raise GatewayRefused(
        404, "The gateway has no such route; docs/reference/rest.md lists those that it has."
    )
