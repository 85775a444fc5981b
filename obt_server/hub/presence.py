"""What a live session has told of its machine. Replaced as a whole by heartbeats and syncs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from obt_agent.ollama.payloads import OllamaState, RunningModel
from obt_agent.protocol.admission import HeartbeatParams
from obt_agent.protocol.jobs import JobProgressParams


@dataclass
class Presence:
    """One live session, as the outside sees it. Times are Unix seconds."""

    session: int
    instance: str
    version: str
    capabilities: tuple[str, ...]
    connected_at: float
    heartbeat: HeartbeatParams | None = None
    heartbeat_at: float | None = None
    ollama: OllamaState | None = None
    # digests by name: the rest of the list is stored, and would hold megabytes of a long one
    models: Mapping[str, str] | None = None
    models_stale: bool = False
    running: tuple[RunningModel, ...] = ()
    inventory: msgspec.Raw | None = None
    goodbye: str | None = None
    progress: dict[str, JobProgressParams] = field(default_factory=dict)

    def digest_of(self, model: str) -> str | None:
        """The digest that the agent has under that name now (``latest`` where no tag is named)."""
        names = self.models or {}
        return names.get(model) or names.get(f"{model}:latest")
