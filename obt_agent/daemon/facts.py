"""What ``agent_info`` tells of the agent itself: its configuration, without paths, and what it costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from obt_agent.config.schema import Config
from obt_agent.handlers.services import AgentFacts
from obt_agent.hardware.host.psutil_reader import own_use
from obt_agent.identity.state_dir import StateDir
from obt_agent.protocol.commands import LinkStatistics, ProcessUse
from obt_agent.version import full_version

_HIDDEN: Final = {"server": None, "agent": ("state_dir",), "ollama": ("url",)}
"""What a server has no need to know: None stands for the whole section."""


def shown_config(config: Config) -> bytes:
    """The configuration as JSON, without what tells of this machine's files and network."""
    sections: dict[str, Any] = msgspec.to_builtins(config)
    for section, keys in _HIDDEN.items():
        if keys is None:
            del sections[section]
        else:
            sections[section] = {key: value for key, value in sections[section].items() if key not in keys}
    return msgspec.json.encode(sections)


def process_use() -> ProcessUse:
    """Return what this process costs: CPU seconds since the start, resident bytes, threads."""
    use = own_use()
    return ProcessUse(cpu_s=use.cpu_s, rss_bytes=use.rss_bytes, threads=threading.active_count())


def agent_facts(config: Config, state: StateDir, link: Callable[[], LinkStatistics]) -> AgentFacts:
    """The facts; made once, at the start."""
    return AgentFacts(
        version=full_version(),
        agent_id=state.agent_id,
        name=config.agent.name,
        config=shown_config(config),
        started_at=time.time(),
        started_mono=time.monotonic(),
        link=link,
        process=process_use,
    )
