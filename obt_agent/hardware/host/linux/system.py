"""The operating system, what it runs on, and the firmware's names for the machine."""

from __future__ import annotations

import os
import re
from functools import partial

from obt_agent.hardware.field_reader import FieldReader, Unreadable, bounded, optional
from obt_agent.hardware.host.linux import dmi
from obt_agent.hardware.host.linux.kernel_text import key_values
from obt_agent.hardware.host.linux.mounts import mounts
from obt_agent.hardware.inventory import Bios, Board, HostInfo, ProviderState
from obt_agent.hardware.provider import state_of
from obt_agent.hardware.snapshot.root import Root

_DMI = "/sys/class/dmi/id"
ARCH_FILE = "/proc/sys/kernel/arch"
"""Linux has it since 6.1; a snapshot always has."""
# The owner's file, then the distribution's own, as os-release(5) has them.
_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")

# Words of DMI vendor and product names, as systemd-detect-virt reads them.
_HYPERVISORS = {
    "qemu": "qemu",
    "kvm": "kvm",
    "vmware": "vmware",
    "virtualbox": "virtualbox",
    "innotek": "virtualbox",
    "xen": "xen",
    "amazon ec2": "kvm",
    "google compute engine": "kvm",
    "openstack": "kvm",
    "firecracker": "kvm",
    "parallels": "parallels",
    "bhyve": "bhyve",
    "kubevirt": "kvm",
    "bochs": "bochs",
    "apple virtualization": "apple",
}

# XENFEAT_dom0 of Xen's public features.h.
_XEN_DOM0_BIT = 11
# Amazon's machines of metal ("m5.metal"), which carry the cloud's names all the same.
_METAL = re.compile(r"\.metal(-|$)")
_TREE = "/sys/firmware/devicetree/base"
_TREE_HYPERVISORS = {"kvm": "kvm", "xen": "xen", "vmware": "vmware"}

SERVICE_ACCOUNT = "/secrets/kubernetes.io/serviceaccount"
"""Where Kubernetes mounts what a pod is known by."""

LAYERS = {"/containerd/": "containerd", "/docker/": "docker", "/containers/storage/": "podman"}
"""Where container engines keep the layers that a container's root is made of."""

# Parts of a control group's path, and the engine that makes such paths.
_CONTAINER_HINTS = (("/docker", "docker"), ("kubepods", "kubernetes"), ("/lxc", "lxc"), ("libpod", "podman"))


