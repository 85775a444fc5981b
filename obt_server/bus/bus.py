"""What carries messages between processes: at most once, in each sender's order, to whoever listens now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from obt_agent.errors import AgentError

RETRY_AFTER_MS: Final = 1000


class BusUnavailable(AgentError):
    """The bus cannot be reached now, or does not answer; nothing is queued for later."""

    kind = "bus_unavailable"
    retryable_by_default = True


class NoResponders(AgentError):
    """Nobody listens on that subject."""

    kind = "no_responders"
    retryable_by_default = True


@dataclass(frozen=True, slots=True)
class BusMessage:
    """One message as it came.

    Args:
        subject: where it was sent to.
        data: its body.
        reply: where an answer is expected; None where none is.
        no_responders: the bus itself says that nobody listens where a message with this subject as its
            ``reply`` was sent to; there is no body.
    """

    subject: str
    data: bytes
    reply: str | None = None
    no_responders: bool = False


Take = Callable[[BusMessage], None]
"""Takes a message at once; what takes long belongs in a task of the receiver."""


class Serving(Protocol):
    """What goes on until it is closed."""

    async def close(self) -> None:
        """Take nothing more. What came before may still be taken while this waits. May be called twice."""


class BusSubscription(Serving, Protocol):
    """What ``subscribe`` returns."""

    async def drain(self) -> None:
        """Take what is on its way, then nothing more: who sends after this hears that nobody listens.

        Returns within seconds also where the bus has not said by then that this is so; what was on its way
        may be taken later.
        """


class Bus(Protocol):
    """One connection to the bus.

    Subjects are words with dots between them. A subscription may have ``*`` for a word, and ``>`` at the end
    for one or more. Messages of one sender arrive in the order in which they were sent; any may be lost.
    """

    async def start(self) -> None:
        """Begin to connect. Returns within seconds, whether that has succeeded or not."""

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now, as far as is known."""

    @property
    def max_payload(self) -> int:
        """Most bytes of a message's data."""

    async def publish(self, subject: str, data: bytes, reply: str | None = None) -> None:
        """Send a message, without a word on its arrival.

        Args:
            subject: where to.
            data: at most ``max_payload`` bytes.
            reply: where an answer is expected. Where nobody listens on ``subject``, a message with
                ``no_responders`` comes there.

        Raises:
            BusUnavailable: there is no connection, or it takes nothing more.
            TooLarge: the data are larger than the bus carries.
        """

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """Send a message, and return the data of the first answer.

        Raises:
            BusUnavailable: there is no connection, or it was lost before the answer.
            NoResponders: nobody listens there.
            DeadlineExceeded: no answer came within ``timeout_s`` seconds.
            TooLarge: the data are larger than the bus carries.
        """

    async def subscribe(self, subject: str, take: Take) -> BusSubscription:
        """Have messages on a subject taken, also after a loss of the connection and its return.

        Who subscribes while there is no connection gets the messages from when there is one.
        """

    def on_connection(self, observer: Callable[[bool], None]) -> None:
        """Have ``observer`` called with False when the connection is lost, with True when it is back."""

    async def close(self) -> None:
        """End the connection for good: requests fail with BusUnavailable."""


def matches(pattern: str, subject: str) -> bool:
    """Whether a subscription's subject covers a message's."""
    wanted, words = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(words) <= len(wanted):
            return False
        words = words[: len(wanted)]
    return len(wanted) == len(words) and all(a in ("*", b) for a, b in zip(wanted, words, strict=True))
