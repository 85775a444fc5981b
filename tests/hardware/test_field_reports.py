"""Machines of public reports that were once read wrongly: each with the right value, and its whole kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from obt_agent.hardware.host.reader import LOCAL_OLLAMA_URL, HostReader
from obt_agent.hardware.read_once import MachineReading, read_once
from obt_agent.hardware.snapshot.root import SnapshotRoot
from tests.hardware.replay import SNAPSHOTS
from tests.hardware.trees import BASICS, put, tree

GIB = 1 << 30
CPUS = "/sys/devices/system/cpu"
DMI = "/sys/class/dmi/id"


def reading_of(name: str) -> MachineReading:
    return read_once(SnapshotRoot(SNAPSHOTS / name), ())


def read(tmp_path: Path, files: dict[str, str], errors: dict[str, str] | None = None) -> MachineReading:
    return read_once(tree(tmp_path, BASICS | files, errors=errors), ())


def test_a_guest_of_lxc_has_its_own_cores_and_no_cpus_of_the_hosts_numbers() -> None:
    inventory = reading_of("lxc-guest").inventory
    assert (inventory.cpu.physical_cores, inventory.cpu.logical_cores) == (5, 5)
    assert inventory.limits.cpuset is None  # all of its five
    assert "cpuset" not in inventory.limits.unavailable


def test_more_cores_than_threads_are_not_believed(tmp_path: Path) -> None:
    files = {f"{CPUS}/cpu{n}/topology/core_cpus_list": str(n) for n in range(4)}
    errors = {f"{CPUS}/online": "EACCES"}
    cpuinfo = {"/proc/cpuinfo": "processor\t: 0\nflags\t: avx2\n\nprocessor\t: 1\nflags\t: avx2\n"}
    cpu = read(tmp_path, files | cpuinfo, errors=errors).inventory.cpu
    assert (cpu.physical_cores, cpu.logical_cores) == (None, 2)
    assert cpu.unavailable["physical_cores"] == "inconsistent"


def test_one_cpu_that_is_switched_off_hides_no_other() -> None:
    reading = reading_of("offline-cpu")
    cpu = reading.inventory.cpu
    assert (cpu.max_hertz, cpu.base_hertz) == (5_000_000_000, 1_900_000_000)
    assert (cpu.sockets, cpu.physical_cores) == (1, 19)
    assert reading.sample.cpu.clock_hertz == 2_100_000_000


@pytest.mark.parametrize("error", ["EBUSY", "EIO", "EACCES", "ENODEV"])
def test_any_one_member_that_cannot_be_read_leaves_the_others_their_value(tmp_path: Path, error: str) -> None:
    package = "topology/physical_package_id"
    throttled = "thermal_throttle/package_throttle_total_time_ms"
    files = {f"{CPUS}/online": "0-2", "/sys/devices/cpu_core/cpus": "0-2"}
    errors = {f"{CPUS}/cpu1/{package}": error, f"{CPUS}/cpu1/{throttled}": error}
    for n in (0, 2):
        files |= {f"{CPUS}/cpu{n}/{package}": "0", f"{CPUS}/cpu{n}/{throttled}": "1500"}
        files |= {f"{CPUS}/cpu{n}/cpufreq/cpuinfo_max_freq": "3000000"}
        files |= {f"{CPUS}/cpu{n}/acpi_cppc/nominal_freq": "2000"}
    for name in ("cpufreq/cpuinfo_max_freq", "acpi_cppc/nominal_freq"):
        errors[f"{CPUS}/cpu1/{name}"] = error
    for zone in ("1", "2"):
        files[f"/sys/class/thermal/thermal_zone{zone}/type"] = "x86_pkg_temp"
        files[f"/sys/class/powercap/intel-rapl:{zone}/name"] = f"package-{zone}"
    files["/sys/class/thermal/thermal_zone1/temp"] = "45000"
    errors["/sys/class/thermal/thermal_zone2/temp"] = error
    reading = read(tmp_path, files, errors=errors)
    cpu = reading.inventory.cpu
    assert (cpu.sockets, cpu.base_hertz) == (1, 2_000_000_000)
    assert [kind.max_hertz for kind in cpu.core_types] == [3_000_000_000]
    assert reading.sample.cpu.temperature_celsius == 45.0
    assert reading.sample.cpu.throttled_seconds_total == 1.5


def test_the_hotter_package_is_the_one_that_counts_whatever_its_number() -> None:
    assert reading_of("two-packages").sample.cpu.temperature_celsius == 83.0


def test_the_hottest_zone_of_a_cpu_counts_by_whatever_name_arm_has_for_it() -> None:
    assert reading_of("rk3588").sample.cpu.temperature_celsius == 61.0


@pytest.mark.parametrize(
    ("zone", "counts"),
    [
        *((zone, True) for zone in ("cpu-thermal", "cpu_thermal", "cpu0-thermal", "cpuss-1-thermal")),
        *((zone, True) for zone in ("bigcore1-thermal", "littlecore-thermal", "package-thermal")),
        *((zone, True) for zone in ("CPU-therm", "soc-thermal", "soc_thermal", "x86_pkg_temp")),
        *((zone, False) for zone in ("gpu-thermal", "npu-thermal", "GPU-therm", "battery", "iwlwifi_1")),
    ],
)
def test_zones_of_cpus_and_no_others_are_the_cpus_temperature(
    tmp_path: Path, zone: str, counts: bool
) -> None:
    folder = "/sys/class/thermal/thermal_zone7"
    sample = read(tmp_path, {f"{folder}/type": f"{zone}\n", f"{folder}/temp": "51000\n"}).sample
    assert sample.cpu.temperature_celsius == (51.0 if counts else None)


def test_the_whole_chips_zone_counts_only_where_the_cpu_has_none(tmp_path: Path) -> None:
    files = {}
    for number, (zone, degrees) in enumerate((("soc-thermal", 70), ("cpu-thermal", 50))):
        files[f"/sys/class/thermal/thermal_zone{number}/type"] = zone
        files[f"/sys/class/thermal/thermal_zone{number}/temp"] = f"{degrees}000"
    assert read(tmp_path, files).sample.cpu.temperature_celsius == 50.0


def test_a_sensor_that_says_0_is_one_that_is_not_there(tmp_path: Path) -> None:
    folder = "/sys/class/thermal/thermal_zone0"
    cpu = read(tmp_path, {f"{folder}/type": "cpu-thermal", f"{folder}/temp": "0"}).sample.cpu
    assert (cpu.temperature_celsius, cpu.unavailable["temperature_celsius"]) == (None, "not_reported")


def test_a_measured_clock_is_preferred_to_a_requested_one() -> None:
    assert reading_of("measured-clock").sample.cpu.clock_hertz == 3_912_000_000


def test_a_measured_clock_of_idle_cores_alone_leaves_the_requested_one(tmp_path: Path) -> None:
    policy = f"{CPUS}/cpufreq/policy0"
    files = {f"{policy}/scaling_cur_freq": "1200000"}
    errors = {f"{policy}/cpuinfo_avg_freq": "EAGAIN"}
    assert read(tmp_path, files, errors=errors).sample.cpu.clock_hertz == 1_200_000_000


STACKS = {
    "zfs": (
        {"zd0": "virtual/block/zd0", "zd16": "virtual/block/zd16", "nvme0n1": "pci0/nvme/nvme0n1"},
        {},
        (),
    ),
    "bcache": (
        {"bcache0": "virtual/block/bcache0", "sda": "pci0/ata1/sda", "nvme0n1": "pci0/nvme/nvme0n1"},
        {"bcache0": ("sda", "nvme0n1")},
        (),
    ),
    "multipath": (
        {"nvme0n1": "virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "nvme0c0n1": "pci0/nvme/nvme0c0n1"},
        {},
        ("nvme0c0n1",),
    ),
    # a name that no list has: what stands on others says so
    "unheard": (
        {"newraid0": "pci0/x/newraid0", "sda": "pci0/ata1/sda", "sdb": "pci0/ata2/sdb"},
        {"newraid0": ("sda", "sdb")},
        (),
    ),
}
MIB = 1 << 20


@pytest.mark.parametrize("stack", STACKS)
def test_every_byte_of_stacked_disks_counts_once(tmp_path: Path, stack: str) -> None:
    places, slaves, hidden = STACKS[stack]
    links = {f"/sys/block/{name}": f"../devices/{place}" for name, place in places.items()}
    files = {f"/sys/devices/{place}/size": "8" for place in places.values()}
    for name, below in slaves.items():
        files |= {f"/sys/devices/{places[name]}/slaves/{one}/size": "8" for one in below}
    files |= {f"/sys/devices/{places[name]}/hidden": "1" for name in hidden}
    upper = {name for name in places if name in slaves or name in hidden or name.startswith("zd")}
    lowest = [name for name in places if name not in upper]

    def diskstats(mib: int) -> str:
        share = {name: mib // len(lowest) for name in lowest}
        moved = share | {name: mib // max(1, sum(n.startswith("zd") for n in upper)) for name in upper}
        lines = [f"8 0 {name} 1 0 {size * 2048} 0 1 0 0 0 0 0 0" for name, size in moved.items()]
        return "\n".join([*lines, f"259 1 {lowest[0]}p1 1 0 {mib * 2048} 0 1 0 0 0 0 0 0"])

    root = tree(tmp_path, BASICS | files | {"/proc/diskstats": diskstats(0)}, links=links)
    reader = HostReader(root, LOCAL_OLLAMA_URL)
    now = [10_000_000_000]
    reader._rates._clock = lambda: now[0]  # noqa: SLF001 -- two seconds pass
    reader.inventory(None)
    reader.sample()
    put(tmp_path, "/proc/diskstats", diskstats(200))
    now[0] += 2_000_000_000
    assert reader.sample().disk.read_bytes_per_second == 100 * MIB
    reader.close()


def test_words_that_no_maker_wrote_are_no_facts() -> None:
    host = reading_of("junk-dmi").inventory.host
    assert host.board is None
    assert host.unavailable["board"] == "not_reported"
    assert host.bios is not None
    assert (host.bios.vendor, host.bios.version) == ("American Megatrends Inc.", None)


@pytest.mark.parametrize(
    "word",
    [
        *("To be filled by O.E.M.", "To Be Filled By OEM", "Default string", "System Product Name", "OEM"),
        *(
            "Not Applicable",
            "Not Specified",
            "N/A",
            "None",
            "Unknown",
            "INVALID",
            "xxxxxxxx",
            "0000",
            "........",
        ),
        *("Type2 - Board Product Name1", "System manufacturer", "O.E.M.", "123456789", "..."),
    ],
)
def test_a_filler_is_one_for_board_firmware_and_modules_alike(tmp_path: Path, word: str) -> None:
    udev = f"E:MEMORY_DEVICE_0_SIZE=1024\nE:MEMORY_DEVICE_0_LOCATOR={word}\nE:MEMORY_DEVICE_0_TYPE={word}\n"
    files = {f"{DMI}/board_name": word, f"{DMI}/bios_vendor": word, "/run/udev/data/+dmi:id": udev}
    inventory = read(tmp_path, files).inventory
    assert (inventory.host.board, inventory.host.bios) == (None, None)
    (module,) = inventory.memory.modules
    assert (module.size_bytes, module.locator, module.type) == (1024, None, None)


@pytest.mark.parametrize(
    "word", ["X570 AORUS ELITE", "ROG STRIX B650E-F", "0VK7NX", "20XXS3HC00", "Nonesuch"]
)
def test_a_real_name_is_kept(tmp_path: Path, word: str) -> None:
    board = read(tmp_path, {f"{DMI}/board_name": word}).inventory.host.board
    assert board is not None
    assert board.name == word


def test_flash_chips_are_no_memory(tmp_path: Path) -> None:
    slots = [("0", "8388608", "Flash"), ("1", "17179869184", "DDR4"), ("2", "16777216", "EEPROM")]
    udev = "".join(
        f"E:MEMORY_DEVICE_{n}_SIZE={size}\nE:MEMORY_DEVICE_{n}_TYPE={kind}\n" for n, size, kind in slots
    )
    memory = read(tmp_path, {"/run/udev/data/+dmi:id": udev}).inventory.memory
    assert [module.size_bytes for module in memory.modules] == [16 * GIB]
    assert memory.type == "DDR4"


def test_a_slot_with_an_odd_number_costs_that_number_alone(tmp_path: Path) -> None:
    udev = (
        "E:MEMORY_DEVICE_0_SIZE=lots\nE:MEMORY_DEVICE_0_TYPE=DDR4\nE:MEMORY_DEVICE_0_SPEED_MTS=0\n"
        "E:MEMORY_DEVICE_1_SIZE=1024\nE:MEMORY_DEVICE_1_TYPE=DDR4\nE:MEMORY_DEVICE_1_SPEED_MTS=3200\n"
    )
    modules = read(tmp_path, {"/run/udev/data/+dmi:id": udev}).inventory.memory.modules
    assert [(module.size_bytes, module.speed_mt_s) for module in modules] == [(None, None), (1024, 3200)]


def test_the_cache_of_zfs_is_not_use_but_for_the_least_that_it_keeps() -> None:
    memory = reading_of("zfs-host").sample.memory
    assert memory.used_bytes == 67384639488 - 10737418240 - 28 * GIB
    assert memory.available_bytes == 10737418240 + 28 * GIB


@pytest.mark.parametrize("size", ["1", "0"])
def test_a_cache_of_zfs_below_its_floor_gives_nothing_back(tmp_path: Path, size: str) -> None:
    stats = f"13 1 0x01 1 2\nname type data\nsize 4 {size}\nc_min 4 4096\n"
    memory = read(tmp_path, {"/proc/spl/kstat/zfs/arcstats": stats}).sample.memory
    assert memory.available_bytes == 600 * 1024


def test_runners_are_found_by_their_parent_where_the_kernel_has_no_lists_of_children() -> None:
    processes = {process.pid: process for process in reading_of("no-children").sample.ollama}
    assert processes[78].role == "runner"
    assert processes[78].rss_bytes == 4_915_200_000


@pytest.mark.parametrize(
    ("files", "virtualization"),
    [
        ({"/proc/xen/capabilities": "control_d\n"}, "none"),
        ({"/proc/xen/capabilities": ""}, "xen"),
        ({"/sys/hypervisor/properties/features": "00000000,00002705"}, "xen"),
        ({"/sys/hypervisor/properties/features": "00000b05"}, "none"),
        ({"/sys/hypervisor/properties/features": "00002705"}, "xen"),
    ],
)
def test_xens_first_domain_is_the_machine_and_the_others_are_guests(
    tmp_path: Path, files: dict[str, str], virtualization: str
) -> None:
    host = read(tmp_path, {"/sys/hypervisor/type": "xen\n"} | files).inventory.host
    assert host.virtualization == virtualization


def test_clusters_of_an_arm_board_are_no_sockets(tmp_path: Path) -> None:
    files = {f"{CPUS}/cpu{n}/topology/physical_package_id": str(n // 4) for n in range(8)}
    files |= {f"{CPUS}/online": "0-7", "/sys/firmware/devicetree/base/model": "A board"}
    assert read(tmp_path, files).inventory.cpu.sockets == 1
    sockets = {f"/sys/firmware/devicetree/base/cpus/cpu-map/socket{n}/name": "" for n in range(2)}
    assert read(tmp_path, files | sockets).inventory.cpu.sockets == 2


def test_a_package_that_the_kernel_cannot_tell_is_none(tmp_path: Path) -> None:
    files = {f"{CPUS}/cpu0/topology/physical_package_id": "-1", f"{CPUS}/online": "0"}
    cpu = read(tmp_path, files).inventory.cpu
    assert (cpu.sockets, cpu.unavailable["sockets"]) == (None, "not_reported")
