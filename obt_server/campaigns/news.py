"""What is said of a campaign when it changes."""

from __future__ import annotations

from dataclasses import dataclass

from obt_agent.errors import AgentError
from obt_server.campaign_storage import Campaign, CampaignCell
from obt_server.campaigns.run import CampaignRun


@dataclass(frozen=True)
class CampaignNews:
    """A campaign with all its cells, and those of them that changed."""

    campaign: Campaign
    cells: list[CampaignCell]
    changed: list[CampaignCell]


class CampaignOpen(AgentError):
    """The campaign has not ended."""

    kind = "campaign_open"


def news_of(run: CampaignRun) -> CampaignNews:
    """Return what is new of a campaign since the last call."""
    return CampaignNews(run.campaign, list(run.cells.values()), run.cells.take_changed())
