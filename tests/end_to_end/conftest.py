"""One server and one stand-in for each test of the spine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from obt_standin import StandIn
from tests.end_to_end.world import World, world


@pytest.fixture
async def here(tmp_path: Path, standin: StandIn) -> AsyncIterator[World]:
    """A server with no agent yet."""
    async with world(tmp_path, standin.url) as made:
        yield made
