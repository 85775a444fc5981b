"""What machines have and could hold, from what storage and live sessions know."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from obt_agent.hardware.inventory import Inventory
from obt_server.hub import Hub
from obt_server.hub.storage import AgentRecord
from obt_server.rollout_storage import model_key
from obt_server.storage import MOST_REPORTED, ModelVersion, Reported, ServerStorage


class CellDetails(msgspec.Struct, frozen=True):
    """What is read of a model's entry."""

    size_bytes: Reported = 0
    quantization_level: str | None = None
    parameter_size: str | None = None
    context_length: Reported | None = None
    family: str | None = None
    capabilities: tuple[str, ...] = ()
    remote_model: str | None = None


@dataclass(frozen=True)
class InstalledVersion:
    """A model on a machine now."""

    agent_id: str
    key: str
    name: str
    digest: str
    first_seen: float
    last_seen: float
    details: CellDetails


@dataclass(frozen=True)
class Capacity:
    """What a machine could hold, in bytes; None where it is not known."""

    free_bytes: int | None = None
    vram_bytes: int | None = None
    ram_bytes: int | None = None


_DETAILS = msgspec.json.Decoder(CellDetails)


def installed(versions: Sequence[ModelVersion]) -> list[InstalledVersion]:
    """The versions that are installed now. Thousands take a while: not on the event loop."""
    return [
        InstalledVersion(
            agent_id=one.agent_id,
            key=model_key(one.name),
            name=one.name,
            digest=one.digest,
            first_seen=one.first_seen,
            last_seen=one.last_seen,
            details=_details(one.details),
        )
        for one in versions
        if one.current
    ]


def _details(text: bytes) -> CellDetails:
    try:
        return _DETAILS.decode(text)
    # An older release stored it in another shape, or the machine made its numbers up: the name and the digest
    # are known all the same.
    except (msgspec.MsgspecError, RecursionError):
        return CellDetails()


def by_agent(cells: Sequence[InstalledVersion]) -> dict[str, dict[str, InstalledVersion]]:
    """By machine and model."""
    found: dict[str, dict[str, InstalledVersion]] = {}
    for cell in cells:
        found.setdefault(cell.agent_id, {})[cell.key] = cell
    return found


def usual_digests(cells: Sequence[InstalledVersion]) -> dict[str, str]:
    """By model, the digest that most machines have; of equally many, the first in order."""
    counts: dict[str, dict[str, int]] = {}
    for cell in cells:
        of_model = counts.setdefault(cell.key, {})
        of_model[cell.digest] = of_model.get(cell.digest, 0) + 1
    return {key: min(counted, key=lambda one: (-counted[one], one)) for key, counted in counts.items()}


def known_sizes(cells: Sequence[InstalledVersion]) -> dict[str, int]:
    """By model and by digest, bytes on disk, as some machine has it."""
    sizes: dict[str, int] = {}
    for cell in cells:
        for name in (cell.key, cell.digest):
            sizes[name] = max(sizes.get(name, 0), cell.details.size_bytes)
    return sizes


@dataclass(frozen=True)
class KnownModels:
    """What all machines have, arranged for those who look things up."""

    cells: list[InstalledVersion]
    by_agent: dict[str, dict[str, InstalledVersion]]
    sizes: dict[str, int]


class FleetModels:
    """What all machines have, read from storage once for all who ask meanwhile.

    Args:
        storage: where it is.
    """

    def __init__(self, storage: ServerStorage) -> None:
        self._storage = storage
        # What was read last, and when by the monotonic clock.
        self._known: tuple[KnownModels, float] | None = None
        # One read at a time: whoever waits for it finds it new enough.
        self._reading = asyncio.Lock()

    async def current(self) -> KnownModels:
        """Return what is stored at the time of asking, or later."""
        asked = time.monotonic()
        async with self._reading:
            if self._known is None or self._known[1] < asked:
                began = time.monotonic()
                versions = await self._storage.versions()
                self._known = await asyncio.to_thread(_known, versions), began
            return self._known[0]


def _known(versions: Sequence[ModelVersion]) -> KnownModels:
    cells = installed(versions)
    return KnownModels(cells, by_agent(cells), known_sizes(cells))


class Capacities:
    """What machines could hold, decoded once for each inventory.

    Args:
        hub: live sessions, with the newest inventories.
        storage: the inventories of machines that are away.
    """

    def __init__(self, hub: Hub, storage: ServerStorage) -> None:
        self._hub = hub
        self._storage = storage
        # By machine: the inventory as it came (of another process's machine when it was stored), and what
        # it says; None of one that was never there.
        self._known: dict[str, tuple[bytes | float | None, Capacity]] = {}

    async def of(self, records: Sequence[AgentRecord]) -> dict[str, Capacity]:
        """Return the capacities of machines, by id."""
        return {record.id: await self._of(record.id) for record in records}

    async def note_free(self, agent_id: str, free_bytes: int) -> None:
        """A machine said what is free now; that holds until its next inventory."""
        await self._of(agent_id)
        known = self._known.get(agent_id)
        if known is not None:
            self._known[agent_id] = known[0], replace(known[1], free_bytes=free_bytes)

    async def _of(self, agent_id: str) -> Capacity:
        presence = self._hub.presence(agent_id)
        live = None if presence is None else presence.inventory
        mark = presence.inventory_at if presence is not None and live is None else live
        known = self._known.get(agent_id)
        # The same object, and not an equal one: comparing would cost as much as reading.
        if known is not None and (mark is None or _same(known[0], mark)):
            return known[1]
        raw = live
        if raw is None:
            stored = await self._storage.hardware(agent_id)
            # Asked again while nothing is known: the first inventory may come later.
            if stored is None:
                return Capacity()
            raw = stored.inventory
        capacity = _capacity(raw)
        self._known[agent_id] = raw if mark is None else mark, capacity
        return capacity


def _same(one: bytes | float | None, other: bytes | float) -> bool:
    return one is other or (isinstance(one, float) and one == other)


def _capacity(raw: bytes) -> Capacity:
    try:
        inventory = msgspec.json.decode(raw, type=Inventory)
    # A newer agent's, which this release cannot read.
    except (msgspec.MsgspecError, OverflowError, RecursionError):
        return Capacity()
    free = [_believed(disk.free_bytes) for disk in inventory.storage if disk.purpose == "models"]
    memory = [gpu.memory.total_bytes or gpu.memory.shared_total_bytes for gpu in inventory.gpus]
    known = [one for one in memory if one is not None]
    return Capacity(
        free_bytes=next((one for one in free if one is not None), None),
        vram_bytes=_believed(sum(known)) if known else None,
        ram_bytes=_believed(inventory.memory.total_bytes),
    )


def _believed(value: int | None) -> int | None:
    """A number of the machine's own words; None where it can be none."""
    return value if value is not None and 0 <= value <= MOST_REPORTED else None
