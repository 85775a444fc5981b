"""What messages between the processes of one installation are addressed to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Subjects:
    """The subjects of an installation, so that two may use one NATS.

    Args:
        cluster: the random id that its database holds.
    """

    cluster: str

    @property
    def prefix(self) -> str:
        """What all of them begin with."""
        return f"obt.{self.cluster}"

    def replica(self, replica_id: str, part: str) -> str:
        """One process, and which part of it."""
        return f"{self.prefix}.replica.{replica_id}.{part}"

    def presence(self, replica_id: str) -> str:
        """What a process says of its agents; ``*`` for all."""
        return f"{self.prefix}.presence.{replica_id}"

    def events(self, replica_id: str) -> str:
        """What happens at a process; ``*`` for all."""
        return f"{self.prefix}.events.{replica_id}"

    @property
    def runs(self) -> str:
        """What the leader says of rollouts and campaigns."""
        return f"{self.prefix}.runs"

    @property
    def limits(self) -> str:
        """What counts in all processes."""
        return f"{self.prefix}.limits"
