"""Which machines are there, since when others are away, and which runs wait for them."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Final

from obt_server.hub import Hub
from obt_server.machine_jobs import failures
from obt_server.machine_jobs.failures import Changes
from obt_server.machine_jobs.settings import MachineJobSettings

_AWAY_CHECK_POLLS: Final = 4


@dataclass(frozen=True)
class Hindrance:
    """Why something cannot begin: how it ends, or for what it waits and when to look again at the latest."""

    changes: Changes
    again_in_s: float | None = None


class Machines:
    """Machines as rollouts and campaigns see them.

    Args:
        hub: who is there.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        # Loop time of this process's start: before it, nobody can have been here.
        self._began = asyncio.get_running_loop().time()
        # Of machines that were here and went, loop time of that; of those who are here, nothing.
        self._left: dict[str, float] = {}
        self._here: set[str] = set(hub.online())
        # By machine: runs that have something for it when it comes.
        self._waiting: dict[str, set[str]] = {}

    def unknown(self, agent_id: str) -> bool:
        """Whether nobody of that id is enrolled (any more)."""
        return agent_id not in self._hub.directory.records

    def online(self, agent_id: str) -> bool:
        """Whether the machine can be asked now."""
        return self._hub.presence(agent_id) is not None

    def away_s(self, agent_id: str) -> float:
        """For how many seconds a machine is away, as far as this process has seen."""
        return asyncio.get_running_loop().time() - self._left.get(agent_id, self._began)

    def hindrance(
        self, agent_id: str, run_id: str, settings: MachineJobSettings, *, until: float | None, offline: str
    ) -> Hindrance | None:
        """Return why nothing can begin on a machine now; None where it can.

        Args:
            agent_id: the machine.
            run_id: who looks again when the machine is here.
            settings: how long a machine may be away.
            until: Unix seconds at which what is not begun is skipped.
            offline: ``skip`` or ``wait``: what becomes of a machine that is away.
        """
        now = time.time()
        left_s = math.inf if until is None else until - now
        if self.unknown(agent_id):
            return Hindrance(
                failures.failed("agent_unknown", "The machine was removed from this server.", now)
            )
        if left_s <= 0:
            return Hindrance(failures.ended("skipped", "It was not begun in time.", now))
        if self.online(agent_id):
            return None
        # Now and then also without an event: a machine that is removed never comes back.
        again_in_s = min(left_s, _AWAY_CHECK_POLLS * settings.poll_s)
        if offline == "skip":
            grace_s = settings.offline_grace_s - self.away_s(agent_id)
            if grace_s <= 0:
                return Hindrance(failures.ended("skipped", "The machine is offline.", now))
            again_in_s = min(again_in_s, grace_s)
        self._waiting.setdefault(agent_id, set()).add(run_id)
        return Hindrance(failures.waits("machine", "The machine is offline."), again_in_s)

    def note(self, agent_id: str) -> tuple[bool, set[str]]:
        """Something of a machine changed; return whether it came or went, and who waited for it to come."""
        here = self.online(agent_id)
        if here == (agent_id in self._here):
            return False, set()
        if here:
            self._here.add(agent_id)
            self._left.pop(agent_id, None)
            return True, self._waiting.pop(agent_id, set())
        self._here.discard(agent_id)
        self._left[agent_id] = asyncio.get_running_loop().time()
        return True, set()
