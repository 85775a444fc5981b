"""What every test shares."""

from collections.abc import AsyncIterator

import pytest

from obt_standin import StandIn


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    """A stand-in for Ollama that answers as fast as it can; a test changes its script while it runs."""
    async with StandIn() as ollama:
        yield ollama
