"""Put the inventory together, and tell whether it changed."""

from __future__ import annotations

import hashlib
import time

import msgspec

from obt_agent.hardware.host.reader import HostInventory
from obt_agent.hardware.schema import GpuInfo, Inventory, ProviderState, StorageInfo


def assemble(
    host: HostInventory,
    storage: tuple[StorageInfo, ...],
    gpus: tuple[GpuInfo, ...],
    providers: tuple[ProviderState, ...],
) -> Inventory:
    """The inventory with its fingerprint, collected now."""
    inventory = Inventory(
        fingerprint="",
        collected_at=time.time(),
        host=host.host,
        cpu=host.cpu,
        memory=host.memory,
        limits=host.limits,
        gpus=gpus,
        storage=storage,
        providers=(*host.providers, *providers),
    )
    return msgspec.structs.replace(inventory, fingerprint=fingerprint(inventory))


def fingerprint(inventory: Inventory) -> str:
    """A sha256 in hexadecimal of the whole but times, free space, and whether a GPU sleeps."""
    steady = msgspec.structs.replace(
        inventory,
        fingerprint="",
        collected_at=0.0,
        storage=tuple(msgspec.structs.replace(s, free_bytes=None) for s in inventory.storage),
        providers=tuple(_steady(p) for p in inventory.providers),
    )
    return hashlib.sha256(msgspec.json.encode(steady)).hexdigest()


def _steady(provider: ProviderState) -> ProviderState:
    status = "ok" if provider.status == "suspended" else provider.status
    return msgspec.structs.replace(provider, status=status, reason=None)
