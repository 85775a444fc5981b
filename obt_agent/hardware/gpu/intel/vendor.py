"""Intel, as the registry knows it."""

from obt_agent.hardware.gpu.intel.provider import NAME, PCI_VENDOR, intel
from obt_agent.hardware.gpu.vendor import Vendor

INTEL = Vendor(
    name=NAME,
    provider=intel,
    pci_vendor=PCI_VENDOR,
    device_nodes=("dri/renderD*",),
    device_classes=("char-drm r",),
)
