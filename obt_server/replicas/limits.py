"""Limits that hold over all replicas: failures of those who guess, and requests that tokens have open."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

from obt_agent.errors import AgentError
from obt_server.bus import BusMessage, BusSubscription
from obt_server.replicas.parts import Replicas
from obt_server.tasks import end_tasks, every

TOLD_AFTER_S: Final = 0.02
"""For which failures are gathered into one message: strangers may make thousands in a second."""
MOST_TOLD: Final = 2_000
"""Failures in one message; a flood of others is counted where it comes in."""
CLAIMED_WITHIN_S: Final = 0.05
"""For which a replica waits whether another one lets somebody try at the same moment."""
CLAIM_VALID_S: Final = 2.0
"""For which a try may take, before its failure or success is told."""
MOST_CLAIMS: Final = 10_000
COUNTED_EVERY_S: Final = 1.0
COUNT_VALID_S: Final = 5.0
"""For which a replica's counts hold when it says no others: the bus may be away."""
MOST_TOKENS: Final = 5_000


Outcome = Literal["failed", "succeeded"]


class SharedLimiter(Protocol):
    """A limiter of failures (``obt_server.auth.limiter``) whose keys are short and say nothing."""

    tell: Callable[[bytes, Outcome], None] | None
    """Called with each key that failed or succeeded here."""

    def count(self, key: bytes, now: float) -> float:
        """Count a failure."""

    def forget(self, key: bytes) -> None:
        """Forget a key's failures."""


class LimitNews(msgspec.Struct, frozen=True, array_like=True):
    """What a replica tells the others.

    ``outcomes``: limiters by name, keys, and what became of those, in their order. ``open``:
    requests that are open, by token; None where nothing is said of them. ``claims``: keys that it would let
    try now.
    """

    replica: str
    outcomes: list[tuple[str, bytes, Outcome]] = []
    open: dict[str, int] | None = None
    claims: list[bytes] = []


class SharedLimits:
    """Tells other replicas what counts here, and counts what they tell.

    Without the bus each replica counts what it sees itself.

    Args:
        replicas: the others.
    """

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._limiters: dict[str, SharedLimiter] = {}
        self._untold: list[tuple[str, bytes, Outcome]] = []
        self._has_untold = asyncio.Event()
        # By key: who said last that it would let it try, and when (monotonic).
        self._claims: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._count_open: Callable[[], Mapping[str, int]] = dict
        self._said_open = False
        # By replica: what it has open, and when that was said (monotonic).
        self._open: dict[str, tuple[dict[str, int], float]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._subscription: BusSubscription | None = None

    async def start(self) -> None:
        """Tell and hear from now on."""
        self._subscription = await self._replicas.bus.subscribe(self._replicas.subjects.limits, self._hear)
        self._tasks = [
            asyncio.create_task(self._tell_failures(), name="tell failures"),
            every(COUNTED_EVERY_S, self._tell_open, "tell open requests"),
        ]

    async def close(self) -> None:
        """Tell and hear no more."""
        if self._subscription is not None:
            await self._subscription.close()
        await end_tasks(self._tasks)

    # -- failures ---------------------------------------------------------------------------------------

    def share(self, name: str, limiter: SharedLimiter) -> None:
        """Let a limiter count what its like counts at other replicas, and the other way round."""
        self._limiters[name] = limiter

        def tell(key: bytes, outcome: Outcome) -> None:
            if len(self._untold) < MOST_TOLD:
                self._untold.append((name, key, outcome))
                self._has_untold.set()

        limiter.tell = tell

    async def _tell_failures(self) -> None:
        while True:
            await self._has_untold.wait()
            await asyncio.sleep(TOLD_AFTER_S)
            self._has_untold.clear()
            untold, self._untold = self._untold, []
            await self._publish(LimitNews(self._replicas.membership.replica_id, untold))

    async def claim(self, keys: Sequence[bytes]) -> bool:
        """Whether this replica may let these keys try: of replicas that would at one moment, one does."""
        mine = self._replicas.membership.replica_id
        if any(self._claimed_by(key) is not None for key in keys):
            return False
        await self._publish(LimitNews(mine, claims=list(keys)))
        await asyncio.sleep(CLAIMED_WITHIN_S)
        # Of two claims that crossed on their way the one of the first in order counts at both.
        return all((self._claimed_by(key) or mine) >= mine for key in keys)

    def _claimed_by(self, key: bytes) -> str | None:
        """Who lets a key try now, other than this replica."""
        replica, at = self._claims.get(key, ("", 0.0))
        return replica if replica and time.monotonic() < at + CLAIM_VALID_S else None

    def _note_claims(self, replica: str, keys: Sequence[bytes]) -> None:
        for key in keys:
            before = self._claimed_by(key)
            self._claims[key] = replica if before is None else min(before, replica), time.monotonic()
            self._claims.move_to_end(key)
        while len(self._claims) > MOST_CLAIMS:
            self._claims.popitem(last=False)

    # -- open requests ----------------------------------------------------------------------------------

    def count_open(self, count: Callable[[], Mapping[str, int]]) -> None:
        """Tell others what this returns, each second: requests that are open, by token."""
        self._count_open = count

    def open_elsewhere(self, token: str) -> int:
        """Return how many requests of a token other replicas have open, as they said last."""
        since = time.monotonic() - COUNT_VALID_S
        alive = self._replicas.membership.alive
        return sum(
            counts.get(token, 0)
            for replica, (counts, at) in self._open.items()
            if at > since and alive(replica)
        )

    async def _tell_open(self) -> None:
        counts = dict(list(self._count_open().items())[:MOST_TOKENS])
        # Nothing is said of nothing, but once.
        if counts or self._said_open:
            self._said_open = bool(counts)
            await self._publish(LimitNews(self._replicas.membership.replica_id, open=counts))

    # -- both -------------------------------------------------------------------------------------------

    async def _publish(self, news: LimitNews) -> None:
        try:
            await self._replicas.bus.publish(self._replicas.subjects.limits, msgspec.msgpack.encode(news))
        # Counted here in any case.
        except AgentError:
            return

    def _hear(self, message: BusMessage) -> None:
        try:
            news = msgspec.msgpack.decode(message.data, type=LimitNews)
        # Another release's: each counts for itself then.
        except msgspec.MsgspecError:
            return
        if news.replica == self._replicas.membership.replica_id:
            return
        now = time.monotonic()
        self._note_claims(news.replica, news.claims)
        for name, key, outcome in news.outcomes:
            # It has been tried, and the delay holds from here on.
            self._claims.pop(key, None)
            limiter = self._limiters.get(name)
            if limiter is not None and outcome == "failed":
                limiter.count(key, now)
            elif limiter is not None:
                limiter.forget(key)
        if news.open is not None:
            # Those that are gone say nothing any more.
            others = self._replicas.membership.others | {news.replica}
            self._open = {one: found for one, found in self._open.items() if one in others}
            self._open[news.replica] = news.open, now
