"""An event loop whose clock jumps to the next timer when nothing else is to do: hours pass in no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # None: nothing is to do at all, and no timer runs; a test that comes here would wait for ever.
        assert timeout is not None, "everything waits, and nothing will come"
        self.now += max(0.0, timeout)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def stop_the_world(self, seconds: float) -> None:
        """Let time pass in which nothing runs."""
        self._clock.now += seconds


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)


def stop_the_world(seconds: float) -> None:
    """Stop this process for so long, as far as its clock goes."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _Loop)
    loop.stop_the_world(seconds)
