"""``agent_info``: what this agent is, how it is set (redacted), what it allows, and what it costs."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.policy import Policy
from obt_agent.protocol.admission import Empty
from obt_agent.protocol.commands import AgentInfoResult, LinkStatistics, ProcessUse


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


def make(facts: AgentFacts, policy: Policy) -> AnyCommand:
    """The command."""

    async def run(_params: Empty, _context: CommandContext) -> AgentInfoResult:
        return AgentInfoResult(
            version=facts.version,
            python=platform.python_version(),
            uptime_s=time.monotonic() - facts.started_mono,
            started_at=facts.started_at,
            agent_id=facts.agent_id,
            name=facts.name,
            config=msgspec.Raw(facts.config),
            policy=msgspec.Raw(msgspec.json.encode(policy.describe())),
            link=facts.link(),
            process=facts.process(),
        )

    return Command(method="agent_info", params=Empty, run=run)
