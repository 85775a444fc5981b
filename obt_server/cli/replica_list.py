"""Which servers share a database, as it says: for ``obt-server status``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from obt_server.replica_storage import ReplicaSeen
from obt_server.replicas.beat_record import ALIVE_S
from obt_server.store import postgresql, replicas
from obt_server.store.address import parse
from obt_server.store.schema import version_of
from obt_server.store.tables import SCHEMA_VERSION


def replicas_at(address: str) -> Sequence[ReplicaSeen]:
    """Return the replicas on a database, those of the last hour; none on SQLite, where one server is alone.

    Raises:
        ConfigError: it is no address.
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    where = parse(address)
    if isinstance(where, Path):
        return ()
    engine = postgresql.postgresql_engine(where)
    try:
        return postgresql.answered(_read, engine)
    finally:
        engine.dispose()


def _read(engine: Engine) -> Sequence[ReplicaSeen]:
    with engine.connect() as connection:
        # Nothing is made, nor brought up to date, by who only looks.
        if version_of(connection) != SCHEMA_VERSION:
            return ()
        with Session(connection) as session:
            return replicas.replicas(session)


def as_json(one: ReplicaSeen) -> dict[str, Any]:
    """Return what ``--json`` says of one."""
    return {
        "id": one.id,
        "running": one.age_s < ALIVE_S,
        "age_s": round(one.age_s, 1),
        "epoch": one.epoch,
        **msgspec.structs.asdict(one.state),
    }


def as_line(one: ReplicaSeen) -> str:
    """Return it for a person."""
    name = f"{one.id[:8]} at {one.state.host or '?'} ({one.state.version or '?'})"
    if one.age_s >= ALIVE_S:
        return f"{name}: gone, last heard {one.age_s:.0f} s ago"
    leads = f"leads, epoch {one.epoch}; " if one.epoch is not None else ""
    bus = "connected to NATS" if one.state.bus_connected else "NOT connected to NATS"
    return f"{name}: {leads}{bus}, {one.state.exchanges} open exchanges"
