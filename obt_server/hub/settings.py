"""The hub's numbers. Durations are seconds."""

from __future__ import annotations

from dataclasses import dataclass

from obt_agent.protocol import limits


@dataclass(frozen=True)
class HubSettings:
    """What a hub promises and tolerates; the defaults are those of the protocol's document.

    Args:
        name: how the server calls itself in ``agent.hello``'s answer.
        version: its version there.
        pins: of the keys that its TLS shows now and will show next, there; none where a proxy does TLS.
        probe_s: how long a live session may stay silent, when probed, before another takes its identity.
        call_timeout_s: how long a plain command may take when the caller names no deadline.
        stream_silence_s: how long a stream may bring nothing; a cold load of a large model takes minutes.
        abandon_s: how long a cancelled request is remembered while its final is awaited.
        max_sessions: most agents admitted at once.
        max_result_bytes: largest result of a command or job that is taken.
        max_held_bytes: most unfinished text of all commands of one session.
        max_waiting_bytes: most bytes that wait in this process, of all sessions: frames to agents, and
            answers until who asked has them. Beyond it new requests are refused as ``busy``.
        max_sync_bytes: most bytes of one list (models, jobs) that an agent sends in pages.
        max_notification_bytes: largest heartbeat, progress or goodbye that is taken.
        control_frames_per_s: frames outside credit that an agent may send; bursts of ten times that.
        dials_per_s: admissions that an agent may ask for; ``dials_at_once`` after a pause.
        drain_within_s: how long a drain waits for agents that read slowly before it drops them.
        drain_retry_s: what ``server.drain`` tells agents to wait.
        drain_dials_per_s: how many agents of a drained server come back in a second: they are told to wait so
            much longer, one after the other. 0: all at the same time.
        seen_interval_s: how often ``last_seen`` of a live agent is stored.
    """

    name: str = "obt-server"
    version: str = ""
    pins: tuple[str, ...] = ()
    hello_within_s: float = limits.HELLO_WITHIN_S
    heartbeat_interval_s: float = limits.HEARTBEAT_INTERVAL_S
    alive_interval_s: float = limits.ALIVE_INTERVAL_S
    silence_s: float = limits.SILENCE_S
    probe_s: float = 5.0
    streams_alive_interval_s: float = limits.STREAMS_ALIVE_INTERVAL_S
    stream_credit_bytes: int = limits.STREAM_CREDIT_BYTES
    link_credit_bytes: int = limits.LINK_CREDIT_BYTES
    max_frame_bytes: int = limits.MAX_FRAME_BYTES
    max_in_flight: int = limits.MAX_IN_FLIGHT
    call_timeout_s: float = 60.0
    stream_silence_s: float = 1200.0
    abandon_s: float = 60.0
    close_timeout_s: float = 5.0
    max_sessions: int = 10_000
    max_result_bytes: int = 64 << 20
    max_held_bytes: int = 128 << 20
    max_waiting_bytes: int = 256 << 20
    max_models: int = 20_000
    max_sync_bytes: int = 8 << 20
    max_notification_bytes: int = 64 << 10
    control_frames_per_s: float = 100.0
    dials_per_s: float = 0.5
    dials_at_once: int = 60
    drain_within_s: float = 5.0
    drain_retry_s: float = 1.0
    drain_dials_per_s: float = 0.0
    start_within_s: float = 3600.0
    seen_interval_s: float = 60.0
