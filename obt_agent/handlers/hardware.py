"""``hardware``: the machine's inventory and one fresh sample."""

from __future__ import annotations

import msgspec

from obt_agent.command import AnyCommand, Command, CommandContext
from obt_agent.hardware.legacy import legacy_hardware_info
from obt_agent.hardware.service import HardwareService
from obt_agent.policy.gate import GateCatalog
from obt_agent.protocol.commands import HardwareParams, HardwareResult


def make(hardware: HardwareService, catalog: GateCatalog) -> AnyCommand:
    """The command."""

    async def run(params: HardwareParams, _context: CommandContext) -> HardwareResult:
        inventory = await hardware.inventory()
        sample = await hardware.sample()
        if not params.legacy:
            return HardwareResult(inventory=inventory, sample=sample)
        info = legacy_hardware_info(inventory, catalog.snapshot.state.version)
        return HardwareResult(
            inventory=inventory, sample=sample, legacy=msgspec.Raw(msgspec.json.encode(info))
        )

    return Command(method="hardware", params=HardwareParams, run=run)
