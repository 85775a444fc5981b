"""Whatever knows the vendors of GPUs by name is derived from their registry, or held to it here."""

from __future__ import annotations

import re
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from obt_agent.doctor import sandbox
from obt_agent.hardware.advice import advice
from obt_agent.hardware.gpu import registry
from obt_agent.hardware.gpu.registry import TOPOLOGY, VENDORS, gpu_providers
from obt_agent.hardware.gpu.vendor import Vendor
from obt_agent.hardware.snapshot.masking import Masker
from obt_agent.hardware.snapshot.root import Root
from tests.hardware.trees import BASICS, pci, tree

REPOSITORY = Path(__file__).parents[2]
UNIT = (REPOSITORY / "systemd/obt-agent.service").read_text()
PACKAGE = Path(registry.__file__).parent

each_vendor = pytest.mark.parametrize("vendor", VENDORS, ids=[vendor.name for vendor in VENDORS])
ON_LINUX = tuple(vendor for vendor in VENDORS if "linux" in vendor.systems)


def values(key: str) -> list[str]:
    """All words of the unit's lines with this key."""
    return [word for line in re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE) for word in line.split()]


def bound(node: str) -> bool:
    """Whether the unit binds this pattern of nodes, or the folder that they lie in, into its own /dev."""
    places = [word.removeprefix("-/dev/") for word in values("BindPaths") if word.startswith("-/dev/")]
    return any(fnmatch(place, node) or node.startswith(f"{place}/") for place in places)


@each_vendor
def test_the_unit_lets_every_node_of_a_vendor_through(vendor: Vendor) -> None:
    assert [node for node in vendor.device_nodes if not bound(node)] == []
    allowed = re.findall(r"^DeviceAllow=(.*)$", UNIT, re.MULTILINE)
    assert [wanted for wanted in vendor.device_classes if wanted not in allowed] == []
    assert set(vendor.starts_after) <= set(values("After"))


def test_the_unit_lets_no_node_through_that_no_vendor_asks_for() -> None:
    wanted = {node for vendor in VENDORS for node in vendor.device_nodes}
    places = [word.removeprefix("-/dev/") for word in values("BindPaths") if word.startswith("-/dev/")]
    strangers = [
        place
        for place in places
        if not any(fnmatch(place, node) or node.startswith(f"{place}/") for node in wanted)
    ]
    assert strangers == []
    allowed = set(re.findall(r"^DeviceAllow=(.*)$", UNIT, re.MULTILINE))
    assert allowed == {words for vendor in VENDORS for words in vendor.device_classes}


@each_vendor
def test_the_examination_of_the_service_watches_a_vendors_nodes(vendor: Vendor) -> None:
    assert set(vendor.device_nodes) <= set(sandbox._GPU_NODES)  # noqa: SLF001 -- the table is what is tested
    assert set(vendor.topology) <= set(TOPOLOGY)


@pytest.mark.parametrize("vendor", ON_LINUX, ids=[vendor.name for vendor in ON_LINUX])
def test_a_vendors_provider_is_built_for_a_snapshot_and_finds_its_card_by_the_bus(
    vendor: Vendor, tmp_path: Path
) -> None:
    root = tree(tmp_path, BASICS | pci("0000:03:00.0", vendor.pci_vendor))
    by_name = {provider.name: provider for provider in gpu_providers(root)}
    provider = by_name[vendor.name]
    assert provider.probe().status == "degraded"
    assert [(gpu.vendor, gpu.pci_address) for gpu in provider.inventory()] == [(vendor.name, "0000:03:00.0")]


@each_vendor
def test_masking_follows_a_vendors_entry(vendor: Vendor) -> None:
    masker = Masker("h", devices=frozenset({"747e"}))
    number = vendor.pci_vendor.removeprefix("0x")
    table = f"{number}  Vendor\n\t747e  Mine\n\t1234  Other\n".encode()
    assert masker.file("/usr/share/misc/pci.ids", table) == f"{number}  Vendor\n\t747e  Mine\n".encode()
    for name in vendor.device_tables:
        assert masker.file(f"/usr/share/{name}", b"747E, C8, Mine\n1234, 00, Other\n") == b"747E, C8, Mine\n"
    for name in vendor.binary_files:
        assert masker.file(f"/x/{name}", b"\xff\x00") == b"\xff\x00"
    for name in vendor.serial_files:
        masked = masker.file(f"/x/{name}", b"0123456789abcdef\n")
        assert masked != b"0123456789abcdef\n"
        assert int(masked, 16) > 0


@each_vendor
def test_a_vendors_advice_is_given(vendor: Vendor) -> None:
    for words, todo in vendor.advice.items():
        assert advice("power_watts", f"driver_error: {words}") == todo


def test_nothing_among_the_vendors_names_a_place_of_the_kernels_file_systems() -> None:
    """Readers of such files stand below ``host/linux``, so that a provider says what it reads, not where."""
    named = {
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in PACKAGE.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"/(proc|sys)\b", line)
    }
    assert named == set()


def test_a_machine_is_asked_only_for_gpus_that_its_system_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert [provider.name for provider in gpu_providers(Root())] == ["apple"]
    monkeypatch.setattr(sys, "platform", "win32")
    assert gpu_providers(Root()) == ()


def test_every_package_of_a_vendor_is_in_the_registry() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == {vendor.name for vendor in VENDORS}
