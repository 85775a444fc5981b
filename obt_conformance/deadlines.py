"""How long the kit waits, in seconds. The protocol's times are the defaults."""

from __future__ import annotations

from dataclasses import dataclass

from obt_agent.protocol import limits


@dataclass(frozen=True)
class Deadlines:
    """Times of the protocol, and how patient the kit is.

    Args:
        hello_s: how long a server waits for a hello.
        alive_s: the longest pause between two frames of a side.
        silence_s: how long a side hears nothing before it drops the socket.
        probe_s: how long a live session may stay silent, when probed, before it is replaced.
        stalled_s: how long a stream may wait for credit.
        streams_alive_s: how often a server lists its streams.
        reconnect_s: the longest delay before an ordinary redial.
        job_s: how long a benchmark of eight tokens may take, on a slow machine.
        slack_s: what is added to each time of the protocol before it counts as missed, with an allowance
            for a busy machine (``obt_conformance.lateness``).
        dial_s: how long the upgrade may take.
        answer_s: how long an answer may take.
        quiet_s: how long the kit watches for something that must not come.
        unread_s: without a grant for so long, a stream that nobody reads has stopped.
        restart_s: how long a server may take to be there again.
        check_s: the longest that one check may take altogether.
    """

    hello_s: float = limits.HELLO_WITHIN_S
    alive_s: float = limits.ALIVE_INTERVAL_S
    silence_s: float = limits.SILENCE_S
    probe_s: float = 5.0
    stalled_s: float = limits.STALLED_STREAM_S
    streams_alive_s: float = limits.STREAMS_ALIVE_INTERVAL_S
    reconnect_s: float = limits.RECONNECT_MAX_S
    job_s: float = 60.0
    slack_s: float = 3.0
    dial_s: float = 30.0
    answer_s: float = 30.0
    quiet_s: float = 1.0
    unread_s: float = 3.0
    restart_s: float = 60.0
    check_s: float = 300.0
