"""The numbers of jobs on machines. Durations are seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MachineJobSettings:
    """How jobs on machines are carried out.

    Args:
        offline_grace_s: how long a machine may be away before one that is to be skipped is left out. A
            restart of the server, or of a link, is no reason to leave a machine out.
        poll_s: how often a job is looked up where no event announces a change.
        start_again_s: after which a start that was not answered is sent again, with the same id.
        busy_retry_s: the shortest and the longest pause before a machine that is busy is asked again.
        busy_tries: how often; then it has failed.
    """

    offline_grace_s: float = 30.0
    poll_s: float = 15.0
    start_again_s: float = 30.0
    busy_retry_s: tuple[float, float] = (2.0, 60.0)
    busy_tries: int = 20
