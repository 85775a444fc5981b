"""Who may hold connections: bounds by kind and address, and deadlines for those that say nothing."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import structlog
from starlette.requests import HTTPConnection

log = structlog.get_logger(__name__)

EXTENSION: Final = "obt.connection"
"""In a scope's extensions: the connection that the request came by (``obt_server.serve``)."""
DESCRIPTORS_KEPT: Final = 128
"""For the database, the listener, the console's files and the interpreter."""
MAX_CONNECTIONS: Final = 20_480
"""Half are agents': as many as a hub takes (``HubSettings.max_sessions``)."""
MAX_STRANGERS: Final = 1024
"""Connections whose sender has shown no credential: a fleet of a thousand that comes back at once fits."""
MAX_STRANGERS_OF_ADDRESS: Final = 256
"""Of those, from one address (IPv6: one /64, which one machine may use as it likes)."""
SILENT_S: Final = 1.0
"""Younger connections of an address keep their places: a fleet behind one address that dials at once."""
SWEEP_EVERY_S: Final = 1.0
STALLED_S: Final = 60.0
"""For a reader that is no agent and takes nothing of what waits for it. The hub watches agents itself."""
REPORT_EVERY_S: Final = 60.0
"""Between two lines of the log on dropped connections, however many they are."""

Kind = Literal["stranger", "operator", "client", "agent"]
"""A client is a program with a token of scope ``inference``."""
Phase = Literal["head", "body", "answer", "upgrade", "open"]

# By whose connection it is and where its exchange stands. An attacker costs one place for so long, and then
# none; somebody honest on a slow line is done well before.
WITHIN_S: Final[Mapping[tuple[Kind, Phase], float]] = {
    # a request's head is one packet; uvicorn itself closes what idles for 5 s after an answer
    ("stranger", "head"): 10.0,
    ("operator", "head"): 10.0,
    # strangers may send 64 KiB (``rest.context``); operators 32 MiB of images, on a slow line
    ("stranger", "body"): 30.0,
    ("operator", "body"): 600.0,
    ("client", "head"): 10.0,
    # 24 MiB of images; a client that sends them more slowly than that keeps memory that others could use
    ("client", "body"): 300.0,
    # a stranger's answer is made at once, but for passwords, which wait their turn
    ("stranger", "answer"): 60.0,
    ("stranger", "upgrade"): 30.0,
    ("operator", "upgrade"): 30.0,
    ("agent", "upgrade"): 30.0,
    ("stranger", "open"): 10.0,
}
"""Seconds that a phase may last; others end by themselves (answers), or are the hub's to watch (sockets)."""


class Transport(Protocol):
    """What is needed of asyncio's transport."""

    def abort(self) -> None:
        """Drop the connection at once."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection."""


@dataclass(eq=False)
class Connection:
    """One connection, from its accept to its end, whichever protocol it speaks.

    Args:
        transport: of asyncio.
        owner: the registry that it is in.
        address: the key of its sender's bound; None for a proxy, which stands for many.
    """

    transport: Transport
    owner: Connections
    address: str | None
    kind: Kind = "stranger"
    state: Callable[[], tuple[Phase, Hashable]] = lambda: ("head", None)
    """Where the exchange is, and what distinguishes this exchange from the one before."""
    stalled_at: float | None = None
    """Monotonic; set while the peer does not read."""
    opened_at: float = field(default_factory=time.monotonic)
    # the state as the last sweep saw it, and when it began
    _known: tuple[Phase, Hashable] = ("head", None)
    _since: float = field(default_factory=time.monotonic)

    def recognise(self, kind: Kind) -> bool:
        """The sender showed a credential. Return whether its kind has a place left."""
        return self.owner.recognise(self, kind)

    def overdue(self, now: float) -> str | None:
        """Return why the connection must end, or None."""
        state = self.state()
        # The sweep looks once a second: a phase counts from when it was first seen, so that it is cut late
        # and never early.
        if state != self._known:
            self._known, self._since = state, now
        within_s = WITHIN_S.get((self.kind, state[0]))
        if within_s is not None and now - self._since > within_s:
            return f"{self.kind}_{state[0]}_late"
        if self.kind != "agent" and self.stalled_at is not None and now - self.stalled_at > STALLED_S:
            return "does_not_read"
        return None


