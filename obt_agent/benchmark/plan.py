"""What to run. A superset of OBT's ``BenchmarkConfig``."""
from __future__ import annotations

import msgspec


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One benchmark."""

    model_name: str
