"""Deadlines of both sides: short ones for a run in minutes, and the protocol's own."""

from __future__ import annotations

from dataclasses import dataclass

from obt_agent.backoff import BackoffSettings
from obt_agent.link.timings import LinkTimings
from obt_server.hub import HubSettings


@dataclass(frozen=True)
class Timing:
    """Numbers of agent and server, in seconds.

    ``margin_s`` is what the contract adds to the silence that it allows (noticed within 20 s at 18 s).
    ``patience_s`` bounds every wait of a cell; nothing that passes comes near.
    """

    timings: LinkTimings
    backoff: BackoffSettings
    hub: HubSettings
    margin_s: float
    patience_s: float

    @property
    def notice_s(self) -> float:
        """The longest time from a fault to its notice."""
        return self.timings.silence_s + self.margin_s

    @property
    def dial_s(self) -> float:
        """The longest time that one dial can take, with the delay before it."""
        timings = self.timings
        most = max(timings.connect_s + timings.tls_s + timings.upgrade_s, timings.hello_s)
        return self.backoff.maximum_s + most + self.margin_s

    @property
    def return_s(self) -> float:
        """The longest time from the fault's end to the next admission: a dial under way, a delay, a dial."""
        delay_s = max(self.backoff.maximum_s, 1.5 * self.backoff.floor_maximum_s)
        return 2 * self.dial_s + max(delay_s, self.backoff.refused_maximum_s)


SILENCE_S = 2.0

SHORT = Timing(
    timings=LinkTimings(
        resolve_s=2,
        connect_s=2,
        proxy_s=2,
        tls_s=2,
        upgrade_s=2,
        hello_s=2,
        alive_s=0.4,
        silence_s=SILENCE_S,
        stalled_s=10,
        tick_s=0.05,
        close_s=0.5,
        flush_s=1,
        probe_s=1,
    ),
    backoff=BackoffSettings(
        minimum_s=0.02, maximum_s=0.2, reset_after_s=1, floor_maximum_s=1, refused_maximum_s=0.3
    ),
    hub=HubSettings(
        hello_within_s=2, alive_interval_s=0.4, silence_s=SILENCE_S, probe_s=1, close_timeout_s=1
    ),
    margin_s=2.0,
    patience_s=40.0,
)
REAL = Timing(
    timings=LinkTimings(),
    backoff=BackoffSettings(),
    hub=HubSettings(),
    margin_s=2.0,
    patience_s=400.0,
)