@dataclass(frozen=True)
class ConnectionLimits:
    """Bounds by kind, as shares of all connections: no kind can take another's.

    Strangers and operators have a quarter at most, clients of the gateway an eighth, agents the rest.
    """

    total: int = MAX_CONNECTIONS
    strangers: int = MAX_STRANGERS
    strangers_of_address: int = MAX_STRANGERS_OF_ADDRESS

    @classmethod
    def of_descriptors(cls, descriptors: int) -> ConnectionLimits:
        """Return the limits of a process that may open so many."""
        # At least a few, however low the limit of the process: a server that takes nobody helps nobody.
        total = max(16, min(MAX_CONNECTIONS, descriptors - DESCRIPTORS_KEPT))
        strangers = min(MAX_STRANGERS, total // 4)
        return cls(total, strangers, min(MAX_STRANGERS_OF_ADDRESS, max(4, strangers // 2)))

    def most(self, kind: Kind) -> int:
        """Return the places of a kind."""
        fixed = {"stranger": self.strangers, "operator": self.total // 4, "client": self.total // 8}
        return fixed[kind] if kind in fixed else self.total - sum(fixed.values())


class Connections:
    """Every open connection of a server.

    A stranger beyond a bound costs the oldest silent one its place, not the newest: a new one shows its
    credential within a round trip, and one that says nothing for long has none.

    Args:
        limits: the bounds.
        proxies: addresses, or networks like 10.0.0.0/8, whose connections stand for many senders; * for all.
    """

    def __init__(self, limits: ConnectionLimits | None = None, proxies: Iterable[str] = ()) -> None:
        self.limits = limits or ConnectionLimits()
        self._proxies = _Proxies(proxies)
        # by transport: a connection changes its protocol when it becomes a WebSocket
        self._all: dict[Transport, Connection] = {}
        # those that a sweep looks at: all but agents' sockets that are open, which the hub watches
        self._swept: dict[Connection, None] = {}
        # dicts as ordered sets: the oldest is dropped first
        self._strangers: dict[Connection, None] = {}
        self._of_address: dict[str, dict[Connection, None]] = {}
        self._counts: Counter[Kind] = Counter()
        # since the last line of the log, by reason
        self._dropped: Counter[str] = Counter()
        self._reported_at = 0.0

    def all(self) -> Collection[Connection]:
        """Return every open connection."""
        return self._all.values()

    def counts(self) -> dict[str, int]:
        """Return how many are open of each kind."""
        return {str(kind): count for kind, count in self._counts.items()}

    def opened(self, transport: Transport) -> Connection:
        """Return the connection of a transport; a new one takes a stranger's place."""
        found = self._all.get(transport)
        # An HTTP connection that becomes a WebSocket keeps its transport, its place and its kind.
        if found is not None:
            return found
        address = (transport.get_extra_info("peername") or ("",))[0]
        one = Connection(transport, self, None if address in self._proxies else address_key(address))
        self._all[transport] = one
        self._swept[one] = None
        self._strangers[one] = None
        self._counts["stranger"] += 1
        if one.address is not None:
            same = self._of_address.setdefault(one.address, {})
            same[one] = None
            # One address must not take the places of all: its own oldest goes first.
            if len(same) > self.limits.strangers_of_address:
                self._drop_silent(same, "too_many_of_address", SILENT_S)
        if len(self._strangers) > self.limits.strangers:
            self._drop_silent(self._strangers, "too_many_strangers", 0.0)
        return one

    def recognise(self, one: Connection, kind: Kind) -> bool:
        """Move a connection to another kind's places. Return False where there is none, or it has ended."""
        if one.kind == kind:
            return True
        if one.transport not in self._all or self._counts[kind] >= self.limits.most(kind):
            return False
        self._leave(one)
        one.kind = kind
        self._counts[kind] += 1
        return True

    def closed(self, transport: Transport) -> None:
        """The connection has ended."""
        one = self._all.pop(transport, None)
        if one is not None:
            self._swept.pop(one, None)
            self._leave(one)

    def _leave(self, one: Connection) -> None:
        self._counts[one.kind] -= 1
        self._strangers.pop(one, None)
        if one.kind == "stranger" and one.address is not None:
            same = self._of_address[one.address]
            del same[one]
            if not same:
                del self._of_address[one.address]

    def _drop_silent(self, among: Iterable[Connection], reason: str, age_s: float) -> None:
        """Drop the oldest, of that age at least, whose request has not come yet."""
        until = time.monotonic() - age_s
        for one in among:
            if one.opened_at > until:
                return
            if one.state()[0] in ("head", "body"):
                self._drop(one, reason)
                return

    def _drop(self, one: Connection, reason: str) -> None:
        self._dropped[reason] += 1
        self.closed(one.transport)
        # Not closed in order: a close frame or an answer would wait for a peer that does not read.
        one.transport.abort()

    def sweep(self) -> None:
        """Drop what is overdue; say in one line what was dropped."""
        now = time.monotonic()
        # A copy: dropping changes the registry.
        for one in list(self._swept):
            reason = one.overdue(now)
            if reason is not None:
                self._drop(one, reason)
            # It stays so until it ends. Thousands of them, each second, cost more than what they say.
            elif one.kind == "agent" and one.state()[0] == "open":
                del self._swept[one]
        # One line a minute with counts: under attack a line for each connection would fill the disk.
        if self._dropped and now - self._reported_at >= REPORT_EVERY_S:
            log.warning("connections.dropped", **self._dropped, open=dict(self._counts))
            self._dropped.clear()
            self._reported_at = now


class _Proxies:
    """The proxies before this server, as ``--behind-proxy`` names them; uvicorn reads the same words."""

    def __init__(self, named: Iterable[str]) -> None:
        words = frozenset(named)
        self._all = "*" in words
        self._networks = []
        for word in words:
            # What is neither is no address that a connection comes from.
            with contextlib.suppress(ValueError):
                self._networks.append(ipaddress.ip_network(word))

    def __contains__(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return self._all
        # An IPv4 proxy on a socket for both.
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return self._all or any(parsed in network for network in self._networks)


def address_key(address: str) -> str:
    """Return what stands for a sender: an IPv4 address, or the /64 that an IPv6 address is in."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:  # noqa: PLR2004 - the version's number
        return str(parsed)
    # An IPv4 sender on a socket for both: it must not get a second share by its other spelling.
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def recognise(request: HTTPConnection, kind: Kind) -> bool:
    """The request's sender showed a credential. Return whether it may stay; True where no server counts."""
    one: Connection | None = request.scope.get("extensions", {}).get(EXTENSION, {}).get("connection")
    return one is None or one.recognise(kind)
