"""Another process, as this one hears of it."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from obt_server.replicas.messages import PresenceNews

SILENT_S: Final = 3.0
"""For which nothing came from a process that speaks each second: its agents are those of the database, or,
where that calls it dead, it is gone."""
_KEPT: Final = 2000
"""Messages while its list is read; more come when this process is far behind, and the list is old, too."""


class Peer:
    """One process.

    Args:
        replica_id: its id.
    """

    def __init__(self, replica_id: str) -> None:
        self.replica_id = replica_id
        # of its last message that was applied; None before the first
        self.number: int | None = None
        # what reads its list, while that runs
        self.listing: asyncio.Task[None] | None = None
        # whether its list was read to the end once
        self.listed = False
        # agents whose news were too large for a message, and what reads them, while that runs
        self.to_fetch: set[str] = set()
        self.fetching: asyncio.Task[None] | None = None
        # what it told meanwhile
        self._kept: list[PresenceNews] = []
        self._heard_at = time.monotonic()

    def heard(self) -> None:
        """Something came."""
        self._heard_at = time.monotonic()

    def follows(self, news: PresenceNews) -> bool:
        """Whether nothing was lost before a message."""
        return self.number is not None and news.number <= self.number + 1

    def lose_place(self) -> None:
        """What it told last is not known any more: whatever comes next has a gap before it."""
        self.number = None
        self._kept = []

    def begin_list(self, news: PresenceNews) -> None:
        """The list is asked for; a message came before it."""
        self.number = news.number - 1
        self._kept = [news]

    def keep(self, news: PresenceNews) -> None:
        """A message came while the list is read."""
        if len(self._kept) < _KEPT:
            self._kept.append(news)

    def take_kept(self) -> list[PresenceNews]:
        """Return what came while the list was read."""
        kept, self._kept = self._kept, []
        return kept

    @property
    def silent(self) -> bool:
        """Whether nothing came for longer than it is ever silent."""
        return time.monotonic() - self._heard_at >= SILENT_S

    def is_gone(self, *, alive: bool) -> bool:
        """Whether it runs no more, by what the database says and by its silence."""
        return not alive and self.silent
