"""What happened in a history, as those outside the servers saw it. Times are seconds of one clock."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec


class FaultSeen(msgspec.Struct, frozen=True, tag=True):
    """A fault; ``ended`` is when all was healed and what was started again answered."""

    kind: str
    target: str
    began: float
    ended: float


class Admitted(msgspec.Struct, frozen=True, tag=True):
    """An agent read the answer to its hello: from here on an older session of it is nobody's."""

    agent: str
    session: int
    replica: str
    at: float


class Left(msgspec.Struct, frozen=True, tag=True):
    """An agent noticed that a connection ended, or left it behind."""

    agent: str
    session: int
    at: float


class Called(msgspec.Struct, frozen=True, tag=True):
    """A command that an operator sent; ``session`` is the one in which the agent got it, 0 for none."""

    agent: str
    began: float
    ended: float
    replica: str
    outcome: str
    session: int = 0


class Streamed(msgspec.Struct, frozen=True, tag=True):
    """A stream as its reader saw it: how many tokens, and the longest silence with its begin.

    ``wrong`` says which token came where another was due. ``outcome`` is ``complete``, the kind of the error,
    or ``closed``. ``opened`` is when the answer began.
    """

    agent: str
    began: float
    opened: float
    ended: float
    replica: str
    outcome: str
    tokens: int
    expected: int
    silence_s: float
    silent_from: float
    session: int = 0
    wrong: str = ""


class Accepted(msgspec.Struct, frozen=True, tag=True):
    """The server said that an agent has a job."""

    agent: str
    job: str
    at: float


class Started(msgspec.Struct, frozen=True, tag=True):
    """A machine began a job that it had not known: of a pull, ``model`` is what it fetched."""

    agent: str
    job: str
    kind: Literal["benchmark", "pull"]
    model: str
    at: float


class Stored(msgspec.Struct, frozen=True, tag=True):
    """A result in the database; ``accepted`` is false for one that was set aside."""

    agent: str
    job: str
    accepted: bool


class Watched(msgspec.Struct, frozen=True, tag=True):
    """A live series that a machine sent, of one interval alone in these histories."""

    agent: str
    session: int
    began: float
    ended: float


class Viewed(msgspec.Struct, frozen=True, tag=True):
    """A list of the agents, or one of the news: who was shown offline."""

    viewer: str
    replica: str
    began: float
    ended: float
    offline: tuple[str, ...]


class Target(msgspec.Struct, frozen=True, tag=True):
    """How a machine of a rollout, or a cell of a campaign, ended."""

    work: str
    agent: str
    state: str
    reason: str | None
    model: str
    job: str | None = None


class Odd(msgspec.Struct, frozen=True, tag=True):
    """An answer that no client expects."""

    at: float
    said: str


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The history is over; ``agents`` were there, ``running`` is the work that had not ended by then.

    ``lag_s`` is the longest time that the observer itself stood still, ``proxy_late_s`` how much longer than
    usual the proxy bore with a replica: on a busy machine it would turn away from living ones.
    """

    at: float
    agents: int
    lag_s: float
    running: tuple[str, ...] = ()
    proxy_late_s: float = 0.0


Entry = (
    FaultSeen
    | Admitted
    | Left
    | Called
    | Streamed
    | Accepted
    | Started
    | Stored
    | Watched
    | Viewed
    | Target
    | Odd
    | Ended
)
Log = list[Entry]


def write(log: Log, path: Path) -> None:
    """Keep a log, one entry a line."""
    with path.open("wb") as file:
        file.writelines(msgspec.json.encode(entry) + b"\n" for entry in log)


def read(path: Path) -> Log:
    """A log that was kept."""
    return [msgspec.json.decode(line, type=Entry) for line in path.read_bytes().splitlines()]
