"""What must hold of each history. Pure: each takes the log and the bounds, and returns what is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from tests.cluster.histories.journal import (
    Accepted,
    Admitted,
    Called,
    Ended,
    FaultSeen,
    Left,
    Log,
    Odd,
    Started,
    Stored,
    Streamed,
    Target,
    Viewed,
    Watched,
)
from tests.cluster.histories.schedule import BUS, DATABASE, OF_THE_BUS, OF_THE_DATABASE

T = TypeVar("T")

KEEPS_PRESENCE: Final = frozenset((*OF_THE_BUS, *OF_THE_DATABASE, "cut_bus"))
"""Faults during which agents that were shown before stay shown."""
SHARED: Final = frozenset((BUS, DATABASE))
"""What all replicas use."""
FAULTS_OF_A_SERVER: Final = frozenset(("HTTP 500", "internal"))
ENDED_TARGETS: Final = frozenset(("done", "failed", "refused", "cancelled", "skipped"))


@dataclass(frozen=True)
class Bounds:
    """In seconds; each is what is promised, and ``slack_s`` is what the observer adds to it.

    Args:
        silence_s: the longest silence of a stream.
        return_s: for 99 % of the agents to be there after a fault.
        shown_s: from an admission, or a fault's end, until each replica shows the agent.
        fence_s: from an admission until no call reaches the session before; ``fence_cut_s``: by a replica
            that is cut off the bus, which learns it of the database.
        settled_s: after a fault's end until no request fails for it.
        database_s: for an answer while the database is away.
        watch_s: for the end of a watch that nobody reads, while the next one begins.
        slack_s: of the observer, which shares two processors with everything else.
    """

    silence_s: float = 5.0
    return_s: float = 30.0
    shown_s: float = 4.0
    fence_s: float = 1.0
    fence_cut_s: float = 4.0
    settled_s: float = 15.0
    database_s: float = 25.0
    watch_s: float = 1.0
    slack_s: float = 3.0

    def slack(self, log: Log) -> float:
        """The slack of this log: longer where the observer itself stood still, or the proxy waited longer."""
        return self.slack_s + sum(2 * one.lag_s + one.proxy_late_s for one in _of(log, Ended))


def _of(log: Log, kind: type[T]) -> list[T]:
    return [entry for entry in log if isinstance(entry, kind)]


def _requests(log: Log) -> list[Called | Streamed]:
    return [entry for entry in log if isinstance(entry, Called | Streamed)]


def _overlaps(fault: FaultSeen, began: float, ended: float, after_s: float = 0.0) -> bool:
    return fault.began <= ended and began <= fault.ended + after_s


@dataclass(frozen=True)
class _Session:
    """A session as its agent saw it."""

    agent: str
    number: int
    replica: str
    began: float
    ended: float


def _sessions(log: Log) -> dict[str, list[_Session]]:
    ends = {(one.agent, one.session): one.at for one in _of(log, Left)}
    found: dict[str, list[_Session]] = defaultdict(list)
    for one in _of(log, Admitted):
        ended = ends.get((one.agent, one.session), float("inf"))
        found[one.agent].append(_Session(one.agent, one.session, one.replica, one.at, ended))
    return found


# -- jobs ---------------------------------------------------------------------------------------------


def each_accepted_job_has_one_result(log: Log, bounds: Bounds) -> list[str]:
    """None lost, none twice, and no machine did it twice."""
    del bounds
    stored = Counter((one.agent, one.job) for one in _of(log, Stored) if one.accepted)
    aside = Counter((one.agent, one.job) for one in _of(log, Stored) if not one.accepted)
    begun = Counter((one.agent, one.job) for one in _of(log, Started))
    accepted = {(one.agent, one.job) for one in _of(log, Accepted)}
    wrong = [f"job {job} of {agent}: no result" for agent, job in accepted if not stored[agent, job]]
    wrong += [f"job {job} of {agent}: {count} results" for (agent, job), count in stored.items() if count > 1]
    wrong += [f"job {job} of {agent}: another result came" for agent, job in aside]
    wrong += [
        f"job {job} of {agent}: begun {count} times" for (agent, job), count in begun.items() if count > 1
    ]
    return wrong


def each_machine_pulls_once(log: Log, bounds: Bounds) -> list[str]:
    """A machine of a rollout fetches the model once when it is done, and never twice."""
    del bounds
    pulls = Counter((one.agent, one.model) for one in _of(log, Started) if one.kind == "pull")
    wrong = [f"{agent} pulled {model} {count} times" for (agent, model), count in pulls.items() if count > 1]
    return wrong + [
        f"{one.agent} is done with {one.model}, and pulled nothing"
        for one in _of(log, Target)
        if one.work.startswith("rollout") and one.state == "done" and not pulls[one.agent, one.model]
    ]


def each_target_is_accounted_for(log: Log, bounds: Bounds) -> list[str]:
    """Work on many machines ends, with each of them done: no machine here refuses or fails."""
    del bounds
    (end,) = _of(log, Ended)
    wrong = [f"{work} did not end" for work in end.running]
    for one in _of(log, Target):
        if one.state not in ENDED_TARGETS:
            wrong.append(f"{one.work}: {one.agent} stays {one.state}")
        elif one.state != "done":
            wrong.append(f"{one.work}: {one.agent} is {one.state}: {one.reason}")
    stored = {(one.agent, one.job) for one in _of(log, Stored) if one.accepted}
    return wrong + [
        f"{one.work}: {one.agent} is done, and {one.job} has no result"
        for one in _of(log, Target)
        if one.state == "done" and one.job is not None and (one.agent, one.job) not in stored
    ]


# -- streams and calls ----------------------------------------------------------------------------------


def no_stream_hangs(log: Log, bounds: Bounds) -> list[str]:
    """Each brings data, an error or its end within 5 s, whatever happens; it is opened or refused as fast."""
    most = bounds.silence_s + bounds.slack(log)
    faults = _of(log, FaultSeen)
    wrong = []
    for one in _of(log, Streamed):
        if one.opened and one.silence_s > most:
            wrong.append(f"{_way(one)}: silent for {one.silence_s:.1f} s from {one.silent_from:.1f}")
        opening = (one.opened or one.ended) - one.began
        if opening > _answer_s(faults, one.began, one.began + opening, bounds, log):
            wrong.append(f"{_way(one)}: {opening:.1f} s to open, at {one.began:.1f}")
    return wrong


def no_token_is_lost_or_doubled(log: Log, bounds: Bounds) -> list[str]:
    """A stream's tokens come one after the other, and all of them where it is complete."""
    del bounds
    wrong = [f"stream of {one.agent}: {one.wrong}" for one in _of(log, Streamed) if one.wrong]
    return wrong + [
        f"stream of {one.agent} at {one.began:.1f}: complete with {one.tokens} of {one.expected} tokens"
        for one in _of(log, Streamed)
        if one.outcome == "complete" and one.tokens != one.expected
    ]


