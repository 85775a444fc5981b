"""The kit listens for longer than the pause that it allows."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from obt_conformance.both_sides import longest_pause
from obt_conformance.checks import RuleBroken


class SilentWire:
    """An open socket on which nothing comes."""

    closed = None
    frames: tuple[Any, ...] = ()

    def how_closed(self) -> str:
        return "the socket is open"

    async def quiet_for(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def test_one_that_says_nothing_fails_where_a_busy_machine_is_allowed_more_than_was_planned() -> None:
    with pytest.raises(RuleBroken, match="nothing came for"):
        await longest_pause(cast("Any", SilentWire()), 0.05, lambda: 0.2)
