"""The numbers of rollouts. Durations are seconds."""

from __future__ import annotations

from dataclasses import dataclass

from obt_server.machine_jobs.settings import MachineJobSettings


@dataclass(frozen=True)
class RolloutSettings(MachineJobSettings):
    """How rollouts are carried out.

    Args:
        converge_every_s: how often model sets that converge by themselves are compared.
        max_targets: machines of one rollout.
    """

    converge_every_s: float = 60.0
    max_targets: int = 10_000
