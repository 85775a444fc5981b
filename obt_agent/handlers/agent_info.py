"""``agent_info``: what this agent is, how it is set (redacted), what it allows, and what it costs."""

from __future__ import annotations

import platform
import time

import msgspec

from obt_agent.command import CommandContext
from obt_agent.handlers.services import Services
from obt_agent.protocol.admission import Empty
from obt_agent.protocol.commands import AgentInfoResult


async def run(services: Services, _params: Empty, _context: CommandContext) -> AgentInfoResult:
    return AgentInfoResult(
        version=services.facts.version,
        python=platform.python_version(),
        uptime_s=time.monotonic() - services.facts.started_mono,
        started_at=services.facts.started_at,
        agent_id=services.facts.agent_id,
        name=services.facts.name,
        config=msgspec.Raw(services.facts.config),
        policy=services.policy.describe(),
        link=services.facts.link(),
        process=services.facts.process(),
    )
