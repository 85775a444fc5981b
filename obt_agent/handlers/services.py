"""What handlers work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from obt_agent.hardware.service import HardwareService
from obt_agent.jobs import GenerationGate, JobService
from obt_agent.ollama.catalog import Catalog
from obt_agent.ollama.client import OllamaClient
from obt_agent.policy import Policy
from obt_agent.policy.gate import ModelGate
from obt_agent.protocol.commands import LinkStatistics, ProcessUse


@dataclass(frozen=True)
class AgentFacts:
    """What only the composition knows of the agent.

    ``config`` is the configuration as a JSON object, redacted. ``started_at`` is Unix seconds,
    ``started_mono`` the same moment on the monotonic clock.
    """

    version: str
    agent_id: str
    name: str
    config: bytes
    started_at: float
    started_mono: float
    link: Callable[[], LinkStatistics]
    process: Callable[[], ProcessUse]


@dataclass(frozen=True)
class Services:
    """What handlers are given."""

    ollama: OllamaClient
    catalog: Catalog
    hardware: HardwareService
    policy: Policy
    jobs: JobService
    generation_gate: GenerationGate
    facts: AgentFacts

    @property
    def gate(self) -> ModelGate:
        """Admits models by name."""
        return ModelGate(self.policy, self.catalog)
