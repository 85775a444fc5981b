"""A server's database with agents enrolled in it, before the server starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.orm import Session

from obt_server import app as application
from obt_server.storage import Enrolment
from obt_server.store import credentials

_AT_ONCE = 100


async def enrol(database: Path | str, enrolments: Sequence[Enrolment]) -> str:
    """Enrol the agents; return an API token."""
    parts = application.build(application.AppSettings(database=database))
    await parts.operators.set_password("bench", "a password of the benchmark")
    token, _ = await parts.operators.new_token("bench", "bench", None)
    # A hundred at a time: each alone would wait for the disk, and PostgreSQL ends a transaction of 20 s.
    for at in range(0, len(enrolments), _AT_ONCE):
        await parts.database.run(_enrol, enrolments[at : at + _AT_ONCE])
    parts.database.close()
    return token


def _enrol(db: Session, enrolments: Sequence[Enrolment]) -> None:
    for one in enrolments:
        credentials.enrol(db, one, time.time())
