"""Read a machine or a snapshot once, from front to back, in the caller's thread."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from obt_agent.hardware.combine import assemble, combine
from obt_agent.hardware.host.reader import LOCAL_OLLAMA_URL, HostReader
from obt_agent.hardware.inventory import Inventory
from obt_agent.hardware.provider import CostGroup, GpuProvider
from obt_agent.hardware.samples import Sample
from obt_agent.hardware.snapshot.root import Root


class MachineReading(msgspec.Struct, frozen=True, kw_only=True):
    """What one machine is and does; without times, so that two readings of one snapshot are equal."""

    inventory: Inventory
    sample: Sample


def read_once(
    root: Root, providers: Sequence[GpuProvider], ollama_url: str = LOCAL_OLLAMA_URL
) -> MachineReading:
    """Read everything, waiting for whatever hangs: not for the agent, which uses the service."""
    host = HostReader(root, ollama_url)
    storage = host.storage
    try:
        inventory = host.inventory(None)
        states = [provider.probe() for provider in providers]
        gpus = tuple(gpu for provider in providers for gpu in provider.inventory())
        storage.follow(host.server_pid)
        whole = assemble(inventory, storage.inventory(), gpus, (storage.probe(), *states))
        reading = host.sample()
        # Only now is it known whose GPU memory is wanted.
        for provider in providers:
            provider.follow(tuple(process.pid for process in reading.ollama))
        sample = combine(reading, [one.sample(CostGroup.FAST | CostGroup.SLOW) for one in providers])
        gpu_samples = (msgspec.structs.replace(g, t_mono_ns=None, slow_t_mono_ns=None) for g in sample.gpus)
        return MachineReading(
            inventory=msgspec.structs.replace(whole, collected_at=0.0),
            sample=msgspec.structs.replace(sample, gpus=tuple(gpu_samples)),
        )
    finally:
        host.close()
        for provider in providers:
            provider.close()
