"""What a vendor of GPUs declares, once, in its own package. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from obt_agent.hardware.inventory import Inventory
from obt_agent.hardware.provider import GpuProvider
from obt_agent.hardware.samples import Sample
from obt_agent.hardware.snapshot.root import Root


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """Everything that the rest of the agent needs to know of one vendor.

    The registry's rows are these. The systemd unit, which cannot import anything, is held to them by a test.
    """

    name: str
    """The word in ``GpuInfo.vendor``, and the provider's name."""

    provider: Callable[[Root], GpuProvider]
    """Builds the provider for this machine, or for a snapshot. It must not touch the machine yet."""

    pci_vendor: str
    """The vendor's number on the PCI bus, as the kernel writes it ("0x10de")."""

    systems: tuple[str, ...] = ("linux",)
    """Where it can be read, as ``sys.platform`` has it. Snapshots are of Linux, wherever they are read."""

    device_nodes: tuple[str, ...] = ()
    """Nodes that are opened for readings, as patterns below /dev: a sandbox must let them through."""

    device_classes: tuple[str, ...] = ()
    """The same for systemd's DeviceAllow=, by class of device and with the rights that readings need."""

    starts_after: tuple[str, ...] = ()
    """Units of systemd that make the nodes: a service that starts earlier would not see them."""

    topology: tuple[str, ...] = ()
    """Files and folders that change when a GPU or its driver comes or goes, beside those of the PCI bus."""

    device_tables: tuple[str, ...] = ()
    """Names of tables of all devices ever made: of these a snapshot keeps this machine's rows alone."""

    serial_files: tuple[str, ...] = ()
    """Names of files that hold a serial number in hexadecimal, which a snapshot replaces by another."""

    binary_files: tuple[str, ...] = ()
    """Names of files that are not text and hold nothing secret: a snapshot keeps them byte for byte."""

    library_answers: Callable[[Inventory, Sample], str | None] | None = None
    """What the vendor's library answered, as lines that ``provider`` can read again from a snapshot."""

    answers_file: str = ""
    """The file of a snapshot that holds these lines."""

    advice: Mapping[str, str] = field(default_factory=dict)
    """What a person can do, by words that occur in the provider's reasons."""
