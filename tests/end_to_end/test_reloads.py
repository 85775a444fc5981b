"""The agent's configuration read twice at once: what was read last is in force."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from obt_agent.daemon import supervisor
from tests.waiting import until


async def test_of_two_reloads_at_once_the_older_reading_does_not_come_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, read, adopted = threading.Event(), list[int](), list[int]()

    def reload(_: object) -> int:
        read.append(len(read))
        mine = read[-1]
        if mine == 0:
            assert gate.wait(60)
        return mine

    async def adopt(reloaded: int) -> None:
        adopted.append(reloaded)

    monkeypatch.setattr(supervisor, "reload", reload)
    nothing: Any = SimpleNamespace(reloading=lambda: None, ready=lambda: None, changed=lambda: None)
    one = supervisor.Supervisor.__new__(supervisor.Supervisor)
    vars(one).update(
        _reloading=asyncio.Lock(),
        _reloads=0,
        _loaded=None,
        _tasks={},
        _stop=asyncio.Event(),
        _notifier=nothing,
        _status_writer=nothing,
        _components=SimpleNamespace(link=SimpleNamespace(dial_now=lambda: None)),
        _adopt=adopt,
    )
    one._on_hangup()  # noqa: SLF001 - what the signal calls
    await until(lambda: read)
    one._on_hangup()  # noqa: SLF001 - as above
    owned = list(one._tasks.values())  # noqa: SLF001 - both have an owner
    assert len(owned) == 2
    gate.set()
    await asyncio.gather(*owned)
    assert adopted == [0, 1]
