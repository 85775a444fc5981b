"""What the link is told: plain values, all deadlines injectable."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from obt_agent.protocol import limits


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Files in PEM form; None means the system's trust store, and no client certificate.

    ``client_key_file`` may be None when the certificate's file holds the key too.
    """

    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class LinkTimings:
    """Deadlines and intervals, in seconds."""

    resolve_s: float = 15.0
    connect_s: float = 15.0
    proxy_s: float = 15.0
    tls_s: float = 15.0
    upgrade_s: float = 15.0
    hello_s: float = limits.HELLO_WITHIN_S
    alive_s: float = limits.ALIVE_INTERVAL_S
    silence_s: float = limits.SILENCE_S
    stalled_s: float = limits.STALLED_STREAM_S
    tick_s: float = 1.0
    close_s: float = 2.0
    flush_s: float = 5.0
    probe_s: float = 6.0
    route_poll_s: float = 5.0
    bad_frames_s: float = 60.0
    blob_s: float = limits.BLOB_LIFETIME_S


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Where to dial and how.

    ``url`` is ``http(s)://host[:port]`` or the socket's full ``ws(s)://`` address. ``proxy`` is ``env`` (the
    usual variables, ``NO_PROXY`` honoured), ``none``, or a URL (``http``, ``socks5``, ``socks5h``).
    ``allow_insecure`` permits ``ws://`` to other machines.
    """

    url: str
    user_agent: str
    allow_insecure: bool = False
    proxy: str = "env"
    tls: TlsSettings = TlsSettings()
    timings: LinkTimings = field(default_factory=LinkTimings)
    max_frame_bytes: int = limits.MAX_FRAME_BYTES
