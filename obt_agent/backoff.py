"""When to dial again. Pure: the clock and the source of randomness are passed in.

Three schedules, all of them for ever:

- ordinary: full jitter below a ceiling that doubles from 1 s to 60 s. Each 5 s of an admitted session take
  one doubling back, 30 s all of them: a network that cuts the link now and then costs little time, and a
  server that accepts and closes is not dialled in a loop;
- a floor (``Retry-After``, ``server.drain``, "wait at the cap"): at least that long, at most an hour, plus up
  to half of it at random, so that a fleet does not come back in one instant;
- refused credentials: slow, doubling to 15 minutes for a credential that was admitted before. One that never
  was is given up after 10 refusals and 10 minutes; so is one that is said to be revoked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackoffSettings:
    """Numbers of the schedules, in seconds unless the name says otherwise."""

    minimum_s: float = 1.0
    maximum_s: float = 60.0
    reset_after_s: float = 30.0
    floor_maximum_s: float = 3600.0
    refused_maximum_s: float = 900.0
    refusals_before_exit: int = 10
    refused_for_s_before_exit: float = 600.0


class Backoff:
    """Delays between dials.

    Args:
        clock: monotonic seconds.
        random: gives a number from 0 (included) to 1 (excluded).
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        settings: BackoffSettings | None = None,
    ) -> None:
        self._settings = settings if settings is not None else BackoffSettings()
        self._clock = clock
        self._random = random
        # Doublings that bring the ceiling from its least to its most.
        self._most = max(0, math.ceil(math.log2(self._settings.maximum_s / self._settings.minimum_s)))
        # Doublings that the next delay's ceiling has.
        self._failures = 0
        # Of the session that lasts; None without one.
        self._admitted_at: float | None = None

    def admitted(self) -> None:
        """A hello was answered."""
        self._admitted_at = self._clock()

    def ended(self) -> None:
        """The link ended, or was not made. The longer it was admitted, the shorter are the next delays."""
        started, self._admitted_at = self._admitted_at, None
        if started is not None:
            share = (self._clock() - started) / self._settings.reset_after_s
            self._failures = max(0, self._failures - int(share * self._most))

    def delay(self, floor_s: float = 0.0) -> float:
        """Seconds until the next dial: at random below the ceiling, and not below the floor."""
        ceiling = self.ceiling_s
        self._failures = min(self._failures + 1, self._most)
        ordinary = self._random() * ceiling
        if floor_s <= 0:
            return ordinary
        return max(ordinary, with_jitter(min(floor_s, self._settings.floor_maximum_s), self._random))

    @property
    def ceiling_s(self) -> float:
        """What the next ordinary delay stays below."""
        return min(self._settings.minimum_s * 2.0**self._failures, self._settings.maximum_s)


def with_jitter(floor_s: float, random: Callable[[], float]) -> float:
    """A delay of at least the floor, and at most one and a half of it."""
    return floor_s * (1.0 + random() / 2.0)


@dataclass(frozen=True, slots=True)
class RefusalAction:
    """What to do about a refused credential: give up, or dial again after ``delay_s``; ``count`` so far."""

    give_up: bool
    delay_s: float
    count: int


class RefusedCredential:
    """Counts refusals of one credential; made anew for another credential and after an admission."""

    def __init__(
        self,
        *,
        admitted_before: bool,
        clock: Callable[[], float],
        random: Callable[[], float],
        settings: BackoffSettings | None = None,
    ) -> None:
        self._settings = settings if settings is not None else BackoffSettings()
        self._admitted_before = admitted_before
        self._clock = clock
        self._random = random
        # The first refusal, and how many there were: giving up takes both time and number.
        self._first: float | None = None
        self._count = 0

    def refused(self, *, revoked: bool = False) -> RefusalAction:
        """The credential was refused once more; ``revoked`` when the server said so in as many words."""
        now = self._clock()
        if self._first is None:
            self._first = now
        self._count += 1
        return RefusalAction(
            give_up=revoked or self._hopeless(now - self._first),
            delay_s=with_jitter(self._floor_s / 1.5, self._random),
            count=self._count,
        )

    def _hopeless(self, refused_for_s: float) -> bool:
        settings = self._settings
        return (
            not self._admitted_before
            and self._count >= settings.refusals_before_exit
            and refused_for_s >= settings.refused_for_s_before_exit
        )

    @property
    def _floor_s(self) -> float:
        """The longest delay; a minute or so for one that was never admitted, for a clear end soon."""
        settings = self._settings
        if not self._admitted_before:
            return min(settings.maximum_s * 1.5, settings.refused_maximum_s)
        doublings = min(self._count - 1, 32)
        return min(settings.maximum_s * 2.0**doublings, settings.refused_maximum_s)
