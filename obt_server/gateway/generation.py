"""A generation at an agent: Ollama's objects as they came, or the one object that they make together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Literal

import msgspec

from obt_agent.errors import TooLarge
from obt_agent.protocol import codec
from obt_server.gateway.exchange import Exchange
from obt_server.hub import Hub

Generating = Literal["generate", "chat"]
"""The commands of the protocol that generate."""


class _StreamedChunk(msgspec.Struct):
    chunk: msgspec.Raw


class _StreamedFinal(msgspec.Struct):
    final: msgspec.Raw


async def generated(
    hub: Hub, exchange: Exchange, method: Generating, params: bytes
) -> AsyncGenerator[list[bytes], None]:
    """Ollama's objects, those together that came together; the last list holds the final one alone.

    Closing it cancels the command at the agent, and so the generation.

    Raises:
        AgentError: what the agent answered, or why it could not be asked.
    """
    async with hub.stream(exchange.chosen_agent, method, params) as stream:
        async for batch in stream.text_batches():
            # The bytes of Ollama's object are cut out of the agent's item, and not decoded.
            yield [bytes(codec.convert(item, _StreamedChunk, where="item").chunk) for item in batch]
        final = bytes(codec.convert(stream.result_text, _StreamedFinal, where="result").final)
        exchange.count(final)
        exchange.ended = True
        yield [final]


class _Message(msgspec.Struct):
    content: str = ""
    thinking: str = ""
    tool_calls: list[msgspec.Raw] = []


class _TextChunk(msgspec.Struct):
    """Of both commands: ``generate`` has its text in ``response``, ``chat`` in ``message``."""

    response: str = ""
    thinking: str = ""
    message: _Message = msgspec.field(default_factory=_Message)
    logprobs: list[msgspec.Raw] | None = None


async def joined(
    hub: Hub, exchange: Exchange, method: Generating, params: bytes, most_bytes: int
) -> dict[str, Any]:
    """One object of a whole generation, as Ollama makes it where ``stream`` is false.

    Fields that are not joined are those of Ollama's last object.

    Raises:
        TooLarge: it has more than ``most_bytes``.
        AgentError: as ``generated``.
    """
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[msgspec.Raw] = []
    logprobs: list[msgspec.Raw] = []
    size, last = 0, b"{}"
    async with contextlib.aclosing(generated(hub, exchange, method, params)) as batches:
        async for batch in batches:
            for last in batch:
                # Counted as it comes: an agent may send for ever.
                size += len(last)
                if size > most_bytes:
                    raise TooLarge(f"The answer has more than {most_bytes} bytes; ask for a stream.")
                chunk = codec.convert(last, _TextChunk, where="chunk")
                texts.append(chunk.response or chunk.message.content)
                thoughts.append(chunk.thinking or chunk.message.thinking)
                calls += chunk.message.tool_calls
                logprobs += chunk.logprobs or ()
    whole = codec.convert(last, dict[str, Any], where="final")
    text, thinking = "".join(texts), "".join(thoughts)
    # ``chat`` has its fields a level deeper.
    holder = whole if method == "generate" else whole.setdefault("message", {"role": "assistant"})
    holder["response" if method == "generate" else "content"] = text
    # As Ollama: fields that hold nothing are left out.
    if thinking:
        holder["thinking"] = thinking
    if calls:
        holder["tool_calls"] = calls
    if logprobs:
        whole["logprobs"] = logprobs
    return whole
