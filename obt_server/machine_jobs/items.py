"""What a run does, item by item, as it is stored: the cells of a campaign, or the targets of a rollout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

import msgspec

from obt_server.machine_jobs import failures
from obt_server.machine_jobs.attempt import Postponed
from obt_server.machine_jobs.failures import Changes


class RunItem(Protocol):
    """A cell or a target."""

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""

    @property
    def begun(self) -> bool:
        """Whether its machine may have been asked already."""

    @property
    def cancelling(self) -> bool:
        """Whether somebody cancelled it, and the machine has not said how it ended."""

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""


T = TypeVar("T", bound=RunItem)


class RunItems(dict[str, T]):
    """Items by their keys, in the run's order.

    Args:
        items: as they are stored when the run begins.
    """

    def __init__(self, items: Mapping[str, T]) -> None:
        super().__init__(items)
        # How many have not ended; counting them at each step would be quadratic.
        self.open = sum(not one.ended for one in items.values())
        # Those that changed since ``take_changed``.
        self._changed: set[str] = set()

    def with_changes(self, changes: Mapping[str, Changes]) -> dict[str, T]:
        """Return items as they are to be stored."""
        return {
            key: msgspec.structs.replace(self[key], **fields)  # type: ignore[type-var] # both kinds are
            for key, fields in changes.items()
        }

    def put(self, stored: Mapping[str, T]) -> None:
        """Take items over that have been stored; new ones come last."""
        for key, one in stored.items():
            before = self.get(key)
            self.open += (not one.ended) - (before is not None and not before.ended)
            self[key] = one
        self._changed.update(stored)

    def moved(self, key: str) -> None:
        """What is shown of an item changed, and nothing that is stored."""
        self._changed.add(key)

    def take_changed(self) -> list[T]:
        """Return the items that changed since the last call."""
        changed, self._changed = self._changed, set()
        return [one for key, one in self.items() if key in changed]


def cancelled(item: RunItem, at: float) -> Changes:
    """What becomes of an item that somebody cancels: one that was begun ends when its machine says so."""
    return {"cancelling": True} if item.begun else failures.ended("cancelled", None, at)


def postponed(item: RunItem, later: Postponed, tries: int, at: float) -> Changes:
    """What becomes of an item whose machine is to be asked again, and refuses ``tries`` attempts at most."""
    if item.cancelling:
        # A cancellation that came meanwhile has nothing to stop.
        return failures.ended("cancelled", None, at)
    changes: Changes = {"state": "waiting", "job_id": None} | failures.waits("machine", later.reason)
    if not later.next_attempt:
        return changes
    if item.attempt >= tries:
        return failures.failed("busy", later.reason, at)
    return changes | {"attempt": item.attempt + 1}
