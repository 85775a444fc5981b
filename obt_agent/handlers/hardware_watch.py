"""``hardware_watch``: live samples of the machine until the server cancels."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from obt_agent.command import CommandContext
from obt_agent.handlers.services import Services
from obt_agent.hardware.samples import without_weights
from obt_agent.protocol.commands import HardwareWatchParams
from obt_agent.protocol.streams import SeriesFinal

LONGEST_MS: Final = 3_600_000
"""An hour: a watch that samples more rarely is none."""


async def run(services: Services, params: HardwareWatchParams, context: CommandContext) -> SeriesFinal:
    """``t_us`` of an item counts from the start of the watch, on the monotonic clock."""
    began_ns = time.monotonic_ns()
    sent = 0
    # Before it is divided: an integer of the wire may be one that no float holds.
    interval_s = min(params.interval_ms, LONGEST_MS) / 1000
    async with services.hardware.watch(interval_s, reason="hardware_watch") as watch:
        interval_ms = round(watch.interval_s * 1000)
        context.series_interval(interval_ms)
        stream = context.stream
        async for sample in watch:
            sent += 1
            await stream.send_latest(
                msgspec.json.encode(without_weights(sample)),
                t_us=(sample.t_mono_ns - began_ns) // 1000,
                n=sent,
                missed=watch.missed,
            )
    return SeriesFinal(interval_ms=interval_ms, stream=stream.end)
