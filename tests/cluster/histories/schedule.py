"""Which faults happen when: made from a seed alone, so that a history can be run again. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal[
    "kill",  # SIGKILL of a replica, started again
    "restart",  # SIGTERM of a replica, started again
    "stop",  # SIGSTOP of a replica, SIGCONT
    "cut",  # a replica's links to all others
    "cut_bus",  # a replica's link to the bus
    "cut_database",  # a replica's link to the database
    "bus_kill",  # SIGKILL of the bus, started again
    "bus_cut",  # the bus's links to all replicas
    "database_crash",  # the database ended as by a crash, started again
    "database_cut",  # the database's links to all replicas
    "abandon",  # some agents redial, and leave their old connections open
]
OF_A_REPLICA: Final[tuple[Kind, ...]] = ("kill", "restart", "stop", "cut", "cut_bus", "cut_database")
OF_THE_BUS: Final[tuple[Kind, ...]] = ("bus_kill", "bus_cut")
OF_THE_DATABASE: Final[tuple[Kind, ...]] = ("database_crash", "database_cut")
BUS, DATABASE, AGENTS = "bus", "database", "agents"
MOMENTARY: Final[frozenset[Kind]] = frozenset(("restart", "abandon"))
"""What begins and ends by itself."""


@dataclass(frozen=True)
class Fault:
    """One of a schedule; times are seconds since the load began."""

    kind: Kind
    target: str
    at_s: float
    for_s: float

    def __str__(self) -> str:
        until = "" if self.kind in MOMENTARY else f" for {self.for_s:.1f} s"
        return f"{self.at_s:5.1f} s: {self.kind} {self.target}{until}"


@dataclass(frozen=True)
class Pace:
    """How long a history is, and its faults. Durations are seconds."""

    load_s: float
    faults: tuple[int, int]
    fault_s: tuple[float, float]
    database_s: tuple[float, float]
    """Of the database's: nobody is admitted meanwhile, and agents dial ever more rarely."""
    quiet_s: float = 1.0
    """Before the first fault."""


SHORT: Final = Pace(load_s=11.0, faults=(2, 3), fault_s=(2.0, 9.0), database_s=(2.0, 5.0))
LONG: Final = Pace(load_s=60.0, faults=(3, 7), fault_s=(5.0, 40.0), database_s=(3.0, 12.0))


def schedule(seed: int, replicas: Sequence[str], pace: Pace, *, bus: bool = True) -> tuple[Fault, ...]:
    """Return the faults of this seed, in the order in which they begin.

    One replica, another in each history, has none of its own: there is always somebody to turn to. While the
    database is away no replica is taken: an agent that finds nobody for long waits a minute between dials.
    """
    chance = random.Random(seed)
    spared = chance.choice(replicas) if len(replicas) > 1 else ""
    taken: dict[str, list[Fault]] = {}
    faults: list[Fault] = []
    for _ in range(chance.randint(*pace.faults)):
        fault = next(
            (one for one in _tries(chance, replicas, pace, bus=bus) if _fits(one, spared, taken, faults)),
            None,
        )
        if fault is not None:
            taken.setdefault(fault.target, []).append(fault)
            faults.append(fault)
    return tuple(sorted(faults, key=lambda one: one.at_s))


def _tries(chance: random.Random, replicas: Sequence[str], pace: Pace, *, bus: bool) -> Iterator[Fault]:
    """Some faults, of which the first that fits is taken."""
    for _ in range(20):
        kinds = [*OF_A_REPLICA, *OF_A_REPLICA, *OF_THE_DATABASE, "abandon"]
        kinds += OF_THE_BUS if bus else ()
        kind: Kind = chance.choice(kinds)
        if kind == "cut_bus" and not bus:
            continue
        target, within = chance.choice(list(replicas)), pace.fault_s
        if kind in OF_THE_BUS:
            target = BUS
        elif kind in OF_THE_DATABASE:
            target, within = DATABASE, pace.database_s
        elif kind == "abandon":
            target = AGENTS
        yield Fault(kind, target, chance.uniform(pace.quiet_s, pace.load_s), chance.uniform(*within))


def _fits(one: Fault, spared: str, taken: dict[str, list[Fault]], faults: Sequence[Fault]) -> bool:
    if one.target == spared or any(_meet(one, other) for other in taken.get(one.target, ())):
        return False
    # Both ways: whichever of the two comes second.
    kinds = {other.kind for other in faults if _meet(one, other)}
    if one.kind in OF_THE_DATABASE:
        return not kinds & set(OF_A_REPLICA)
    return not (one.kind in OF_A_REPLICA and kinds & set(OF_THE_DATABASE))


def _meet(one: Fault, other: Fault) -> bool:
    """Whether one begins before the other is over and has been for a moment."""
    margin_s = 3.0
    return one.at_s < other.at_s + other.for_s + margin_s and other.at_s < one.at_s + one.for_s + margin_s
