"""Two servers on one database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.replicas.fleet import Replica, fleet_of


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Replica, Replica]]:
    async with fleet_of(tmp_path) as fleet:
        one, other = fleet.replicas
        yield one, other


@pytest.fixture
def told_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have servers that start after this hear of changes by what they are told, and never look for them."""
    monkeypatch.setattr("obt_server.router.ENFORCE_EVERY_S", 3600.0)
