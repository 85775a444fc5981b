"""Campaigns: plans on models on many machines, carried through restarts and lost links, and what they show.

``CampaignEngine`` is the entrance. It asks agents through the hub, pulls through rollouts and stores through
``ServerStorage``; it knows neither HTTP nor SQL.
"""

from obt_server.campaigns.engine import CampaignEngine
from obt_server.campaigns.settings import CampaignSettings

__all__ = ["CampaignEngine", "CampaignSettings"]
