"""Benchmark plans by name: presets and saved ones with their versions, and the hash of what one measures."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from obt_agent.benchmark.plan import Plan, plan_hash
from obt_agent.benchmark.presets import PRESETS
from obt_agent.errors import InvalidParams
from obt_agent.protocol import codec
from obt_server.storage import NotStored, SavedPlan, ServerStorage

ANY_MODEL: Final = "model"
"""Stands in for the model of a saved plan, which has none: the hash leaves the model out."""
MAX_PLAN_BYTES: Final = 256 << 10


def read_plan(fields: Mapping[str, Any]) -> Plan:
    """Return a whole plan. Raises InvalidParams for what is none."""
    return codec.convert(msgspec.Raw(msgspec.json.encode(fields)), Plan, where="plan")


def without_model(fields: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return a plan's fields without its model as JSON, and the hash of what it measures.

    Raises:
        InvalidParams: it is no plan, or too large.
    """
    kept = {key: value for key, value in fields.items() if key != "model_name"}
    # Checked before it is kept: a plan that cannot run would fail on the machine, days later.
    hashed = plan_hash(read_plan({**kept, "model_name": ANY_MODEL}))
    text = msgspec.json.encode(kept)
    if len(text) > MAX_PLAN_BYTES:
        raise InvalidParams(f"plan: it has more than {MAX_PLAN_BYTES} bytes.", field="plan")
    return text, hashed


@functools.lru_cache(maxsize=256)
def hash_of(fields: bytes) -> str | None:
    """The hash of a saved plan; None where this release cannot read it."""
    # Kept: every list of results names its plans, and a hash takes as long as sorting some thousand of them.
    try:
        # A newer release may have saved it, with fields that this one refuses: it stays in the list without a
        # hash.
        return plan_hash(
            read_plan({**msgspec.json.decode(fields, type=dict[str, Any]), "model_name": ANY_MODEL})
        )
    except InvalidParams:
        return None


class NamedPlans:
    """The presets and the saved plans.

    Args:
        storage: where saved plans are.
    """

    def __init__(self, storage: ServerStorage) -> None:
        self._storage = storage

    async def all(self) -> list[SavedPlan]:
        """Presets first, then the newest version of each saved plan, which never has a preset's name."""
        return [*map(_preset, PRESETS), *await self._storage.plans()]

    async def by_hash(self) -> dict[str, str]:
        """Names by the plans' hashes; where two have one hash, the first."""
        names: dict[str, str] = {}
        for one in await self.all():
            hashed = hash_of(one.plan)
            if hashed is not None:
                # Presets come first, so that a saved copy of one does not rename its results.
                names.setdefault(hashed, one.name)
        return names

    async def find(self, name: str, version: int | None = None) -> SavedPlan:
        """Return a preset or a saved plan, the newest version where none is named. Raises NotStored."""
        if name in PRESETS and version is None:
            return _preset(name)
        for one in await self._storage.plan_versions(name):
            if version in (None, one.version):
                return one
        which = "" if version is None else f" in version {version}"
        raise NotStored(f"There is no saved plan {name[:64]!r}{which}.")

    async def save(
        self, name: str, fields: Mapping[str, Any], saved_by: str, comment: str | None = None
    ) -> SavedPlan:
        """Save a plan as the next version of its name; one that measures the same as the last is that one.

        Raises:
            InvalidParams: it is no plan, or the name is a preset's.
            StorageFull: there are as many names as are kept.
        """
        # A name means one plan on every server: results carry no plan beside its hash.
        if name in PRESETS:
            raise InvalidParams(f"{name!r} is a preset: choose another name.", field="name")
        plan, hashed = without_model(fields)
        return await self._storage.save_plan(
            SavedPlan(
                name=name, plan=plan, saved_at=time.time(), hash=hashed, comment=comment, saved_by=saved_by
            )
        )

    async def remove(self, name: str) -> None:
        """Forget a saved plan's name. Raises NotStored, and InvalidParams for a preset."""
        if name in PRESETS:
            raise InvalidParams(f"{name!r} is a preset: it stays.", field="name")
        await self._storage.delete_plan(name)


def _preset(name: str) -> SavedPlan:
    plan = msgspec.json.encode(dict(PRESETS[name]))
    return SavedPlan(name=name, plan=plan, saved_at=0.0, hash=hash_of(plan))
