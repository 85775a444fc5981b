"""Inventory and sample. Null is "not known"; ``unavailable`` says why, field by field."""
from __future__ import annotations

import msgspec


class Inventory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the machine is."""

    fingerprint: str
    collected_at: float


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the machine does."""

    t_wall: float
    t_mono_ns: int
