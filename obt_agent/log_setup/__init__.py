"""Where log events go and in what form. Rooms log with ``structlog.get_logger(__name__)``.

An event's name is a stable, dotted word; everything else about it is a keyword.
"""

from obt_agent.log_setup.setup import LogSettings, configure, set_agent_id, set_level

__all__ = ["LogSettings", "configure", "set_agent_id", "set_level"]
