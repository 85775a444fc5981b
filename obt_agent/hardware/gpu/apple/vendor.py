"""Apple, as the registry knows it."""

from __future__ import annotations

from obt_agent.hardware.gpu.apple.provider import NAME, PCI_VENDOR, AppleProvider
from obt_agent.hardware.gpu.apple.tools import run_tool
from obt_agent.hardware.gpu.vendor import Vendor
from obt_agent.hardware.snapshot.root import Root


def provider(root: Root) -> AppleProvider:
    """Return the provider for this machine; snapshots are of Linux, and never get here."""
    del root
    return AppleProvider(run_tool, _memory_bytes)


def _memory_bytes() -> int:
    # psutil is not for whoever only asks which vendors there are.
    from obt_agent.hardware.host.psutil_reader import PsutilReadings  # noqa: PLC0415 -- see above

    return PsutilReadings().memory().total_bytes


APPLE = Vendor(
    name=NAME,
    provider=provider,
    pci_vendor=PCI_VENDOR,
    systems=("darwin",),
    advice={"macOS tells power and clocks to root alone": "run the agent as root, if you want them"},
)
