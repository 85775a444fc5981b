"""How much a run of properties tries: the usual amount, or ``OBT_FUZZ`` times as much (``make fuzz``)."""

from __future__ import annotations

import os

FACTOR = int(os.environ.get("OBT_FUZZ", "1"))
ROLLOUT_AGENTS = int(os.environ.get("OBT_ROLLOUT_AGENTS", "8"))
"""Machines of the rollout during which the server is killed."""
ROLLOUT_RUNS = int(os.environ.get("OBT_ROLLOUT_RUNS", "1"))
"""How many of them, each with a seed of its own from ``OBT_ROLLOUT_SEED``."""
ROLLOUT_SEED = int(os.environ.get("OBT_ROLLOUT_SEED", "1"))
CAMPAIGN_AGENTS = int(os.environ.get("OBT_CAMPAIGN_AGENTS", "4"))
"""Machines of the campaign during which the server is killed; each measures six cells."""
CAMPAIGN_RUNS = int(os.environ.get("OBT_CAMPAIGN_RUNS", "1"))
"""How many of them, each with a seed of its own from ``OBT_CAMPAIGN_SEED``."""
CAMPAIGN_SEED = int(os.environ.get("OBT_CAMPAIGN_SEED", "1"))


def examples(usual: int) -> int:
    """So many examples, in a long run many times that."""
    return usual * FACTOR
