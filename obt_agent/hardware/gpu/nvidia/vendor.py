"""NVIDIA, as the registry knows it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from obt_agent.hardware.gpu.nvidia.answers import ANSWERS_FILE, answers
from obt_agent.hardware.gpu.nvidia.gpu_info import NAME
from obt_agent.hardware.gpu.nvidia.probe import Prober
from obt_agent.hardware.gpu.nvidia.provider import DRIVER, PCI_VENDOR, NvidiaProvider
from obt_agent.hardware.gpu.vendor import Vendor
from obt_agent.hardware.host.linux import kernel_modules
from obt_agent.hardware.snapshot.root import Root

if TYPE_CHECKING:
    from obt_agent.hardware.gpu.nvidia.nvml import Nvml


def provider(root: Root) -> NvidiaProvider:
    """Return the provider: over the driver's library here, over what it answered in a snapshot."""
    if root.real:
        return NvidiaProvider(root, _nvml, Prober())
    lines = root.library_answers(ANSWERS_FILE)
    return NvidiaProvider(root, None if lines is None else partial(_recorded_nvml, lines), None)


def _nvml() -> Nvml:
    from obt_agent.hardware.gpu.nvidia.nvml import Nvml  # noqa: PLC0415 -- 2 MB, needed where there is a GPU

    return Nvml()


def _recorded_nvml(lines: str) -> Nvml:
    from obt_agent.hardware.gpu.nvidia.nvml import Nvml  # noqa: PLC0415 -- as above
    from obt_agent.hardware.gpu.nvidia.recorded import RecordedBinding  # noqa: PLC0415 -- as above

    return Nvml(binding=RecordedBinding(lines))


NVIDIA = Vendor(
    name=NAME,
    provider=provider,
    pci_vendor=PCI_VENDOR,
    device_nodes=("nvidiactl", "nvidia[0-9]*", "nvidia-caps"),
    # The library opens the nodes for reading and writing, even to read a temperature.
    device_classes=("char-nvidia* rw",),
    starts_after=("nvidia-persistenced.service",),
    topology=(kernel_modules.version_file(DRIVER),),
    library_answers=answers,
    answers_file=ANSWERS_FILE,
    advice={
        "kernel driver is not loaded": "load it (modprobe nvidia), or install NVIDIA's driver",
        "library is not installed": (
            "install NVIDIA's driver with libnvidia-ml.so.1; into a container it comes with --gpus all"
        ),
        "/dev/nvidia*": "see who may open them (ls -l /dev/nvidia*), and that no container hides them",
        "crashed when tried": "reinstall NVIDIA's driver; the agent goes on without it, and tries again",
        "differ in version": (
            "reboot, or reload NVIDIA's kernel modules: the driver was upgraded underneath"
        ),
        "needs a reset": "reset the GPU or reboot; see dmesg for Xid errors",
    },
)
