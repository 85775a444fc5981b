"""The numbers of campaigns. Durations are seconds."""

from __future__ import annotations

from dataclasses import dataclass

from obt_server.machine_jobs.settings import MachineJobSettings


@dataclass(frozen=True)
class CampaignSettings(MachineJobSettings):
    """How campaigns are carried out.

    Args:
        quiet_check_s: how often quiet hours are looked at again: clocks and time zones change.
        max_cells: of one campaign, those of machines that are added later among them.
        max_running_cells: of all campaigns that run, which are held in memory.
    """

    quiet_check_s: float = 300.0
    max_cells: int = 5_000
    max_running_cells: int = 50_000
