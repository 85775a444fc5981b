"""AMD's and Intel's GPUs through their files: sleep, loss, missing drivers, and odd values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from obt_agent.hardware.advice import advice
from obt_agent.hardware.field_reader import Unreadable
from obt_agent.hardware.gpu.amd.provider import amd
from obt_agent.hardware.gpu.intel.provider import intel
from obt_agent.hardware.gpu.sysfs import SysfsGpuProvider
from obt_agent.hardware.host.linux.kfd import ComputeGpu, Node, gpu_at
from obt_agent.hardware.inventory import GpuInfo
from obt_agent.hardware.provider import CostGroup, GpuReadings
from obt_agent.hardware.samples import GpuSample
from obt_agent.hardware.snapshot.root import SnapshotRoot
from tests.hardware.replay import SNAPSHOTS
from tests.hardware.trees import BASICS, pci, put, tree

BOTH = CostGroup.FAST | CostGroup.SLOW
CARD = "/sys/devices/pci0000:00/0000:00:03.1/0000:01:00.0/0000:02:00.0/0000:03:00.0"
ARC = "/sys/devices/pci0000:00/0000:00:03.1/0000:09:00.0/0000:0a:01.0/0000:0b:00.0"


@pytest.fixture
def desktop(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SNAPSHOTS / "amd-dgpu", tmp_path / "machine"))


@pytest.fixture
def arc(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SNAPSHOTS / "intel-arc", tmp_path / "machine"))


def started(provider: SysfsGpuProvider) -> tuple[GpuInfo, GpuSample]:
    provider.probe()
    (info,) = provider.inventory()
    (sample,) = provider.sample(BOTH).gpus
    return info, sample


def test_a_card_that_falls_asleep_keeps_its_description_and_is_not_touched(desktop: Path) -> None:
    root = SnapshotRoot(desktop)
    provider = amd(root)
    info, _ = started(provider)
    put(desktop, f"{CARD}/power/runtime_status", "suspended\n")
    root.opened.clear()
    (sample,) = provider.sample(BOTH).gpus
    assert (sample.id, sample.state, sample.power_watts) == (info.id, "suspended", None)
    assert {path.removeprefix(f"{CARD}/") for path in root.opened if path.startswith(CARD)} == {
        "power/runtime_status"
    }
    assert provider.energy() == {}
    assert provider.probe().status == "suspended"
    assert provider.inventory() == (info,)
    read = {path.removeprefix(f"{CARD}/") for path in root.opened if path.startswith(CARD)}
    assert read == {"vendor", "class", "power/control", "power/runtime_status"}


def test_a_card_that_was_never_awake_is_described_when_it_wakes(desktop: Path) -> None:
    put(desktop, f"{CARD}/power/runtime_status", "suspended\n")
    provider = amd(SnapshotRoot(desktop))
    assert provider.probe().status == "suspended"
    (info,) = provider.inventory()
    assert (info.id, info.unavailable["name"]) == ("0000:03:00.0", "suspended")
    put(desktop, f"{CARD}/power/runtime_status", "active\n")
    (sample,) = provider.sample(BOTH).gpus
    assert (sample.state, sample.unavailable["power_watts"]) == (
        "degraded",
        "not_reported: awake again, not yet described",
    )
    info, sample = started(provider)
    assert (info.name, sample.state) == ("AMD Radeon RX 7800 XT", "ok")


def test_a_card_that_is_pulled_out_is_lost(desktop: Path) -> None:
    provider = amd(SnapshotRoot(desktop))
    info, _ = started(provider)
    shutil.rmtree(desktop / "tree" / CARD.lstrip("/"))
    (sample,) = provider.sample(BOTH).gpus
    assert (sample.id, sample.state) == (info.id, "lost")


def test_a_card_without_its_driver_is_in_the_inventory_with_the_reason(tmp_path: Path) -> None:
    provider = amd(tree(tmp_path, BASICS | pci("0000:03:00.0", "0x1002")))
    state = provider.probe()
    assert (state.status, state.reason) == ("degraded", "no driver of amdgpu is bound to 0000:03:00.0")
    (info,) = provider.inventory()
    assert info.unavailable["name"].startswith("not_present")
    (sample,) = provider.sample(BOTH).gpus
    assert sample.state == "degraded"


@pytest.mark.parametrize(
    ("file", "content", "field", "reason"),
    [
        ("gpu_busy_percent", "101", "utilization_ratio", "malformed"),
        ("mem_info_vram_used", "99999999999999", "memory_used_bytes", "inconsistent"),
        ("mem_info_vram_used", "-5", "memory_used_bytes", "malformed"),
        ("hwmon/hwmon4/temp1_input", "511000", "temperature_celsius", "malformed"),
        ("hwmon/hwmon4/pwm1", "300", "fan_ratio", "malformed"),
    ],
)
def test_a_value_that_cannot_be_is_null_and_the_card_degraded(
    desktop: Path, file: str, content: str, field: str, reason: str
) -> None:
    put(desktop, f"{CARD}/{file}", content)
    _, sample = started(amd(SnapshotRoot(desktop)))
    assert (sample.state, getattr(sample, field), sample.unavailable[field]) == ("degraded", None, reason)


def test_uncorrected_errors_are_counted_where_the_card_does(desktop: Path) -> None:
    put(desktop, f"{CARD}/ras/umc_err_count", "ue: 3\nce: 9\n")
    assert started(amd(SnapshotRoot(desktop)))[1].ecc_uncorrected == 3
    put(desktop, f"{CARD}/ras/umc_err_count", "none\n")
    assert started(amd(SnapshotRoot(desktop)))[1].unavailable["ecc_uncorrected"] == "not_reported"


def test_what_the_compute_driver_does_not_run_has_no_target_and_vulkan(desktop: Path) -> None:
    shutil.rmtree(desktop / "tree/sys/class/kfd")
    info, _ = started(amd(SnapshotRoot(desktop)))
    assert (info.backend, info.gfx_target, info.shader_cores, info.memory.bus_width_bits) == (
        *("vulkan", None),
        *(None, None),
    )
    assert "KFD" in info.unavailable["gfx_target"]


def test_an_accelerators_energy_is_read_at_an_edge(desktop: Path) -> None:
    table = bytearray(b"\x20\x01\x01\x04" + b"\0" * 284)
    table[24:32] = (65536 * 1000).to_bytes(8, "little")
    put(desktop, f"{CARD}/gpu_metrics", bytes(table))
    provider = amd(SnapshotRoot(desktop))
    info, sample = started(provider)
    assert sample.energy_joules_total == 1000.0
    assert provider.energy() == {info.id: 1000.0}


@pytest.mark.parametrize(
    ("properties", "method"),
    [
        ("gfx_target_version 0", "gfx_target"),
        ("simd_count 1", "gfx_target"),
        ("simd_count 3\nsimd_per_cu 2", "shader_cores"),
        ("simd_count 0\nsimd_per_cu 2", "shader_cores"),
    ],
)
def test_a_node_with_odd_properties_gives_reasons(tmp_path: Path, properties: str, method: str) -> None:
    root = tree(tmp_path, {"/n/properties": properties, "/n/mem_banks/0/properties": "width 0"})
    node = ComputeGpu([Node(root, "/n")])
    with pytest.raises(Unreadable):
        getattr(node, method)()
    with pytest.raises(Unreadable):
        node.bus_width_bits()


def test_the_node_of_another_gpu_is_not_taken(desktop: Path) -> None:
    root = SnapshotRoot(desktop)
    assert gpu_at(root, "0000:03:00.0") is not None
    assert gpu_at(root, "0000:04:00.0") is None
    assert gpu_at(root, "0001:03:00.0") is None


def test_a_cards_own_energy_counter_comes_before_its_packages(arc: Path) -> None:
    put(arc, f"{ARC}/hwmon/hwmon4/energy1_input", "5000000\n")
    assert started(intel(SnapshotRoot(arc)))[1].energy_joules_total == 5.0


def test_what_holds_a_card_back_is_named(arc: Path) -> None:
    put(arc, f"{ARC}/tile0/gt0/freq0/throttle/reason_pl1", "1\n")
    put(arc, f"{ARC}/tile0/gt0/freq0/throttle/reason_thermal", "1\n")
    put(arc, f"{ARC}/hwmon/hwmon4/power1_max", "190000000\n")
    info, sample = started(intel(SnapshotRoot(arc)))
    assert sample.throttle_reasons == ("pl1", "thermal")
    assert info.power_limit_watts == 190.0


def test_without_a_clock_file_there_is_no_clock_and_no_throttling(arc: Path) -> None:
    shutil.rmtree(arc / "tree" / f"{ARC}/tile0".lstrip("/"))
    put(arc, f"{ARC}/hwmon/hwmon4/power1_max", "0\n")
    info, sample = started(intel(SnapshotRoot(arc)))
    assert (sample.clocks, sample.throttle_reasons) == (None, None)
    assert sample.unavailable["clocks"] == sample.unavailable["throttle_reasons"] == "not_present"
    assert info.unavailable["power_limit_watts"] == "not_reported"


def readings_of(provider: SysfsGpuProvider, *pids: int) -> GpuReadings:
    provider.probe()
    provider.inventory()
    provider.follow(pids)
    return provider.sample(BOTH)


def test_memory_of_another_users_process_is_not_known_and_the_reason_says_so(arc: Path) -> None:
    deny(arc, "/proc/1300/fd")
    readings = readings_of(intel(SnapshotRoot(arc)), 1200, 1300)
    assert readings.process_memory == {}
    assert readings.process_reasons == {1300: "no_permission"}


def test_of_another_users_process_the_compute_driver_knows_a_cards_memory_but_not_an_apus(
    desktop: Path, tmp_path: Path
) -> None:
    deny(desktop, "/proc/1300/fd")
    card = readings_of(amd(SnapshotRoot(desktop)), 1300)
    assert (list(card.process_memory), card.process_reasons) == ([1300], {})
    apu = Path(shutil.copytree(SNAPSHOTS / "amd-apu", tmp_path / "apu"))
    deny(apu, "/proc/1300/fd")
    shared = readings_of(amd(SnapshotRoot(apu)), 1300)
    assert (shared.process_memory, shared.process_reasons) == ({}, {1300: "no_permission"})


def deny(machine: Path, path: str, error: str = "EACCES") -> None:
    manifest = machine / "manifest.json"
    document = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(document | {"errors": document.get("errors", {}) | {path: error}}))


def test_a_card_that_refuses_for_now_is_degraded_and_nobody_is_sent_to_change_permissions(
    desktop: Path,
) -> None:
    deny(desktop, f"{CARD}/gpu_busy_percent", "EPERM")
    _, sample = started(amd(SnapshotRoot(desktop)))
    assert (sample.state, sample.utilization_ratio) == ("degraded", None)
    assert advice("utilization_ratio", sample.unavailable["utilization_ratio"]) == (
        "nothing, if it passes; else see dmesg for the driver's own words"
    )


def test_a_card_that_falls_asleep_while_it_is_read_is_asleep(desktop: Path) -> None:
    deny(desktop, f"{CARD}/gpu_busy_percent", "EPERM")
    provider = amd(FallsAsleep(desktop))
    provider.probe()
    provider.inventory()
    (sample,) = provider.sample(BOTH).gpus
    assert (sample.state, sample.temperature_celsius) == ("suspended", None)


class FallsAsleep(SnapshotRoot):
    """A machine whose card goes to sleep when it is asked how busy it is."""

    def open(self, path: str) -> int:
        if path.endswith("/gpu_busy_percent"):
            put(self.folder, f"{CARD}/power/runtime_status", "suspended\n")
        return super().open(path)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder


@pytest.mark.parametrize(("driver", "found"), [("amdgpu", 1), ("amdxdna", 0)])
def test_an_accelerator_counts_as_a_gpu_when_the_gpus_driver_runs_it(
    tmp_path: Path, driver: str, found: int
) -> None:
    address = "0000:05:00.0"
    files = pci(address, "0x1002", device="0x74a1") | {f"/sys/bus/pci/devices/{address}/class": "0x120000"}
    links = {f"/sys/bus/pci/devices/{address}/driver": f"../../drivers/{driver}"}
    provider = amd(tree(tmp_path, BASICS | files, links=links))
    assert provider.probe().status == ("ok" if found else "absent")
    assert len(provider.inventory()) == found


def unknown_in(info: GpuInfo, sample: GpuSample) -> set[str]:
    """The fields that are null because the driver's number is its way to say that it does not know."""
    reasons = info.unavailable | info.memory.unavailable | sample.unavailable
    return {field for field, reason in reasons.items() if reason == "not_reported"}


