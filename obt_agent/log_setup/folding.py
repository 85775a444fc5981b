"""A failure that repeats is one line, and then a count."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

EventDict = dict[str, Any]

SUMMARY_INTERVAL_S: Final = 600.0
_MAX_ENTRIES: Final = 256
_FOLDED_LEVELS: Final = frozenset({"warning", "error", "critical"})
_NOT_COMPARED: Final = frozenset({"exception", "timestamp", "lineno", "filename", "func_name"})


@dataclass
class _Entry:
    first: EventDict
    said_at: float
    unsaid: int = 0


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
        self._entries: OrderedDict[tuple[object, ...], _Entry] = OrderedDict()

    def passed(self, event: EventDict) -> list[EventDict]:
        """What is to be written for this event, in order."""
        now = self._clock()
        key = _key(event)
        finished = list(self._finished(now, key))
        if event.get("level") in _FOLDED_LEVELS:
            event = self._folded(event, key, now)
        return [*finished, event]

    def rest(self) -> list[EventDict]:
        """Counts that nothing has shown yet; for the end of the process."""
        return [_summary(entry) for entry in self._entries.values() if entry.unsaid]

    def _folded(self, event: EventDict, key: tuple[object, ...], now: float) -> EventDict:
        entry = self._entries.get(key)
        if entry is None:
            self._entries[key] = _Entry(event, now)
            if len(self._entries) > _MAX_ENTRIES:
                self._entries.popitem(last=False)
            return event
        self._entries.move_to_end(key)
        if now - entry.said_at < self._interval_s:
            entry.unsaid += 1
            return {**event, "level": "debug", "repeats": entry.unsaid}
        repeated, entry.unsaid, entry.said_at = entry.unsaid, 0, now
        return {**event, "repeated": repeated} if repeated else event

    def _finished(self, now: float, current: tuple[object, ...]) -> Iterator[EventDict]:
        """Counts of those that were not heard of for an interval."""
        for key, entry in list(self._entries.items()):
            if key != current and now - entry.said_at >= 2 * self._interval_s:
                del self._entries[key]
                if entry.unsaid:
                    yield _summary(entry)


def _summary(entry: _Entry) -> EventDict:
    kept = {key: value for key, value in entry.first.items() if key != "exception"}
    return {**kept, "repeated": entry.unsaid}


def _key(event: EventDict) -> tuple[object, ...]:
    texts = (
        (key, value) for key, value in event.items() if isinstance(value, str) and key not in _NOT_COMPARED
    )
    return tuple(sorted(texts))