def each_call_is_answered(log: Log, bounds: Bounds) -> list[str]:
    """In time: longer while the database is away alone."""
    faults = _of(log, FaultSeen)
    return [
        f"{_way(one)}: {one.ended - one.began:.1f} s, {one.outcome}, at {one.began:.1f}"
        for one in _of(log, Called)
        if one.ended - one.began > _answer_s(faults, one.began, one.ended, bounds, log)
    ]


def _way(one: Called | Streamed) -> str:
    """Who asked whom, for a person."""
    return f"{type(one).__name__.lower()} {one.agent} by {one.replica or 'nobody'}"


def _answer_s(faults: Sequence[FaultSeen], began: float, ended: float, bounds: Bounds, log: Log) -> float:
    away = any(_overlaps(fault, began, ended, bounds.slack_s) and _of_database(fault) for fault in faults)
    return (bounds.database_s if away else bounds.silence_s) + bounds.slack(log)


def _of_database(fault: FaultSeen) -> bool:
    return fault.target == DATABASE or fault.kind == "cut_database"


def nothing_fails_without_a_fault(log: Log, bounds: Bounds) -> list[str]:
    """Calls and streams to an agent that is there, where no fault is near, are answered and complete."""
    faults, sessions = _of(log, FaultSeen), _sessions(log)
    wrong = []
    for one in _requests(log):
        if one.outcome == "complete":
            continue
        if any(_overlaps(fault, one.began, one.ended, bounds.settled_s) for fault in faults):
            continue
        shown_s = bounds.shown_s + bounds.slack(log)
        if _covering(sessions[one.agent], one.began - shown_s, one.ended + bounds.slack(log)) is not None:
            wrong.append(f"{_way(one)}: {one.outcome} at {one.began:.1f}")
    return wrong


def nothing_odd_is_answered(log: Log, bounds: Bounds) -> list[str]:
    """What a client asks for is done, or refused for now: never said to be wrong or unknown, nor a fault."""
    del bounds
    faulty = [f"{_way(one)}: {one.outcome}" for one in _requests(log) if one.outcome in FAULTS_OF_A_SERVER]
    return [one.said for one in _of(log, Odd)] + faulty


def each_machine_has_one_watch(log: Log, bounds: Bounds) -> list[str]:
    """However many operators watch it, by whichever replicas; a fault may leave one that is given up."""
    faults = _of(log, FaultSeen)
    last: dict[str, Watched] = {}
    wrong = []
    for one in sorted(_of(log, Watched), key=lambda one: one.began):
        before = last.get(one.agent)
        last[one.agent] = one if before is None else max(before, one, key=lambda either: either.ended)
        if before is None or before.ended <= one.began + bounds.watch_s:
            continue
        if not any(_overlaps(fault, one.began, one.began, bounds.settled_s) for fault in faults):
            wrong.append(f"{one.agent}: a second watch began at {one.began:.1f}")
    return wrong


