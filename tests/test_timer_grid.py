from __future__ import annotations

import time

import pytest

from obt_agent.timer_grid import until_tick


@pytest.mark.parametrize("interval_s", [0.5, 1.0, 2.0, 5.0])
def test_what_is_due_every_few_seconds_is_due_together(interval_s: float) -> None:
    """Both are times of one grid, read one after the other on a clock that goes on between."""
    for _ in range(100):
        began = time.monotonic()
        apart = (until_tick(interval_s) - until_tick(0.5)) % 0.5
        took = time.monotonic() - began
        if took < 0.01:
            assert min(apart, 0.5 - apart) <= took + 1e-6
            return
    pytest.fail("no two readings of the clock within 10 ms")


def test_a_tick_comes_soon_but_never_twice() -> None:
    assert all(0.005 <= until_tick(0.05) <= 0.055 for _ in range(1000))
