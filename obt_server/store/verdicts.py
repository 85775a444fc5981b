"""Pinned baselines, verdicts and regressions, as functions of an open session."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from obt_server.rollout_storage import model_key
from obt_server.storage import NotStored
from obt_server.store.database import from_row
from obt_server.store.paging import earlier
from obt_server.store.tables import AgentRow, BaselineRow, CampaignRow, RegressionRow, VerdictsRow
from obt_server.verdict_storage import (
    Acknowledgement,
    LineKey,
    PinnedBaseline,
    Regression,
    RegressionFilter,
    Verdict,
)

MAX_REGRESSIONS: Final = 10_000
"""That are kept; the oldest acknowledged ones go first."""


def pin(db: Session, pinned: PinnedBaseline) -> None:
    """See ``VerdictStorage.pin_baseline``. Of a machine that was forgotten meanwhile nothing is pinned."""
    if db.get(AgentRow, pinned.agent_id) is not None:
        db.merge(BaselineRow(**dataclasses.asdict(pinned)))


def unpin(db: Session, key: LineKey) -> None:
    """See ``VerdictStorage.unpin_baseline``."""
    row = db.get(BaselineRow, tuple(key))
    if row is None:
        raise NotStored("No result is pinned for this machine, model and plan.")
    db.delete(row)


def pinned(db: Session) -> list[PinnedBaseline]:
    """See ``VerdictStorage.pinned_baselines``."""
    order = BaselineRow.agent_id, BaselineRow.model, BaselineRow.plan_hash
    return [from_row(PinnedBaseline, row) for row in db.scalars(select(BaselineRow).order_by(*order))]


def save(db: Session, campaign_id: str, at: float, verdicts: Sequence[Verdict]) -> list[int]:
    """See ``VerdictStorage.save_verdicts``."""
    # It may have been deleted while it was compared.
    if db.get(CampaignRow, campaign_id) is None:
        return []
    db.merge(VerdictsRow(campaign_id=campaign_id, content=_packed(verdicts)))
    changed = []
    opened = _open(db)
    for verdict in verdicts:
        row = opened.get(_line(verdict))
        if verdict.verdict == "slower":
            changed.append(_found(db, row, campaign_id, at, verdict))
        # What this campaign alone said, and says no more: one of its results came late, or came anew.
        elif row is not None and row.campaign_id == row.last_campaign_id == campaign_id:
            changed.append(row.id)
            db.delete(row)
        elif row is not None and verdict.back_since is not None and at > row.last_at:
            known = msgspec.json.decode(row.verdict, type=Verdict)
            if known.back_since != verdict.back_since:
                row.verdict = msgspec.json.encode(
                    msgspec.structs.replace(known, back_since=verdict.back_since)
                )
                changed.append(row.id)
    _make_room(db)
    return changed


_Line = tuple[str, str, str, str, int]
"""Machine, model, plan, metric and point."""


def _line(verdict: Verdict) -> _Line:
    place = verdict.point_index
    return verdict.agent_id, model_key(verdict.model), verdict.plan_hash, verdict.metric, place


def _open(db: Session) -> dict[_Line, RegressionRow]:
    """The newest regression of each line that nobody has acknowledged; the point stands in its verdict."""
    query = select(RegressionRow).where(RegressionRow.acknowledged.is_(None)).order_by(RegressionRow.id)
    return {_line(msgspec.json.decode(row.verdict, type=Verdict)): row for row in db.scalars(query)}


def _found(db: Session, row: RegressionRow | None, campaign_id: str, at: float, verdict: Verdict) -> int:
    """Store a verdict that says slower as a regression, or as the newest of one that is open."""
    # It began after the machine had recovered from that one.
    if row is not None and verdict.since is not None and verdict.since.at > row.last_at:
        row = None
    if row is None:
        row = RegressionRow(
            campaign_id=campaign_id,
            at=at,
            last_at=at,
            last_campaign_id=campaign_id,
            agent_id=verdict.agent_id,
            model=model_key(verdict.model),
            plan_hash=verdict.plan_hash,
            metric=verdict.metric,
            verdict=msgspec.json.encode(verdict),
            acknowledged=None,
        )
        db.add(row)
        db.flush()
    # An old campaign that is compared again does not take back what newer ones say.
    elif at >= row.last_at:
        row.last_at, row.last_campaign_id = at, campaign_id
        row.verdict = msgspec.json.encode(verdict)
    return row.id


def _make_room(db: Session) -> None:
    over = (db.scalar(select(func.count()).select_from(RegressionRow)) or 0) - MAX_REGRESSIONS
    if over > 0:
        oldest = select(RegressionRow.id).order_by(RegressionRow.acknowledged.is_(None), RegressionRow.id)
        db.execute(delete(RegressionRow).where(RegressionRow.id.in_(list(db.scalars(oldest.limit(over))))))


def of_campaign(db: Session, campaign_id: str) -> list[Verdict]:
    """See ``VerdictStorage.verdicts``."""
    row = db.get(VerdictsRow, campaign_id)
    return [] if row is None else _unpacked(row.content)


def _packed(verdicts: Sequence[Verdict]) -> bytes:
    """Verdicts as JSON, compressed: those of a campaign differ in figures alone, and many are kept."""
    return zlib.compress(msgspec.json.encode(verdicts), level=1)


def _unpacked(content: bytes) -> list[Verdict]:
    # The first releases stored JSON as it is.
    text = content if content.startswith(b"[") else zlib.decompress(content)
    return msgspec.json.decode(text, type=list[Verdict])


def find(db: Session, which: RegressionFilter) -> list[Regression]:
    """See ``VerdictStorage.regressions``."""
    query = select(RegressionRow)
    if which.state is not None:
        none = RegressionRow.acknowledged.is_(None)
        query = query.where(none if which.state == "open" else ~none)
    if which.agent_id is not None:
        query = query.where(RegressionRow.agent_id == which.agent_id)
    if which.before is not None:
        beyond = None if which.before_id is None else RegressionRow.id < which.before_id
        query = query.where(earlier(RegressionRow.at, which.before, beyond))
    rows = db.scalars(query.order_by(RegressionRow.at.desc(), RegressionRow.id.desc()).limit(which.limit))
    return [_record(row) for row in rows]


def get(db: Session, regression_id: int) -> Regression:
    """See ``VerdictStorage.regression``."""
    return _record(_require(db, regression_id))


def acknowledge(db: Session, regression_id: int, acknowledged: Acknowledgement | None) -> Regression:
    """See ``VerdictStorage.acknowledge``."""
    row = _require(db, regression_id)
    row.acknowledged = None if acknowledged is None else msgspec.json.encode(acknowledged)
    return _record(row)


def _require(db: Session, regression_id: int) -> RegressionRow:
    row = db.get(RegressionRow, regression_id)
    if row is None:
        raise NotStored(f"There is no regression {regression_id}.")
    return row


def _record(row: RegressionRow) -> Regression:
    verdict = msgspec.json.decode(row.verdict, type=Verdict)
    known = row.acknowledged
    return Regression(
        **msgspec.structs.asdict(verdict),
        id=row.id,
        campaign_id=row.campaign_id,
        at=row.at,
        last_at=row.last_at,
        acknowledged=None if known is None else msgspec.json.decode(known, type=Acknowledgement),
    )