@pytest.mark.parametrize(
    ("file", "content", "fields"),
    [
        ("hwmon/hwmon4/power1_average", "0", {"power_watts"}),
        ("hwmon/hwmon4/power1_cap", "0", {"power_limit_watts"}),
        ("hwmon/hwmon4/temp1_input", "0", {"temperature_celsius"}),
        ("hwmon/hwmon4/temp1_input", "-1000", {"temperature_celsius"}),
        ("mem_info_vram_total", "0", {"total_bytes", "memory_used_bytes"}),
        ("mem_info_gtt_total", "0", {"shared_total_bytes", "shared_used_bytes"}),
        ("unique_id", "0000000000000000", {"uuid"}),
        ("max_link_speed", "Unknown", {"pcie"}),
    ],
)
def test_a_zero_that_means_unknown_is_null_on_an_amd_card(
    desktop: Path, file: str, content: str, fields: set[str]
) -> None:
    before = unknown_in(*started(amd(SnapshotRoot(desktop))))
    if file == "max_link_speed":
        put(desktop, f"{PORT}/max_link_width", "255")
    put(desktop, f"{PORT if file == 'max_link_speed' else CARD}/{file}", content)
    info, sample = started(amd(SnapshotRoot(desktop)))
    assert unknown_in(info, sample) - before == fields
    assert sample.state == "ok"


