"""One inventory, and one sample, out of what the host and the GPU providers gave."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping

import msgspec

from obt_agent.hardware.inventory import GpuInfo, Inventory, ProviderState, StorageInfo
from obt_agent.hardware.provider import GpuReadings
from obt_agent.hardware.samples import GpuSample, OllamaProcess, Sample


def assemble(
    host: Inventory,
    storage: tuple[StorageInfo, ...],
    gpus: tuple[GpuInfo, ...],
    providers: tuple[ProviderState, ...],
) -> Inventory:
    """Return the host's inventory with the rest in it, and its fingerprint; collected now."""
    inventory = msgspec.structs.replace(
        host,
        collected_at=time.time(),
        gpus=gpus,
        storage=storage,
        providers=(*host.providers, *providers),
    )
    return msgspec.structs.replace(inventory, fingerprint=fingerprint(inventory))


def fingerprint(inventory: Inventory) -> str:
    """Return a sha256 in hexadecimal of the whole but times, free space, and whether a GPU sleeps."""
    steady = msgspec.structs.replace(
        inventory,
        fingerprint="",
        collected_at=0.0,
        storage=tuple(msgspec.structs.replace(s, free_bytes=None) for s in inventory.storage),
        # A source that finds nothing to read is no part of the machine: an agent that knows one vendor of
        # GPUs more gives the same fingerprint.
        providers=tuple(_steady(p) for p in inventory.providers if p.status != "absent"),
    )
    # Reasons are in mappings, which readers fill in whatever order they come to them: the order says nothing.
    return hashlib.sha256(msgspec.json.encode(steady, order="deterministic")).hexdigest()


def _steady(provider: ProviderState) -> ProviderState:
    status = "ok" if provider.status == "suspended" else provider.status
    return msgspec.structs.replace(provider, status=status, reason=None)


def combine(host: Sample, readings: Iterable[GpuReadings]) -> Sample:
    """Return the host's sample with the GPUs in it, not yet stamped with its time."""
    gpus: list[GpuSample] = []
    memory: dict[int, dict[str, int]] = {}
    fields: dict[int, str] = {}
    for reading in readings:
        gpus.extend(reading.gpus)
        fields.update(reading.process_reasons)
        for pid, by_gpu in reading.process_memory.items():
            memory.setdefault(pid, {}).update(by_gpu)
    # A process may have memory on the GPUs of several vendors, each of which knows its own alone.
    ollama = tuple(_with_gpu_memory(process, memory, fields) for process in host.ollama)
    return msgspec.structs.replace(host, gpus=tuple(gpus), ollama=ollama)


def _with_gpu_memory(
    process: OllamaProcess, memory: Mapping[int, Mapping[str, int]], fields: Mapping[int, str]
) -> OllamaProcess:
    if process.pid in fields:
        unavailable = process.unavailable | {"gpu_memory_bytes": fields[process.pid]}
        process = msgspec.structs.replace(process, unavailable=unavailable)
    if process.pid not in memory:
        return process
    return msgspec.structs.replace(process, gpu_memory_bytes=dict(memory[process.pid]))
