"""Deadlines and intervals of the link, in one frozen value that tests and the conformance kit shorten."""

from __future__ import annotations

from dataclasses import dataclass

from obt_agent.protocol import limits


@dataclass(frozen=True, slots=True)
class LinkTimings:
    """All in seconds."""

    # Dialling: each step has a deadline of its own, so that the error names the step that hung.
    resolve_s: float = 15.0
    connect_s: float = 15.0
    proxy_s: float = 15.0
    tls_s: float = 15.0
    upgrade_s: float = 15.0
    hello_s: float = limits.HELLO_WITHIN_S

    # A session: what is sent at least this often, what silence proves, what a stream without credit may last.
    alive_s: float = limits.ALIVE_INTERVAL_S
    silence_s: float = limits.SILENCE_S
    stalled_s: float = limits.STALLED_STREAM_S
    bad_frames_s: float = 60.0
    # Of the watchdog. A tick that is later than one of its own length is not held against the server.
    tick_s: float = 1.0

    # Ending: the closing handshake, and what was queued before the goodbye.
    close_s: float = 2.0
    flush_s: float = 5.0

    # After a suspend or a change of the default route: how soon the server must answer a ping.
    probe_s: float = 6.0
    route_poll_s: float = 5.0
