"""The numbers of rollouts. Durations are seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RolloutSettings:
    """How rollouts are carried out.

    Args:
        offline_grace_s: how long a machine may be away before ``offline: skip`` leaves it out. A restart of
            the server, or of a link, is no reason to leave a machine out.
        poll_s: how often a job is looked up where no event announces a change.
        start_again_s: after which a start that was not answered is sent again, with the same id.
        busy_retry_s: the shortest and the longest pause before a machine that is busy is asked again.
        busy_tries: how often; then the target has failed.
        converge_every_s: how often model sets that converge by themselves are compared.
        max_targets: machines of one rollout.
    """

    offline_grace_s: float = 30.0
    poll_s: float = 15.0
    start_again_s: float = 30.0
    busy_retry_s: tuple[float, float] = (2.0, 60.0)
    busy_tries: int = 20
    converge_every_s: float = 60.0
    max_targets: int = 10_000
