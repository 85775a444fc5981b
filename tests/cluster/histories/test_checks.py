"""Each check of the histories turns red on a log that is bad, and on no good one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.cluster.histories import checks, journal
from tests.cluster.histories.checks import CHECKS, Bounds, problems
from tests.cluster.histories.journal import (
    Accepted,
    Admitted,
    Called,
    Ended,
    Entry,
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

BOUNDS = Bounds(slack_s=1.0)
END = Ended(at=200.0, agents=2, lag_s=0.0)
HERE: Log = [Admitted("a", 1, "r0", 0.0), Admitted("b", 1, "r1", 0.0)]
CALL = Called("a", 100.0, 101.0, "r1", "complete", 1)
STREAM = Streamed(
    agent="a",
    began=100.0,
    opened=100.5,
    ended=110.0,
    replica="r1",
    outcome="complete",
    tokens=10,
    expected=10,
    silence_s=1.0,
    silent_from=105.0,
    session=1,
)
SEEN = Viewed("v", "r1", 100.0, 100.1, ())


def fault(kind: str = "kill", target: str = "r0", began: float = 90.0, ended: float = 95.0) -> FaultSeen:
    return FaultSeen(kind, target, began, ended)


def changed(entry: Entry, **fields: object) -> Entry:
    return msgspec.structs.replace(entry, **fields)


GOOD: Log = [
    *HERE,
    *(CALL, STREAM, SEEN, Accepted("a", "j", 100.0), Started("a", "j", "benchmark", "m", 100.0)),
    *(Stored("a", "j", accepted=True), Started("b", "p", "pull", "m", 100.0)),
    *(Target("rollout x", "b", "done", None, "m"), Target("campaign x", "a", "done", None, "m", "j"), END),
]


def test_a_good_history_has_no_problems_whatever_faults_it_had() -> None:
    assert problems(GOOD, BOUNDS) == []
    for kind, target in (("kill", "r0"), ("bus_cut", "bus"), ("database_crash", "database"), ("stop", "r2")):
        assert problems([fault(kind, target), *GOOD], BOUNDS) == []


BAD: dict[str, tuple[Callable[[Log, Bounds], list[str]], Log]] = {
    "a job without a result": (
        checks.each_accepted_job_has_one_result,
        [*HERE, Accepted("a", "j", 1.0), Started("a", "j", "benchmark", "m", 1.0), END],
    ),
    "a job with two results": (
        checks.each_accepted_job_has_one_result,
        [Accepted("a", "j", 1.0), Stored("a", "j", accepted=True), Stored("a", "j", accepted=True), END],
    ),
    "a result that was set aside": (
        checks.each_accepted_job_has_one_result,
        [Accepted("a", "j", 1.0), Stored("a", "j", accepted=True), Stored("a", "j", accepted=False), END],
    ),
    "a job that a machine began twice": (
        checks.each_accepted_job_has_one_result,
        [*[Started("a", "j", "benchmark", "m", 1.0)] * 2, END],
    ),
    "a model that was pulled by two jobs": (
        checks.each_machine_pulls_once,
        [Started("a", "p", "pull", "m", 1.0), Started("a", "q", "pull", "m", 2.0), END],
    ),
    "a machine that is done and pulled nothing": (
        checks.each_machine_pulls_once,
        [Target("rollout x", "a", "done", None, "m"), END],
    ),
    "a rollout that did not end": (
        checks.each_target_is_accounted_for,
        [changed(END, running=("rollout",))],
    ),
    "a target that is left over": (
        checks.each_target_is_accounted_for,
        [Target("rollout x", "a", "running", None, "m"), END],
    ),
    "a target that failed": (
        checks.each_target_is_accounted_for,
        [Target("rollout x", "a", "failed", "lost", "m"), END],
    ),
    "a cell that is done without a result": (
        checks.each_target_is_accounted_for,
        [Target("campaign x", "a", "done", None, "m", "j"), END],
    ),
    "a stream that hangs": (checks.no_stream_hangs, [changed(STREAM, silence_s=6.1), END]),
    "a stream that does not open": (
        checks.no_stream_hangs,
        [changed(STREAM, opened=0.0, ended=106.1, silence_s=0.0, outcome="closed"), END],
    ),
    "a stream that does not open while a replica is down": (
        checks.no_stream_hangs,
        [fault("stop", "r1", 99.0, 120.0), changed(STREAM, opened=106.1, outcome="closed"), END],
    ),
    "a token that is missing": (
        checks.no_token_is_lost_or_doubled,
        [changed(STREAM, wrong="token 4 came where 3 was due"), END],
    ),
    "a complete stream that is short": (checks.no_token_is_lost_or_doubled, [changed(STREAM, tokens=9), END]),
    "a call that takes too long": (checks.each_call_is_answered, [changed(CALL, ended=106.1), END]),
    "a call that takes too long while the database is away": (
        checks.each_call_is_answered,
        [fault("database_cut", "database", 99.0, 120.0), changed(CALL, ended=126.1), END],
    ),
    "a call that fails": (
        checks.nothing_fails_without_a_fault,
        [*HERE, changed(CALL, outcome="agent_offline", session=0), END],
    ),
    "a stream that fails long after a fault": (
        checks.nothing_fails_without_a_fault,
        [*HERE, fault("kill", "r2", 80.0, 84.9), changed(STREAM, outcome="link_lost"), END],
    ),
    "an answer that no client expects": (checks.nothing_odd_is_answered, [Odd(1.0, "404"), END]),
    "an answer that only a fault of the server gives": (
        checks.nothing_odd_is_answered,
        [fault(), changed(CALL, outcome="HTTP 500", session=0), END],
    ),
    "a machine that is watched twice at a time": (
        checks.each_machine_has_one_watch,
        [Watched("a", 1, 100.0, 110.0), Watched("a", 1, 105.0, 107.0), Watched("b", 1, 105.0, 107.0), END],
    ),
    "a call that reaches the session before": (
        checks.no_call_reaches_an_older_session,
        [*HERE, Admitted("a", 2, "r2", 98.0), CALL, END],
    ),
    "a stream of the session before": (
        checks.no_call_reaches_an_older_session,
        [*HERE, Admitted("a", 2, "r2", 98.0), STREAM, END],
    ),
    "a call that reaches it by a replica without the bus, late": (
        checks.no_call_reaches_an_older_session,
        [*HERE, fault("cut_bus", "r1", 90.0, 120.0), Admitted("a", 2, "r2", 95.0), CALL, END],
    ),
    "an agent that does not come back": (
        checks.agents_come_back,
        [*HERE, fault("kill", "r0", 90.0, 95.0), Left("a", 1, 90.0), Admitted("a", 2, "r1", 126.0), END],
    ),
    "an agent that is away at the end": (checks.agents_come_back, [*HERE, Left("a", 1, 190.0), END]),
    "an agent that is shown offline": (
        checks.no_presence_flickers,
        [*HERE, changed(SEEN, offline=("a",)), END],
    ),
    "one shown offline because a third replica died": (
        checks.no_presence_flickers,
        [*HERE, fault("kill", "r2", 99.0, 110.0), changed(SEEN, offline=("a",)), END],
    ),
    "one shown offline because the bus is away": (
        checks.no_presence_flickers,
        [*HERE, fault("bus_kill", "bus", 99.0, 110.0), changed(SEEN, offline=("a",)), END],
    ),
    "one shown offline long after its replica was cut off": (
        checks.no_presence_flickers,
        [*HERE, fault("cut", "r0", 80.0, 90.0), changed(SEEN, offline=("a",)), END],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_each_check_turns_red_on_its_bad_log_and_no_other_does(name: str) -> None:
    check, log = BAD[name]
    assert len(check(log, BOUNDS)) == 1
    assert check(GOOD, BOUNDS) == []


def test_each_check_has_a_bad_log() -> None:
    assert {check for check, _ in BAD.values()} == set(CHECKS)


@pytest.mark.parametrize(
    ("check", "log"),
    [
        # its own bound, and what a fault excuses
        (checks.no_stream_hangs, [changed(STREAM, silence_s=5.9), END]),
        (checks.no_stream_hangs, [changed(STREAM, silence_s=8.0), changed(END, lag_s=2.0)]),
        (checks.no_stream_hangs, [changed(STREAM, silence_s=8.0), changed(END, proxy_late_s=3.0)]),
        (
            checks.each_call_is_answered,
            [fault("database_cut", "database", 99.0, 120.0), changed(CALL, ended=120.0), END],
        ),
        (
            checks.nothing_fails_without_a_fault,
            [*HERE, fault("kill", "r2", 90.0, 95.0), changed(CALL, outcome="link_lost", session=0), END],
        ),
        (
            checks.nothing_fails_without_a_fault,
            [*HERE, Left("a", 1, 100.5), changed(CALL, outcome="link_lost", session=0), END],
        ),
        (
            checks.each_machine_has_one_watch,
            [Watched("a", 1, 100.0, 105.5), Watched("a", 1, 105.0, 107.0), END],
        ),
        (
            checks.each_machine_has_one_watch,
            [fault(), Watched("a", 1, 100.0, 110.0), Watched("a", 1, 105.0, 107.0), END],
        ),
        (checks.no_call_reaches_an_older_session, [*HERE, Admitted("a", 2, "r2", 99.5), CALL, END]),
        (
            checks.no_call_reaches_an_older_session,
            [*HERE, fault("cut", "r1", 90.0, 120.0), Admitted("a", 2, "r2", 95.0), CALL, END],
        ),
        (
            checks.agents_come_back,
            [*HERE, fault("kill", "r0", 90.0, 95.0), Left("a", 1, 90.0), Admitted("a", 2, "r1", 124.0), END],
        ),
        (
            checks.no_presence_flickers,
            [*HERE, fault("kill", "r0", 99.0, 110.0), changed(SEEN, offline=("a",)), END],
        ),
        (
            checks.no_presence_flickers,
            [*HERE, fault("kill", "r1", 97.0, 99.0), changed(SEEN, offline=("a",)), END],
        ),
        (
            checks.no_presence_flickers,
            [
                Admitted("a", 1, "r0", 95.0),
                *(fault("bus_kill", "bus", 96.0, 110.0), changed(SEEN, offline=("a",)), END),
            ],
        ),
    ],
)
def test_what_a_fault_excuses_is_no_problem(check: Callable[[Log, Bounds], list[str]], log: Log) -> None:
    assert check(log, BOUNDS) == []


def test_a_log_that_was_kept_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal.write(GOOD, path)
    assert journal.read(path) == GOOD