PORT = "/sys/devices/pci0000:00/0000:00:03.1/0000:01:00.0"
"""The card's upstream port, where its link to the slot is."""


def test_a_zero_that_means_unknown_is_null_on_an_intel_card(arc: Path) -> None:
    for file in ("energy1_input", "energy2_input", "temp2_input", "power1_max"):
        put(arc, f"{ARC}/hwmon/hwmon4/{file}", "0\n")
    put(arc, f"{ARC}/tile0/gt0/freq0/act_freq", "0\n")
    unknown = unknown_in(*started(intel(SnapshotRoot(arc))))
    assert unknown >= {"energy_joules_total", "temperature_celsius", "power_limit_watts", "clocks"}


def test_a_clock_that_is_off_leaves_the_other(desktop: Path) -> None:
    put(desktop, f"{CARD}/hwmon/hwmon4/freq1_input", "0\n")
    _, sample = started(amd(SnapshotRoot(desktop)))
    assert sample.clocks is not None
    assert (sample.clocks.graphics_hertz, (sample.clocks.memory_hertz or 0) > 0) == (None, True)


def test_a_total_that_cannot_be_read_does_not_take_what_is_used_with_it(desktop: Path) -> None:
    before = started(amd(SnapshotRoot(desktop)))[1].memory_used_bytes
    deny(desktop, f"{CARD}/mem_info_vram_total", "EIO")
    info, sample = started(amd(SnapshotRoot(desktop)))
    assert (info.memory.total_bytes, sample.memory_used_bytes) == (None, before)


