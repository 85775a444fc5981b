"""The clocks of a server process and of its database are compared, and a difference is said."""

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from obt_server.store import Database, SqlStorage
from obt_server.store.clock import REPEATED_S, TOLERATED_S, ClockWatch
from tests.server.databases import address_in


@pytest.mark.parametrize(
    ("asked", "answered", "ahead_s"),
    [
        (1000.0, 1000.1, None),
        # However long the answer took.
        (700.0, 1300.0, None),
        (1000.0 - TOLERATED_S, 1000.0 - TOLERATED_S, None),
        (1007.0, 1009.0, 7.0),
        (900.0, 940.0, -60.0),
    ],
)
def test_a_difference_is_one_that_the_time_of_asking_does_not_explain(
    asked: float, answered: float, ahead_s: float | None
) -> None:
    with capture_logs() as lines:
        ClockWatch(lambda: answered).compare(1000.0, asked)
    assert [line["ahead_of_database_s"] for line in lines] == ([] if ahead_s is None else [ahead_s])


def test_one_that_stays_is_said_now_and_then_and_its_end_once() -> None:
    monotonic, clock = 0.0, 1060.0
    watch = ClockWatch(lambda: clock, lambda: monotonic)
    with capture_logs() as lines:
        for monotonic in (0.0, 5.0, REPEATED_S + 1):  # noqa: B007 - the watch reads it
            watch.compare(1000.0, 1060.0)
        clock = 1000.0
        for _ in range(2):
            watch.compare(1000.0, 1000.0)
    assert [line["event"] for line in lines] == ["clock.differs", "clock.differs", "clock.agrees"]


async def test_a_beat_compares_them(tmp_path: Path) -> None:
    with contextlib.closing(Database.open(address_in(tmp_path))) as opened:
        storage = SqlStorage(opened)
        said: list[Any] = []
        for wrong_by in (0.0, 3600.0):
            storage._clock = ClockWatch(lambda by=wrong_by: time.time() + by)  # type: ignore[misc]  # noqa: SLF001 - a wrong clock
            with capture_logs() as lines:
                await storage.beat("r1", lead=True)
            said.append([line["event"] for line in lines])
    assert said == [[], ["clock.differs"]]
