"""``hardware``: the machine's inventory and one fresh sample."""

from __future__ import annotations

from obt_agent.command import CommandContext
from obt_agent.handlers.services import Services
from obt_agent.hardware.legacy import legacy_hardware_info
from obt_agent.hardware.samples import without_weights
from obt_agent.protocol.commands import HardwareParams, HardwareResult


async def run(services: Services, params: HardwareParams, _context: CommandContext) -> HardwareResult:
    inventory = await services.hardware.inventory()
    sample = without_weights(await services.hardware.sample())
    if not params.legacy:
        return HardwareResult(inventory=inventory, sample=sample)
    info = legacy_hardware_info(inventory, services.catalog.snapshot.state.version)
    return HardwareResult(inventory=inventory, sample=sample, legacy=info)
