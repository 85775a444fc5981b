"""What a live session has reported of its machine. Replaced as a whole by heartbeats and syncs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from obt_agent.hardware.inventory import Inventory
from obt_agent.ollama.payloads import OllamaState, RunningModel
from obt_agent.protocol.admission import HeartbeatParams
from obt_agent.protocol.jobs import JobProgressParams


class GpuTitle(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of machines shows of a GPU beside the heartbeat's figures; ``id`` is the same there."""

    id: str
    name: str
    memory_total_bytes: int | None


def gpu_titles(inventory: Inventory) -> tuple[GpuTitle, ...]:
    """Return them in the inventory's order; memory is the pool that models live in."""
    return tuple(
        GpuTitle(
            id=gpu.id,
            name=gpu.name or gpu.vendor,
            # Of a GPU in a processor the system's memory, in which it works.
            memory_total_bytes=gpu.memory.total_bytes or gpu.memory.shared_total_bytes,
        )
        for gpu in inventory.gpus
    )


@dataclass
class Presence:
    """One live session, as the outside sees it. Times are Unix seconds."""

    session: int
    instance: str
    version: str
    capabilities: tuple[str, ...]
    # None where only the database knows of the session
    connected_at: float | None
    heartbeat: HeartbeatParams | None = None
    heartbeat_at: float | None = None
    ollama: OllamaState | None = None
    # digests by name: the rest of the list is stored, and would hold megabytes of a long one
    models: Mapping[str, str] | None = None
    models_stale: bool = False
    running: tuple[RunningModel, ...] = ()
    # as the agent sent it: JSON text
    inventory: bytes | None = None
    # when it was stored: what is kept of another process's agent, in the inventory's place
    inventory_at: float | None = None
    # of the inventory, for lists
    gpus: tuple[GpuTitle, ...] = ()
    goodbye: str | None = None
    progress: dict[str, JobProgressParams] = field(default_factory=dict)

    def digest_of(self, model: str) -> str | None:
        """The digest that the agent has under that name now (``latest`` where no tag is named)."""
        names = self.models or {}
        return names.get(model) or names.get(f"{model}:latest")
