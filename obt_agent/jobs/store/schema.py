"""The store's tables. A database keeps its version in ``user_version``; a migration leads to the next one."""

from __future__ import annotations

from typing import Final

# SQL that leads from version n to n + 1.
MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id TEXT NOT NULL UNIQUE,
        kind TEXT,
        state TEXT NOT NULL,
        model TEXT,
        params BLOB NOT NULL,
        fingerprint TEXT,
        not_after REAL,
        accepted_at REAL NOT NULL,
        started_at REAL,
        finished_at REAL,
        starts INTEGER NOT NULL DEFAULT 0,
        reserve_bytes INTEGER NOT NULL DEFAULT 0,
        error TEXT,
        encoding TEXT NOT NULL DEFAULT 'identity',
        bytes INTEGER,
        sha256 TEXT,
        result BLOB,
        acknowledged INTEGER NOT NULL DEFAULT 0,
        acknowledged_at REAL
    );
    CREATE TABLE records (
        job_id TEXT NOT NULL,
        n INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (job_id, n)
    );
    """,
    """
    ALTER TABLE jobs ADD COLUMN conflict INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX jobs_waiting ON jobs (acknowledged, state);
    """,
    """
    ALTER TABLE jobs ADD COLUMN local_since REAL;
    """,
)

VERSION: Final = len(MIGRATIONS)