def test_the_first_sensor_is_the_first_by_number(arc: Path) -> None:
    for sensor, degrees in (("temp2", "0"), ("temp10", "90000"), ("temp3", "40000")):
        put(arc, f"{ARC}/hwmon/hwmon4/{sensor}_input", f"{degrees}\n")
        put(arc, f"{ARC}/hwmon/hwmon4/{sensor}_label", "unnamed\n")
    put(arc, f"{ARC}/hwmon/hwmon4/temp2_input", "50000\n")
    assert started(intel(SnapshotRoot(arc)))[1].temperature_celsius == 50.0


def test_names_of_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    root = tree(tmp_path, {f"/d/card{number}": "" for number in (10, 2, 1)}, links={"/d/card9": "card1"})
    assert root.names("/d") == ["card1", "card2", "card9", "card10"]


def test_one_tile_that_cannot_be_read_does_not_take_the_others_clock(arc: Path) -> None:
    for number, megahertz in ((1, "1500"), (10, "2100")):
        put(arc, f"{ARC}/tile{number}/gt{number}/freq0/act_freq", f"{megahertz}\n")
    put(arc, f"{ARC}/tile1/gt2/freq0/act_freq", "9999\n")  # the media engine's
    deny(arc, f"{ARC}/tile0/gt0/freq0/act_freq", "EIO")
    _, sample = started(intel(SnapshotRoot(arc)))
    assert sample.clocks is not None
    assert sample.clocks.graphics_hertz == 2_100_000_000


