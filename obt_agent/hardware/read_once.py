"""Read a machine or a snapshot once, from front to back, in the caller's thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from obt_agent.hardware.combine import assemble, combine
from obt_agent.hardware.host.reader import LOCAL_OLLAMA_URL, HostReader
from obt_agent.hardware.inventory import Inventory
from obt_agent.hardware.provider import CostGroup, GpuProvider
from obt_agent.hardware.samples import GpuSample, Sample
from obt_agent.hardware.snapshot.root import Root


class MachineReading(msgspec.Struct, frozen=True, kw_only=True):
    """What one machine is and does; without times, so that two readings of one snapshot are equal."""

    inventory: Inventory
    sample: Sample


@dataclass
class OneReading:
    """Reads everything, waiting for whatever hangs: not for the agent, which uses the service."""

    root: Root
    providers: Sequence[GpuProvider]
    ollama_url: str = LOCAL_OLLAMA_URL

    def read(self) -> MachineReading:
        """Inventory and one sample."""
        host = HostReader(self.root, self.ollama_url)
        storage = host.storage
        try:
            inventory = host.inventory(None)
            states = [provider.probe() for provider in self.providers]
            gpus = tuple(gpu for provider in self.providers for gpu in provider.inventory())
            storage.follow(inventory.server_pid)
            whole = assemble(inventory, storage.inventory(), gpus, (storage.probe(), *states))
            reading = host.sample()
            for provider in self.providers:
                provider.follow(tuple(process.pid for process in reading.ollama))
            samples = [provider.sample(CostGroup.FAST | CostGroup.SLOW) for provider in self.providers]
            return MachineReading(inventory=_timeless(whole), sample=_untimed(combine(reading, samples)))
        finally:
            host.close()
            for provider in self.providers:
                provider.close()


def _timeless(inventory: Inventory) -> Inventory:
    return msgspec.structs.replace(inventory, collected_at=0.0)


def _untimed(sample: Sample) -> Sample:
    return msgspec.structs.replace(sample, gpus=tuple(map(_untimed_gpu, sample.gpus)))


def _untimed_gpu(gpu: GpuSample) -> GpuSample:
    return msgspec.structs.replace(gpu, t_mono_ns=None, slow_t_mono_ns=None)
