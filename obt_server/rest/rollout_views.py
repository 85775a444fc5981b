"""Rollouts as the interface shows them: what is stored, with the progress of live sessions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from obt_agent.protocol.errors import WireError
from obt_server.hub import Hub
from obt_server.rollout_storage import (
    TARGET_STATES,
    CreateSpec,
    Rollout,
    RolloutAction,
    RolloutState,
    RolloutTarget,
    RolloutTotals,
    TargetState,
    WaitingFor,
)
from obt_server.storage import MOST_REPORTED


class TargetCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many targets are in each state."""

    waiting: int = 0
    starting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    refused: int = 0
    cancelled: int = 0
    skipped: int = 0


class TargetView(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout on one machine.

    ``waiting_for`` says why it waits, ``reason`` the same, or why it ended so, in words. ``remedy`` is the
    line of the owner's configuration that would allow it; ``policy_key`` the one that forbids it.
    ``retry_helps``: whether the same may succeed later. Times are Unix seconds.
    """

    agent_id: str
    agent_name: str
    state: TargetState
    attempt: int
    job_id: str | None
    waiting_for: WaitingFor | None
    reason: str | None
    error: WireError | None
    policy_key: str | None
    remedy: str | None
    retry_helps: bool | None
    cancelling: bool
    digest_before: str | None
    digest_after: str | None
    completed_bytes: int | None
    total_bytes: int | None
    bytes_per_second: float | None
    remaining_s: float | None
    freed_bytes: int | None
    started_at: float | None
    finished_at: float | None


class RolloutSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout with its targets counted. ``done``: every target has ended, well or not: see ``counts``.

    ``model_set`` is the set that wanted it, if one did.
    """

    id: str
    action: RolloutAction
    model: str
    destination: str | None
    digest: str | None
    model_set: str | None
    state: RolloutState
    created_at: float
    created_by: str
    finished_at: float | None
    parallelism: int
    offline: Literal["skip", "wait"]
    until: float | None
    counts: TargetCounts
    completed_bytes: int | None
    total_bytes: int | None


class RolloutView(RolloutSummary, frozen=True, kw_only=True):
    """A rollout with its targets, in their order, and what a creation is made from."""

    create: CreateSpec | None
    targets: list[TargetView]


class RolloutEvent(RolloutSummary, frozen=True, kw_only=True):
    """A rollout as it is, with those of its targets that changed since the event before."""

    targets: list[TargetView]


def target_view(hub: Hub, target: RolloutTarget) -> TargetView:
    """Return a target as it is now: while its job runs, bytes and speed are the live session's."""
    presence = hub.presence(target.agent_id)
    said = None
    if target.begun and target.job_id is not None and presence is not None:
        said = presence.progress.get(target.job_id)
    progress = None if said is None else said.progress
    live = progress is not None and progress.total_bytes is not None
    return TargetView(
        **{
            name: getattr(target, name)
            for name in TargetView.__struct_fields__
            if name not in ("completed_bytes", "total_bytes", "bytes_per_second", "remaining_s")
        },
        completed_bytes=progress.completed_bytes if progress and live else target.completed_bytes,
        total_bytes=progress.total_bytes if progress and live else target.total_bytes,
        bytes_per_second=getattr(progress, "bytes_per_second", None),
        remaining_s=None if progress is None else progress.remaining_s,
    )


def summary(totals: RolloutTotals) -> RolloutSummary:
    """Return a rollout of a list, as it is stored."""
    return RolloutSummary(
        **_fields(totals.rollout, totals.counts, totals.completed_bytes, totals.total_bytes)
    )


def view(hub: Hub, rollout: Rollout, targets: Sequence[RolloutTarget]) -> RolloutView:
    """Return a rollout with all its targets."""
    shown = [target_view(hub, target) for target in targets]
    return RolloutView(**_live_fields(rollout, shown), create=rollout.create, targets=shown)


def news(
    hub: Hub, rollout: Rollout, targets: Sequence[RolloutTarget], changed: Iterable[RolloutTarget]
) -> RolloutEvent:
    """Return a rollout with the targets that changed."""
    named = {target.agent_id for target in changed}
    shown = [target_view(hub, target) for target in targets]
    return RolloutEvent(
        **_live_fields(rollout, shown), targets=[one for one in shown if one.agent_id in named]
    )


def live_summary(hub: Hub, rollout: Rollout, targets: Sequence[RolloutTarget]) -> RolloutSummary:
    """Return a running rollout, with the bytes of the live sessions."""
    return RolloutSummary(**_live_fields(rollout, [target_view(hub, target) for target in targets]))


def _live_fields(rollout: Rollout, shown: Sequence[TargetView]) -> dict[str, Any]:
    counts: dict[str, int] = dict.fromkeys(TARGET_STATES, 0)
    for target in shown:
        counts[target.state] += 1
    completed = _sum(target.completed_bytes for target in shown)
    return _fields(rollout, counts, completed, _sum(target.total_bytes for target in shown))


def _fields(
    rollout: Rollout, counts: Mapping[str, int], completed: int | None, total: int | None
) -> dict[str, Any]:
    own = {
        name: getattr(rollout, name)
        for name in RolloutSummary.__struct_fields__
        if name not in ("counts", "completed_bytes", "total_bytes")
    }
    return own | {"counts": TargetCounts(**counts), "completed_bytes": completed, "total_bytes": total}


def _sum(values: Iterable[int | None]) -> int | None:
    # Live progress is a machine's own word.
    known = [value for value in values if value is not None and 0 <= value <= MOST_REPORTED]
    return sum(known) if known else None