def test_one_reason_that_cannot_be_read_leaves_those_that_hold_and_hides_that_nothing_does(
    arc: Path,
) -> None:
    throttle = f"{ARC}/tile0/gt0/freq0/throttle"
    deny(arc, f"{throttle}/reason_thermal", "EIO")
    _, sample = started(intel(SnapshotRoot(arc)))
    assert (sample.throttle_reasons, sample.unavailable["throttle_reasons"]) == (None, "driver_error: EIO")
    put(arc, f"{throttle}/reason_pl1", "1\n")
    assert started(intel(SnapshotRoot(arc)))[1].throttle_reasons == ("pl1",)


def test_virtual_functions_and_second_outputs_are_no_gpus_of_their_own(tmp_path: Path) -> None:
    files, links = BASICS, {}
    for address in ("0000:03:00.0", "0000:03:00.1", "0000:03:00.2", "0000:03:01.0"):
        files = files | pci(address, "0x8086")
    for address in ("0000:03:00.0", "0000:03:00.2", "0000:03:01.0"):
        links[f"/sys/bus/pci/devices/{address}/driver"] = "../../drivers/xe"
    links["/sys/bus/pci/devices/0000:03:00.2/physfn"] = "../0000:03:00.0"
    provider = intel(tree(tmp_path, files, links=links))
    assert provider.probe().status == "ok"
    assert [gpu.pci_address for gpu in provider.inventory()] == ["0000:03:00.0", "0000:03:01.0"]


def test_two_cards_that_share_a_serial_number_stay_two(tmp_path: Path) -> None:
    files, links = BASICS, {}
    for address in ("0000:03:00.0", "0000:83:00.0"):
        files = files | pci(address, "0x1002", unique_id="1f2e3d4c5b6a7988", gpu_busy_percent=address[5])
        links[f"/sys/bus/pci/devices/{address}/driver"] = "../../drivers/amdgpu"
    provider = amd(tree(tmp_path, files, links=links))
    provider.probe()
    assert [gpu.id for gpu in provider.inventory()] == ["0000:03:00.0", "0000:83:00.0"]
    samples = {gpu.id: gpu.utilization_ratio for gpu in provider.sample(BOTH).gpus}
    assert samples == {"0000:03:00.0": 0.0, "0000:83:00.0": 0.08}


def test_a_partition_that_is_hidden_leaves_the_units_unknown_and_not_too_few(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SNAPSHOTS / "amd-mi300", tmp_path / "machine"))
    deny(folder, "/sys/class/kfd/kfd/topology/nodes/1/properties", "EPERM")
    info, _ = started(amd(SnapshotRoot(folder)))
    assert info.shader_cores is None
    assert info.unavailable["shader_cores"] == "not_reported: not every partition of the GPU is visible"


def test_a_partition_that_cannot_be_asked_leaves_a_process_unknown_and_not_too_small(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SNAPSHOTS / "amd-mi300", tmp_path / "machine"))
    compute = gpu_at(SnapshotRoot(folder), "0000:07:00.0")
    assert compute is not None
    (folder / "tree/sys/class/kfd/kfd/proc/78/vram_5001").unlink()
    assert compute.process_bytes(78) == 51_000_000_000
    deny(folder, "/sys/class/kfd/kfd/proc/78/vram_5001")
    compute = gpu_at(SnapshotRoot(folder), "0000:07:00.0")
    assert compute is not None
    with pytest.raises(Unreadable, match="no_permission"):
        compute.process_bytes(78)
