"""News of rollouts and campaigns as events: what begins a stream of them, and what changes."""

from __future__ import annotations

from typing import Literal

import msgspec

from obt_server.engines import EngineTerms
from obt_server.hub import Hub
from obt_server.hub.events import CampaignChanged, RolloutChanged
from obt_server.rest import campaign_views, rollout_views
from obt_server.rest.sse import event

RunKind = Literal["rollout", "campaign"]


class RunEvent(msgspec.Struct, frozen=True, array_like=True):
    """A change of one of them: ``text`` for those who saw the event before, ``whole`` for who comes new.

    ``whole`` has no targets and no cells, which may be thousands: who shows a rollout reads it by itself. It
    is None of one that does not run any more.
    """

    kind: RunKind
    id: str
    text: bytes
    whole: bytes | None


class RunNews:
    """What the engines of this process have to say. Whatever is new of a run is said once.

    Args:
        hub: how far live jobs are.
        engines: those that run.
    """

    def __init__(self, hub: Hub, engines: EngineTerms) -> None:
        self._hub = hub
        self._engines = engines

    def running(self) -> list[RunEvent]:
        """Return all that run, as who comes new gets them."""
        hub, now = self._hub, self._engines.now
        rollouts = (rollout_views.news(hub, *one, ()) for one in now.rollouts.running())
        campaigns = (campaign_views.news(hub, *one, ()) for one in now.campaigns.running())
        return [*map(_rollout_event, rollouts), *map(_campaign_event, campaigns)]

    def of(self, change: RolloutChanged | CampaignChanged) -> RunEvent | None:
        """Return what is new of one; None where that was said before."""
        if isinstance(change, RolloutChanged):
            return self._rollout(change.rollout_id)
        return self._campaign(change.campaign_id)

    def _rollout(self, rollout_id: str) -> RunEvent | None:
        try:
            news = self._engines.now.rollouts.take_news(rollout_id)
        # It was in an event before, or ended long ago, when nobody was there.
        except KeyError:
            return None
        if news is None:
            return _gone("rollout", rollout_id)
        shown = rollout_views.news(self._hub, news.rollout, news.targets, news.changed)
        return _rollout_event(shown)

    def _campaign(self, campaign_id: str) -> RunEvent | None:
        try:
            news = self._engines.now.campaigns.take_news(campaign_id)
        except KeyError:
            return None
        if news is None:
            return _gone("campaign", campaign_id)
        shown = campaign_views.news(self._hub, news.campaign, news.cells, news.changed)
        return _campaign_event(shown)


def _rollout_event(shown: rollout_views.RolloutEvent) -> RunEvent:
    whole = msgspec.structs.replace(shown, targets=[]) if shown.state == "running" else None
    return _run_event("rollout", shown.id, shown, whole)


def _campaign_event(shown: campaign_views.CampaignEvent) -> RunEvent:
    whole = msgspec.structs.replace(shown, changed=[]) if shown.state == "running" else None
    return _run_event("campaign", shown.id, shown, whole)


def _run_event(kind: RunKind, run_id: str, shown: msgspec.Struct, whole: msgspec.Struct | None) -> RunEvent:
    return RunEvent(kind, run_id, event(kind, shown), None if whole is None else event(kind, whole))


def _gone(kind: RunKind, run_id: str) -> RunEvent:
    return RunEvent(kind, run_id, event(f"{kind}_gone", {"id": run_id}), None)