class HostProvider:
    """Linux's and the firmware's names for things. It has no samples."""

    name = "host"

    def __init__(self, root: Root) -> None:
        self._root = root

    def probe(self) -> ProviderState:
        """Whether the kernel tells its release."""
        fields = FieldReader()
        fields.read("kernel", partial(self._root.text, "/proc/sys/kernel/osrelease"))
        return state_of(self.name, fields.reasons.get("kernel"), verified=True)

    def inventory(self, ollama_version: str | None = None) -> HostInfo:
        """Describe the host; the version of Ollama is the caller's knowledge."""
        fields = FieldReader()
        if ollama_version is None:
            fields.note("ollama_version", "not_reported: Ollama did not answer")
        return HostInfo(
            os=fields.read("os", lambda: self._word("/proc/sys/kernel/ostype").lower()),
            distro=fields.first("distro", *(partial(self._distro, path) for path in _OS_RELEASE)),
            kernel=fields.read("kernel", lambda: self._word("/proc/sys/kernel/osrelease")),
            arch=fields.read("arch", self._arch),
            virtualization=fields.read("virtualization", self._virtualization),
            container=fields.read("container", self._container),
            wsl=fields.read("wsl", lambda: "microsoft" in self._word("/proc/sys/kernel/osrelease").lower()),
            bios=self._bios(fields),
            board=self._board(fields),
            ollama_version=ollama_version,
            unavailable=fields.reasons,
        )

    def _word(self, path: str) -> str:
        return bounded(self._root.text(path, 4096))

    def _dmi(self, name: str) -> str | None:
        return optional(lambda: self._word(f"{_DMI}/{name}"))

    def _distro(self, path: str) -> str:
        values = key_values(self._root.text(path), "=")
        return bounded((values.get("PRETTY_NAME") or values.get("NAME") or "").strip("\"'"))

    def _arch(self) -> str:
        if self._root.real:
            return os.uname().machine
        return self._word(ARCH_FILE)

    def _fact(self, name: str) -> str | None:
        """Return a word of DMI that its maker filled in."""
        return dmi.fact(self._dmi(name))

    def _bios(self, fields: FieldReader) -> Bios | None:
        vendor, version, date = map(self._fact, ("bios_vendor", "bios_version", "bios_date"))
        if not (vendor or version or date):
            fields.note("bios", self._why_no_dmi("bios_vendor"))
            return None
        return Bios(vendor=vendor, version=version, date=date)

    def _board(self, fields: FieldReader) -> Board | None:
        vendor = self._fact("board_vendor") or self._fact("sys_vendor")
        name = self._fact("board_name") or optional(lambda: self._word(f"{_TREE}/model"))
        product = self._fact("product_name")
        if not (vendor or name or product):
            fields.note("board", self._why_no_dmi("board_name"))
            return None
        return Board(vendor=vendor, name=name, product=product)

    def _why_no_dmi(self, file: str) -> str:
        """Return the reason that a file of DMI gave nothing: it cannot be read, or holds a filler."""
        reasons = FieldReader()
        reasons.read("", lambda: self._word(f"{_DMI}/{file}"))
        return reasons.reasons.get("", "not_reported")

    def _virtualization(self) -> str:
        if "microsoft" in self._word("/proc/sys/kernel/osrelease").lower():
            return "hyperv"
        known = optional(lambda: self._word("/sys/hypervisor/type"))
        if known:
            return "none" if known == "xen" and self._is_xen_control_domain() else known
        named = self._hypervisor_by_dmi() or self._hypervisor_by_device_tree()
        return named or ("unnamed" if self._behind_hypervisor() else "none")

    def _is_xen_control_domain(self) -> bool:
        """Whether this is dom0, which Xen starts first and gives the hardware to: that is no guest.

        As systemd-detect-virt has it: by a bit of Xen's features, or by /proc/xen where that is mounted.
        """
        features = optional(lambda: int(self._word("/sys/hypervisor/properties/features"), 16)) or 0
        capabilities = optional(lambda: self._word("/proc/xen/capabilities")) or ""
        return bool(features >> _XEN_DOM0_BIT & 1) or "control_d" in capabilities

    def _hypervisor_by_dmi(self) -> str | None:
        """As systemd-detect-virt does. Clouds name machines of metal too, which the product's name tells."""
        product = self._dmi("product_name") or ""
        others = filter(None, map(self._dmi, ("sys_vendor", "board_vendor", "bios_vendor")))
        words = " ".join((product, *others)).lower()
        # Surface and other machines of Microsoft's own are no virtual ones.
        if "microsoft" in words and "virtual machine" in words:
            return "hyperv"
        if _METAL.search(product):
            return None
        return next((name for word, name in _HYPERVISORS.items() if word in words), None)

    def _hypervisor_by_device_tree(self) -> str | None:
        """What Arm's and RISC-V's machines without DMI say, as systemd-detect-virt reads it."""
        compatible = optional(lambda: self._word(f"{_TREE}/hypervisor/compatible"))
        if compatible:
            return next((name for word, name in _TREE_HYPERVISORS.items() if word in compatible), "unnamed")
        names = optional(partial(self._root.names, _TREE)) or []
        machine = optional(lambda: self._word(f"{_TREE}/compatible")) or ""
        if any("fw-cfg" in name for name in names) or "linux,dummy-virt" in machine:
            return "qemu"
        return None

    def _behind_hypervisor(self) -> bool:
        """What x86 says of itself. Arm has no such flag: with no other sign it is taken for metal."""
        cpuinfo = self._root.text("/proc/cpuinfo")
        flags = next((line for line in cpuinfo.splitlines() if line.startswith(("flags", "Features"))), "")
        if not flags:
            raise Unreadable("not_reported")
        return "hypervisor" in flags.split()

    def _container(self) -> str:
        if self._root.exists("/run/.containerenv"):
            return "podman"
        if self._root.exists("/.dockerenv"):
            return "docker"
        for place in ("/run/systemd/container", "/run/host/container-manager"):
            manager = optional(partial(self._word, place))
            if manager:
                return manager
        by_mounts = optional(self._container_by_mounts)
        return by_mounts or container_hint(self._root.text("/proc/1/cgroup")) or "none"

    def _container_by_mounts(self) -> str | None:
        """By what only containers mount: with version 2 of control groups a pod's place is just "/"."""
        found = mounts(self._root)
        if any(mount.point.endswith(SERVICE_ACCOUNT) for mount in found):
            return "kubernetes"
        top = next((mount for mount in reversed(found) if mount.point == "/"), None)
        if top is None or top.kind != "overlay":
            return None
        layers = " ".join(top.options)
        return next((name for folder, name in LAYERS.items() if folder in layers), None)


def container_hint(groups: str) -> str | None:
    """The kind of container that a process's control groups tell of; None where they tell of none."""
    return next((name for hint, name in _CONTAINER_HINTS if hint in groups), None)


def boot_id() -> str:
    """Return the kernel's random number of this boot. Raise OSError, Unreadable."""
    return bounded(Root().text("/proc/sys/kernel/random/boot_id", 128))