# -- who has an agent -----------------------------------------------------------------------------------


def no_call_reaches_an_older_session(log: Log, bounds: Bounds) -> list[str]:
    """What an operator sends after an agent was admitted anew is not done in the session before.

    A replica that is cut off the bus learns of it by the database, and one that has neither cannot.
    """
    admissions: dict[str, list[Admitted]] = defaultdict(list)
    for one in _of(log, Admitted):
        admissions[one.agent].append(one)
    faults = _of(log, FaultSeen)
    wrong = []
    for call in _requests(log):
        if not call.session:
            continue
        fence_s = _fence_s(call.replica, call.began, faults, bounds)
        newer = [
            one.session
            for one in admissions[call.agent]
            if one.session > call.session and one.at + fence_s < call.began
        ]
        if newer:
            wrong.append(f"{_way(call)} at {call.began:.1f}: reached {call.session}, not {max(newer)}")
    return wrong


def _fence_s(replica: str, at: float, faults: Iterable[FaultSeen], bounds: Bounds) -> float:
    near = {
        fault.kind
        for fault in faults
        if fault.target in (replica, *SHARED) and _overlaps(fault, at, at, bounds.slack_s)
    }
    if near & {"cut", "cut_database", "stop", *OF_THE_DATABASE}:
        return float("inf")
    return bounds.fence_cut_s if near & {"cut_bus", *OF_THE_BUS} else bounds.fence_s


def agents_come_back(log: Log, bounds: Bounds) -> list[str]:
    """99 % of the agents are there half a minute after a fault, unless the next one has begun by then."""
    faults, (end,) = _of(log, FaultSeen), _of(log, Ended)
    sessions = [one for several in _sessions(log).values() for one in several]
    wrong = []
    for fault in faults:
        due = fault.ended + bounds.return_s
        if due > end.at or any(_overlaps(other, fault.ended, due) for other in faults if other is not fault):
            continue
        there = len({one.agent for one in sessions if one.began <= due < one.ended})
        if there < 0.99 * end.agents:
            wrong.append(f"{there} of {end.agents} agents are there 30 s after {fault.kind} {fault.target}")
    there = len({one.agent for one in sessions if one.began <= end.at < one.ended})
    if there < 0.99 * end.agents:
        wrong.append(f"{there} of {end.agents} agents are there at the end")
    return wrong


def no_presence_flickers(log: Log, bounds: Bounds) -> list[str]:
    """An agent that is connected to a living replica is never shown offline by a living replica."""
    faults, sessions = _of(log, FaultSeen), _sessions(log)
    slack_s = bounds.slack(log)
    wrong = []
    for view in _of(log, Viewed):
        for agent in view.offline:
            session = _covering(sessions[agent], view.began - bounds.shown_s, view.ended + slack_s)
            if session is not None and not _excused(view, session, faults, bounds, slack_s):
                wrong.append(
                    f"{view.viewer} by {view.replica}: {agent} offline at {view.ended:.1f}, and with "
                    f"{session.replica} as {session.number} since {session.began:.1f}"
                )
    return wrong


def _excused(
    view: Viewed, session: _Session, faults: Iterable[FaultSeen], bounds: Bounds, slack_s: float
) -> bool:
    """Whether a fault lets this replica not know of that session."""
    for fault in faults:
        if fault.target not in (view.replica, session.replica, *SHARED):
            continue
        if not _overlaps(fault, view.began, view.ended, bounds.shown_s + slack_s):
            continue
        if fault.kind not in KEEPS_PRESENCE or session.began + bounds.shown_s > fault.began:
            return True
    return False


def _covering(sessions: Sequence[_Session], began: float, ended: float) -> _Session | None:
    """The session that lasts from before this time to after it."""
    return next((one for one in sessions if one.began <= began and ended <= one.ended), None)


CHECKS: Final[tuple[Callable[[Log, Bounds], list[str]], ...]] = (
    each_accepted_job_has_one_result,
    each_machine_pulls_once,
    each_target_is_accounted_for,
    no_stream_hangs,
    no_token_is_lost_or_doubled,
    each_call_is_answered,
    nothing_fails_without_a_fault,
    nothing_odd_is_answered,
    each_machine_has_one_watch,
    no_call_reaches_an_older_session,
    agents_come_back,
    no_presence_flickers,
)


def problems(log: Log, bounds: Bounds | None = None) -> list[str]:
    """Return what is wrong with a history, and by which check."""
    used = bounds or Bounds()
    return [f"{check.__name__}: {wrong}" for check in CHECKS for wrong in check(log, used)]
