"""Ollama's stream to the server's, for ``generate`` and ``chat``: bytes pass as they came, with their times.

This is the path of every token. A batch is what one read of the socket gave; it costs one await, and nothing
is decoded here.
"""

from __future__ import annotations

import msgspec

from obt_agent.command import CommandContext
from obt_agent.ollama.client import OllamaClient
from obt_agent.protocol.streams import Item, StreamFinal

Raw = msgspec.Raw


async def relay(ollama: OllamaClient, path: str, body: bytes, context: CommandContext) -> StreamFinal:
    """Send ``body`` to Ollama and pass every line on; gives the final.

    A server that grants no credit stops the reading of Ollama; the first item after such a pause says how
    long it was, and Ollama's deadlines do not count it. Leaving, by whatever way, closes Ollama's connection.

    Raises:
        OllamaError and its kin, LinkLost, DeadlineExceeded
    """
    stream = context.stream
    paused_us = 0
    async with ollama.stream(path, body) as answer:
        async for batch in answer.batches():
            items = [Item(t_us, Raw(raw)) for t_us, raw in batch]
            # The pause was before this batch: only its first item waited longer for it.
            if paused_us:
                items[0] = msgspec.structs.replace(items[0], paused_us=paused_us)
            paused_us = await stream.send(items)
            # Waiting for the server is not Ollama's silence: its deadline stands still.
            if paused_us:
                answer.paused(paused_us)
        final = answer.final
    return StreamFinal(final=Raw(final.raw), t_us=final.t_us, stream=stream.end)
