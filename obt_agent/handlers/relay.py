"""Ollama's stream to the server's, for ``generate`` and ``chat``: bytes pass as they came, with their times.

This is the path of every token. What has arrived goes on together for the price of one await, and nothing is
decoded here.
"""

from __future__ import annotations

import msgspec

from obt_agent.command import CommandContext
from obt_agent.ollama.client import OllamaClient
from obt_agent.protocol.streams import StreamFinal


async def relay(ollama: OllamaClient, path: str, body: bytes, context: CommandContext) -> StreamFinal:
    """Send ``body`` to Ollama and pass every line on; gives the final.

    A server that grants no credit stops the reading of Ollama; the first item after such a pause says how
    long it was, and Ollama's deadlines do not count it. Leaving, by whatever way, closes Ollama's connection.

    Raises:
        OllamaError and its kin, LinkLost, DeadlineExceeded
    """
    stream = context.stream
    async with ollama.stream(path, body) as answer:
        async for arrivals in answer.arrivals():
            paused_us = await stream.send(arrivals)
            # Waiting for the server is not Ollama's silence: its deadline stands still.
            if paused_us:
                answer.paused(paused_us)
        final = answer.final
    return StreamFinal(final=msgspec.Raw(final.raw), t_us=final.t_us, stream=stream.end)
