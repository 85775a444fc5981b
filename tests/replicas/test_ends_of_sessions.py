"""What a process tells the database of sessions that ended."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest
import structlog

from obt_agent.errors import StorageFailed
from obt_server.hub import AgentHub
from obt_server.replicas import admissions as module
from obt_server.replicas.admissions import FleetAdmissions
from tests.server.memory_storage import MemoryStorage
from tests.waiting import until


class Ends(MemoryStorage):
    """Keeps what it is told to store; each write waits for ``going_on``."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[dict[str, int]] = []
        self.going_on = asyncio.Event()
        self.away = False

    async def left(self, sessions: Mapping[str, int]) -> None:
        self.writes.append(dict(sessions))
        await self.going_on.wait()
        if self.away:
            raise StorageFailed("away", retry_after_ms=1)


class NobodyTold:
    def left(self, agent_id: str, session: int) -> None:
        pass


def admissions(storage: Ends) -> FleetAdmissions:
    nobody = cast("Any", NobodyTold())
    return FleetAdmissions(
        "r1", AgentHub(storage), cast("Any", storage), own=nobody, remote=nobody, presence=nobody
    )


async def test_a_fleet_that_leaves_is_stored_in_two_writes() -> None:
    storage = Ends()
    one = admissions(storage)
    one.left("a0", 1)
    await until(lambda: len(storage.writes) == 1)
    for number in range(1, 1000):
        one.left(f"a{number}", number)
    storage.going_on.set()
    await until(lambda: len(storage.writes) == 2)
    assert storage.writes == [{"a0": 1}, {f"a{number}": number for number in range(1, 1000)}]
    await one.close()


async def test_of_two_sessions_of_an_agent_the_end_of_the_newer_is_stored() -> None:
    storage = Ends()
    one = admissions(storage)
    one.left("a0", 1)
    await until(lambda: len(storage.writes) == 1)
    # The older one was replaced, and reads its peer's close frame later.
    one.left("a1", 5)
    one.left("a1", 4)
    storage.going_on.set()
    await until(lambda: len(storage.writes) == 2)
    assert storage.writes[1] == {"a1": 5}
    await one.close()


async def test_ends_that_cannot_be_stored_are_said_once_and_stored_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ENDS_AGAIN_S", 0.01)
    storage = Ends()
    one = admissions(storage)
    storage.away = True
    storage.going_on.set()
    with structlog.testing.capture_logs() as logs:
        one.left("a0", 1)
        await until(lambda: len(storage.writes) >= 3)
        one.left("a1", 2)
        storage.away = False
        await until(lambda: storage.writes[-1] == {"a0": 1, "a1": 2})
    assert [line["event"] for line in logs] == ["agents.not_left"]
    await one.close()
