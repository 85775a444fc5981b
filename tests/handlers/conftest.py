"""Every handler over the stand-in for Ollama, as the agent wires them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from obt_standin import StandIn
from tests.handlers.bench import Bench


@pytest.fixture
async def bench(standin: StandIn, tmp_path: Path) -> AsyncIterator[Bench]:
    """The default policy without a rate limit."""
    async with Bench(standin, tmp_path) as made:
        yield made
