"""An admitted socket, whichever side is under test."""

from __future__ import annotations

from abc import ABC, abstractmethod

from obt_agent.protocol import limits
from obt_conformance.frames import JsonObject
from obt_conformance.wire import RawSocket

# What costs credit of the link.
ON_LINK_CREDIT = frozenset(
    {"stream.data", "models.sync", "hardware.sync", "jobs.sync", "job.part", "job.finished"}
)


class AdmittedSocket(ABC):
    """A socket after its hello.

    Args:
        wire: the socket.
        introduction: what the other side said of itself: the hello, or its result.
    """

    def __init__(self, wire: RawSocket, introduction: JsonObject) -> None:
        self.wire = wire
        self.introduction = introduction

    @property
    def max_frame_bytes(self) -> int:
        """The largest frame that the other side takes."""
        # Who names no limit takes what the protocol says.
        named = self.introduction.get("limits", {})
        return int(named.get("max_frame_bytes", limits.MAX_FRAME_BYTES))

    @abstractmethod
    def good_request(self) -> tuple[str, JsonObject]:
        """Return a method and parameters that the other side answers with a result at any time."""

    async def check_responsive(self) -> None:
        """Ask for something, and wait for its result.

        Raises:
            RuleBroken: none came.
        """
        await self.wire.ask_ok(*self.good_request())
