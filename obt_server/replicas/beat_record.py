"""What one replica knows of all: computed from its beats and its own monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from obt_server.replica_storage import Beat, LeaderLease

ALIVE_S: Final = 10.0
"""Of silence, after which a replica counts as gone."""
LEAD_S: Final = 7.0
"""Since the beginning of the beat that gave or renewed the lease: then its holder leads no more. Others get
the lease after 10 s, by another clock."""
COUNTED_S: Final = 3.0
"""Of the time between two beats, at most, that counts as others' silence. What is longer is this replica's or
the database's: nobody listened, or nobody could say anything."""


@dataclass(frozen=True)
class _Heard:
    """Another replica's last beat that was noticed: its number, and when by the counted time."""

    beats: int
    at: float


class BeatRecord:
    """Who runs and who leads, as of the last beat that was answered. Times are those of a monotonic clock.

    Ages by the database's clock count when this replica looks for the first time. From then on another one is
    silent while its number of beats stays the same: a clock that jumps ends nobody.

    Args:
        own_id: of this replica.
    """

    def __init__(self, own_id: str) -> None:
        self._own_id = own_id
        # when the last beat that was answered began
        self._began: float | None = None
        # seconds between beats, without what is over COUNTED_S
        self._counted = 0.0
        self._heard: dict[str, _Heard] = {}
        self._leader: str | None = None
        # of the last own lease that was not renewed in time: what was begun under it may still be on its way
        self._lapsed = 0
        self.epoch = 0
        """Of the last lease, whoever has it; 0 before the first."""

    def would_lead(self, now: float) -> bool:
        """Whether the beat that begins now may take or keep the lease.

        One that this replica stopped leading under is given up, and none is taken in the same beat: a lease
        that is kept would also be good for what was written late.
        """
        self._note_lapse(now)
        return not (self._leader == self._own_id and self.epoch <= self._lapsed)

    def take(self, beat: Beat, began: float, now: float) -> None:
        """Take in what a beat found that began at that time."""
        self._note_lapse(now)
        first = self._began is None
        if self._began is not None:
            self._counted += min(began - self._began, COUNTED_S)
        self._began = began
        for replica_id, age_s in beat.replicas.items():
            number, known = beat.beats[replica_id], self._heard.get(replica_id)
            if known is None or known.beats != number:
                # One that came while this replica runs has just said so, whatever the database's clock does.
                self._heard[replica_id] = _Heard(number, self._counted - (age_s if first else 0.0))
        # A row that is missing was removed as old, which a clock that jumped can do to one that runs.
        self._heard = {
            replica_id: heard
            for replica_id, heard in self._heard.items()
            if replica_id not in beat.left and (replica_id in beat.replicas or self._is_alive(heard))
        }
        self._leader, self.epoch = beat.leader, beat.epoch

    def alive(self, replica_id: str, now: float) -> bool:
        """Whether it runs. Of itself: whether the database answered within ``ALIVE_S``."""
        if replica_id == self._own_id:
            return self._began is not None and now - self._began < ALIVE_S
        heard = self._heard.get(replica_id)
        return heard is not None and self._is_alive(heard)

    def others(self) -> frozenset[str]:
        """Return the other replicas that run."""
        return frozenset(
            replica_id
            for replica_id, heard in self._heard.items()
            if replica_id != self._own_id and self._is_alive(heard)
        )

    def leads_until(self) -> float | None:
        """Return when this replica stops leading if no beat renews it; None where it does not lead."""
        mine = self._leader == self._own_id and self.epoch > self._lapsed
        return self._began + LEAD_S if mine and self._began is not None else None

    def lease(self, now: float) -> LeaderLease | None:
        """Return the lease under which this replica leads at that time."""
        until = self.leads_until()
        if until is None or now >= until:
            return None
        return LeaderLease(holder=self._own_id, epoch=self.epoch)

    def leader(self, now: float) -> str | None:
        """Return who leads, as far as this replica knows."""
        if self._leader == self._own_id and self.lease(now) is None:
            return None
        return self._leader

    def _note_lapse(self, now: float) -> None:
        until = self.leads_until()
        if until is not None and now >= until:
            self._lapsed = self.epoch

    def _is_alive(self, heard: _Heard) -> bool:
        return self._counted - heard.at < ALIVE_S
