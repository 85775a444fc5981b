"""How much a run of properties tries: the usual amount, or ``OBT_FUZZ`` times as much (``make fuzz``)."""

from __future__ import annotations

import os

FACTOR = int(os.environ.get("OBT_FUZZ", "1"))


def examples(usual: int) -> int:
    """So many examples, in a long run many times that."""
    return usual * FACTOR
