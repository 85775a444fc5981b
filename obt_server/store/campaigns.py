"""Campaigns, as functions of an open session."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from obt_server.campaign_storage import (
    CELL_STATES,
    UNMEASURED,
    Campaign,
    CampaignCell,
    CampaignFilter,
    CampaignTotals,
    LateResult,
    TooManyCampaigns,
)
from obt_server.storage import NotStored
from obt_server.store.database import AT_ONCE
from obt_server.store.paging import earlier
from obt_server.store.tables import CampaignCellRow, CampaignRow, JobRow

MAX_CAMPAIGNS: Final = 1_000
MAX_CELLS_KEPT: Final = 200_000
"""Of all campaigns that are kept: some 100 MB. Those that run are kept beyond it."""


def record(row: CampaignRow) -> Campaign:
    """A row as the rest of the server sees it."""
    return msgspec.json.decode(row.content, type=Campaign)


def _columns(campaign: Campaign) -> dict[str, object]:
    return {
        "state": campaign.state,
        "judged": campaign.judged,
        "content": msgspec.json.encode(campaign),
    }


def create(db: Session, campaign: Campaign, cells: Sequence[CampaignCell]) -> Campaign:
    """See ``CampaignStorage.create_campaign``."""
    if campaign.key is not None:
        # In the transaction that stores: of two requests that come together the second finds the first.
        known = db.scalar(select(CampaignRow).where(CampaignRow.key == campaign.key))
        if known is not None:
            return record(known)
    _make_room(db, len(cells))
    fixed = {name: getattr(campaign, name) for name in ("id", "key", "schedule", "created_at")}
    db.add(CampaignRow(**fixed, **_columns(campaign)))
    # Before the cells, which refer to it.
    db.flush()
    _add(db, campaign.id, cells, 0)
    return campaign


def _add(db: Session, campaign_id: str, cells: Sequence[CampaignCell], first: int) -> None:
    db.add_all(
        CampaignCellRow(campaign_id=campaign_id, cell_id=cell.id, position=position, **_cell_columns(cell))
        for position, cell in enumerate(cells, first)
    )


def _cell_columns(cell: CampaignCell) -> dict[str, object]:
    return {
        "agent_id": cell.agent_id,
        "state": cell.state,
        "job_id": cell.job_id,
        "detail": msgspec.json.encode(cell),
    }


def _make_room(db: Session, more_cells: int) -> None:
    """Forget the oldest that have ended, so that with the new one there are no more than are kept."""
    kept = db.scalar(select(func.count()).select_from(CampaignRow)) or 0
    cells = db.scalar(select(func.count()).select_from(CampaignCellRow)) or 0
    counted = select(func.count()).where(CampaignCellRow.campaign_id == CampaignRow.id).scalar_subquery()
    ended = select(CampaignRow.id, counted).where(CampaignRow.state != "running")
    gone: list[str] = []
    for campaign_id, count in db.execute(ended.order_by(CampaignRow.created_at)):
        if kept - len(gone) < MAX_CAMPAIGNS and cells + more_cells <= MAX_CELLS_KEPT:
            break
        gone.append(campaign_id)
        cells -= count
    if kept - len(gone) >= MAX_CAMPAIGNS:
        raise TooManyCampaigns(f"{kept} campaigns run, the most that are kept; cancel some of them first.")
    for start in range(0, len(gone), AT_ONCE):
        db.execute(delete(CampaignRow).where(CampaignRow.id.in_(gone[start : start + AT_ONCE])))


def _require(db: Session, campaign_id: str) -> CampaignRow:
    row = db.get(CampaignRow, campaign_id)
    if row is None:
        raise NotStored(f"There is no campaign {campaign_id[:64]!r}.")
    return row


def get(db: Session, campaign_id: str) -> Campaign:
    """See ``CampaignStorage.campaign``."""
    return record(_require(db, campaign_id))


def cells(db: Session, campaign_id: str) -> list[CampaignCell]:
    """See ``CampaignStorage.campaign_cells``."""
    query = select(CampaignCellRow.detail).where(CampaignCellRow.campaign_id == campaign_id)
    decoder = msgspec.json.Decoder(CampaignCell)
    return [decoder.decode(detail) for detail in db.scalars(query.order_by(CampaignCellRow.position))]


def find(db: Session, which: CampaignFilter) -> list[CampaignTotals]:
    """See ``CampaignStorage.campaigns``."""
    query = select(CampaignRow)
    for column, value in (
        (CampaignRow.state, which.state),
        (CampaignRow.judged, which.judged),
        (CampaignRow.schedule, which.schedule),
    ):
        if value is not None:
            query = query.where(column == value)
    if which.ended is not None:
        running = CampaignRow.state == "running"
        query = query.where(~running if which.ended else running)
    if which.before is not None:
        beyond = None if which.before_id is None else CampaignRow.id < which.before_id
        query = query.where(earlier(CampaignRow.created_at, which.before, beyond))
    # The id decides between those of one moment, so that lists have one order.
    newest = query.order_by(CampaignRow.created_at.desc(), CampaignRow.id.desc())
    rows = list(db.scalars(newest.limit(which.limit)))
    counts = _counts(db, [row.id for row in rows])
    return [
        CampaignTotals(
            campaign=record(row),
            counts={state: counts[row.id].get(state, 0) for state in CELL_STATES},
        )
        for row in rows
    ]


def _counts(db: Session, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """By campaign and state: how many cells."""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    row = CampaignCellRow
    for start in range(0, len(ids), AT_ONCE):
        query = select(row.campaign_id, row.state, func.count()).where(
            row.campaign_id.in_(ids[start : start + AT_ONCE])
        )
        for campaign_id, state, count in db.execute(query.group_by(row.campaign_id, row.state)):
            counts[campaign_id][state] = count
    return counts


def save(db: Session, campaign: Campaign, changed: Sequence[CampaignCell]) -> None:
    """See ``CampaignStorage.save_campaign``."""
    row = _require(db, campaign.id)
    for name, value in _columns(campaign).items():
        setattr(row, name, value)
    new = []
    for cell in changed:
        found = db.get(CampaignCellRow, (campaign.id, cell.id))
        if found is None:
            new.append(cell)
            continue
        for name, value in _cell_columns(cell).items():
            setattr(found, name, value)
    if new:
        last = select(func.max(CampaignCellRow.position)).where(CampaignCellRow.campaign_id == campaign.id)
        _add(db, campaign.id, new, (db.scalar(last) or 0) + 1)


def remove(db: Session, campaign_id: str) -> None:
    """See ``CampaignStorage.delete_campaign``."""
    db.delete(_require(db, campaign_id))


def late_results(db: Session) -> list[LateResult]:
    """See ``CampaignStorage.late_results``."""
    cell = CampaignCellRow
    # By the agent as well: another one's job of that id is no cell's.
    query = (
        select(cell.campaign_id, cell.cell_id, cell.job_id)
        .join(JobRow, (JobRow.agent_id == cell.agent_id) & (JobRow.job_id == cell.job_id))
        .where(cell.state.in_(UNMEASURED), JobRow.sha256.is_not(None), JobRow.state == "completed")
    )
    return [LateResult(**row) for row in db.execute(query).mappings()]
