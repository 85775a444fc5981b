"""Watches and ticks."""

from __future__ import annotations

from obt_agent.hardware.samples import Sample
from obt_agent.hardware.sampling_schedule import SampleStream, Ticks


def sample(seconds: float) -> Sample:
    return Sample(t_wall=0.0, t_mono_ns=int(seconds * 1e9))


async def test_a_watch_gets_samples_no_more_often_than_it_asked_for() -> None:
    watch = SampleStream(1.0, reason="test")
    taken = []
    for tenth in range(30):
        watch.offer(sample(tenth / 10))
        if watch._newest is not None:  # noqa: SLF001 -- whether one is there to take
            taken.append((await anext(watch)).t_mono_ns / 1e9)
    assert taken == [0.0, 0.9, 1.8, 2.7]
    assert watch.missed == 0


async def test_a_slow_reader_gets_the_newest_and_is_told_how_many_it_missed() -> None:
    watch = SampleStream(1.0, reason="test")
    watch.offer(sample(0))
    assert (await anext(watch)).t_mono_ns == 0
    for second in range(1, 5):
        watch.offer(sample(second))
    assert (await anext(watch)).t_mono_ns == 4_000_000_000
    assert watch.missed == 3


async def test_an_ended_watch_gives_what_it_has_and_stops() -> None:
    watch = SampleStream(1.0, reason="test")
    watch.offer(sample(0))
    watch.end()
    assert [taken.t_mono_ns async for taken in watch] == [0]


def test_ticks_stay_on_their_grid_and_count_those_that_work_covered() -> None:
    ticks = Ticks()
    assert ticks.next_after(100.0, 1.0) == 100.0
    assert ticks.next_after(100.2, 1.0) == 101.0
    assert ticks.next_after(101.1, 1.0) == 102.0
    assert ticks.missed == 0
    assert ticks.next_after(105.5, 1.0) == 106.0
    assert ticks.missed == 3
    ticks.restart(200.0)
    assert ticks.next_after(200.0, 0.5) == 200.5
    assert ticks.missed == 3
