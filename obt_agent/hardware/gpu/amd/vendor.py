"""AMD, as the registry knows it."""

from obt_agent.hardware.gpu.amd.provider import NAME, PCI_VENDOR, amd
from obt_agent.hardware.gpu.vendor import Vendor
from obt_agent.hardware.host.linux import kfd

AMD = Vendor(
    name=NAME,
    provider=amd,
    pci_vendor=PCI_VENDOR,
    device_nodes=("dri/renderD*", "kfd"),
    # Reading is enough: the questions that are put to a node change nothing.
    device_classes=("char-drm r", "char-kfd r"),
    topology=(kfd.NODES,),
    device_tables=("amdgpu.ids",),
    serial_files=("unique_id",),
    binary_files=("gpu_metrics",),
)
