"""What a database did since it was opened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DatabaseCounters:
    """Transactions since a database was opened.

    ``undone`` are those that raised, a refusal for instance; ``waiting`` is how many wait or run now.
    """

    reads: int = 0
    writes: int = 0
    read_seconds: float = 0.0
    write_seconds: float = 0.0
    undone: int = 0
    waiting: int = 0
