"""A failure that repeats is one line, and then a count."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

EventDict = dict[str, Any]

SUMMARY_INTERVAL_S: Final = 600.0
# Different events that are remembered; beyond, the oldest may appear once more.
_MAX_ENTRIES: Final = 256
_FOLDED_LEVELS: Final = frozenset({"warning", "error", "critical"})
# The same failure may come from another line, with another traceback.
_NOT_COMPARED: Final = frozenset({"exception", "timestamp", "lineno", "filename", "func_name"})


@dataclass
class _Entry:
    # As it was when it passed.
    first: EventDict
    # When the last of them passed (monotonic seconds), and how many were folded since.
    passed_at: float
    folded: int = 0


class Folding:
    """Lets the first of equal warnings and errors pass at its level, and the rest at ``debug``.

    Events are equal when name, level and all texts in them are: numbers (a delay, an attempt) may differ. A
    repeat that comes ``interval_s`` or more after the last line passes at its level, with ``repeated``, the
    number that were not shown; so does the count of one that has stopped, with whatever is logged next.
    """

    def __init__(
        self, interval_s: float = SUMMARY_INTERVAL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval_s = interval_s
        self._clock = clock
        # By ``_key``; the one that came longest ago is first, and goes first.
        self._entries: OrderedDict[tuple[object, ...], _Entry] = OrderedDict()

    def passed(self, event: EventDict) -> list[EventDict]:
        """What is to be written for this event, in order."""
        now = self._clock()
        key = _key(event)
        # Before this event, since they are older.
        finished = list(self._finished(now, key))
        if event.get("level") in _FOLDED_LEVELS:
            event = self._folded(event, key, now)
        return [*finished, event]

    def rest(self) -> list[EventDict]:
        """Counts that nothing has shown yet; for the end of the process."""
        return [_summary(entry) for entry in self._entries.values() if entry.folded]

    def _folded(self, event: EventDict, key: tuple[object, ...], now: float) -> EventDict:
        entry = self._entries.get(key)
        if entry is None:
            self._entries[key] = _Entry(event, now)
            if len(self._entries) > _MAX_ENTRIES:
                self._entries.popitem(last=False)
            return event
        self._entries.move_to_end(key)
        if now - entry.passed_at < self._interval_s:
            entry.folded += 1
            return {**event, "level": "debug", "repeats": entry.folded}
        repeated, entry.folded, entry.passed_at = entry.folded, 0, now
        return {**event, "repeated": repeated} if repeated else event

    def _finished(self, now: float, current: tuple[object, ...]) -> Iterator[EventDict]:
        """Counts of those that were not heard of for an interval."""
        for key, entry in list(self._entries.items()):
            if key != current and now - entry.passed_at >= 2 * self._interval_s:
                del self._entries[key]
                if entry.folded:
                    yield _summary(entry)


def _summary(entry: _Entry) -> EventDict:
    # The traceback was written with the first.
    kept = {key: value for key, value in entry.first.items() if key != "exception"}
    return {**kept, "repeated": entry.folded}


def _key(event: EventDict) -> tuple[object, ...]:
    texts = (
        (key, value) for key, value in event.items() if isinstance(value, str) and key not in _NOT_COMPARED
    )
    return tuple(sorted(texts))
