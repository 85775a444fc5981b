"""Which rollout may change a model on a machine: one at a time, in the order in which they asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

LockKey = tuple[str, str]
"""A machine and a model (``model_key``)."""


class ModelLocks:
    """Locks on models of machines. Who holds takes all that it needs or none: no two wait in a circle."""

    def __init__(self) -> None:
        # by key: the rollout that holds it
        self._holders: dict[LockKey, str] = {}
        # by key: what to call when it is free; each is called once
        self._waiting: dict[LockKey, deque[Callable[[], None]]] = {}

    def take(self, keys: Sequence[LockKey], rollout_id: str) -> bool:
        """Take all of them for a rollout; False, and none taken, where another holds one."""
        if any(self.holder(key) not in (None, rollout_id) for key in keys):
            return False
        for key in keys:
            self._holders[key] = rollout_id
        return True

    def holder(self, key: LockKey) -> str | None:
        """Which rollout holds a lock."""
        return self._holders.get(key)

    def held_by_other(self, keys: Sequence[LockKey], rollout_id: str) -> LockKey | None:
        """The first of the keys that another rollout holds."""
        return next((key for key in keys if self.holder(key) not in (None, rollout_id)), None)

    def when_free(self, key: LockKey, call: Callable[[], None]) -> None:
        """Call something once the lock is given back."""
        self._waiting.setdefault(key, deque()).append(call)

    def give_back(self, keys: Sequence[LockKey], rollout_id: str) -> None:
        """Give locks back; all who wait for one look again, the first of them first."""
        for key in keys:
            if self._holders.get(key) != rollout_id:
                continue
            del self._holders[key]
            for call in self._waiting.pop(key, ()):
                call()
