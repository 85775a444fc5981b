"""``embed``: embeddings, Ollama's object as it came; a large one passes in pieces and is never held whole."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import AsyncIterator

import msgspec

from obt_agent.command import CommandContext
from obt_agent.errors import OllamaError
from obt_agent.handlers.services import Services
from obt_agent.ollama.ndjson import check
from obt_agent.protocol.commands import InferenceParams
from obt_agent.protocol.limits import INLINE_RESULT_BYTES
from obt_agent.protocol.streams import LargeFinal


async def run(
    services: Services, params: InferenceParams, context: CommandContext
) -> msgspec.Raw | LargeFinal:
    await services.gate.admit(params.model, to="embedding")
    with services.generation_gate.generation("embed"):
        # Within the gate: a benchmark that refuses company must see this request before Ollama does.
        body = services.policy.shape_request("embed", context.params, context.blob)
        async with services.ollama.parts("/api/embed", body) as parts:
            return await _pass_on(parts, context)


async def _pass_on(parts: AsyncIterator[bytes], context: CommandContext) -> msgspec.Raw | LargeFinal:
    """A short answer is checked and returned; a long one is sent in pieces while it comes."""
    start = b""
    async for part in parts:
        start += part
        if len(start) > INLINE_RESULT_BYTES:
            break
    else:
        check(start)
        return msgspec.Raw(start)
    if not start.lstrip().startswith(b"{"):
        check(start)
    return await _send(start, parts, context)


async def _send(start: bytes, parts: AsyncIterator[bytes], context: CommandContext) -> LargeFinal:
    digest = hashlib.sha256()
    size = 0
    # A piece is a JSON string, so it ends between characters; and which is the last shows only at the end.
    characters = codecs.getincrementaldecoder("utf-8")()
    waiting = _whole(characters, start)
    async for part in parts:
        digest.update(waiting)
        size += len(waiting)
        await context.stream.send_text(waiting, last=False)
        waiting = _whole(characters, part)
    if not waiting.rstrip().endswith(b"}") or _whole(characters, b"", final=True):
        raise OllamaError("Ollama's answer is not one JSON object.", status=200)
    digest.update(waiting)
    await context.stream.send_text(waiting, last=True)
    return LargeFinal(bytes=size + len(waiting), sha256=digest.hexdigest(), stream=context.stream.end)


def _whole(characters: codecs.IncrementalDecoder, part: bytes, *, final: bool = False) -> bytes:
    try:
        return characters.decode(part, final).encode()
    except UnicodeDecodeError as error:
        raise OllamaError("Ollama's answer is not UTF-8.", status=200) from error
