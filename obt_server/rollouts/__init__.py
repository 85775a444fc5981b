"""Rollouts: one action on a model, on many machines, carried through restarts and lost links.

``RolloutEngine`` is the entrance. It asks agents through the hub and stores through ``ServerStorage``; it
knows neither HTTP nor SQL.
"""

from obt_server.rollouts.engine import RolloutEngine
from obt_server.rollouts.settings import RolloutSettings

__all__ = ["RolloutEngine", "RolloutSettings"]
