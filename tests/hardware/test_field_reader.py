"""Small parts: reasons, roots, rates, parsers."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.errors import HardwareError
from obt_agent.hardware.field_reader import REASONS, FieldReader, Unreadable, bounded, non_negative, reason_of
from obt_agent.hardware.gpu.amd import gpu_metrics
from obt_agent.hardware.host.counters import busy_ratio
from obt_agent.hardware.host.linux import cpu_info, cpu_temperature, dmi, fdinfo, mounts, pci
from obt_agent.hardware.host.linux.cpu_frequency import CpuFrequency
from obt_agent.hardware.host.linux.file_readings import parse_cpu_times
from obt_agent.hardware.host.linux.kernel_text import key_values
from obt_agent.hardware.host.linux.platform import LinuxPlatform
from obt_agent.hardware.host.linux.pressure import PressureReader, parse_total
from obt_agent.hardware.host.linux.rapl import Rapl
from obt_agent.hardware.host.rates import Rates
from obt_agent.hardware.host.reader import LOCAL_OLLAMA_URL, HostReader
from obt_agent.hardware.host.readings import CpuTimes
from obt_agent.hardware.snapshot.root import FileCache, Root, open_root
from tests.hardware.trees import put, tree

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EACCES, "no_permission"),
        (errno.EPERM, "driver_error: refused for now, as while the device is being reset or falls asleep"),
        (errno.ENOENT, "not_present"),
        (errno.EOPNOTSUPP, "not_supported"),
        (errno.EIO, "driver_error: EIO"),
    ],
)
def test_an_error_of_the_system_becomes_a_reason(number: int, reason: str) -> None:
    assert reason_of(OSError(number, os.strerror(number))) == reason


def test_a_field_is_null_with_a_reason_whatever_its_source_raises() -> None:
    gaps = FieldReader()

    def fails() -> int:
        raise ValueError

    assert gaps.read("a", fails) is None
    assert gaps.read("b", lambda: float("nan")) is None
    assert gaps.read("c", lambda: float("inf")) is None
    assert gaps.read("d", lambda: 7) == 7
    assert gaps.first("e", fails, lambda: 8) == 8
    assert gaps.reasons == dict.fromkeys("abc", "malformed")
    assert set(gaps.reasons.values()) <= set(REASONS)


@pytest.mark.parametrize("value", [-1, 2**32 - 1, 2**63 - 1, 2**64 - 1])
def test_a_mark_for_unknown_is_no_number(value: int) -> None:
    with pytest.raises(Unreadable):
        non_negative(value)


def test_text_from_the_system_is_made_fit_to_show() -> None:
    assert bounded("  a\x1b[31mb\n" + "x" * 300, 10) == "a[31mbxxxx"
    with pytest.raises(Unreadable):
        bounded("\x00\x01 ")


def test_a_hot_file_is_read_afresh_each_time_and_opened_again_after_an_error(tmp_path: Path) -> None:
    root = tree(tmp_path, {"/a": "1\n"})
    hot = FileCache(root)
    assert hot.integer("/a") == 1
    (tmp_path / "tree/a").write_text("22\n")
    assert hot.integer("/a") == 22
    (tmp_path / "tree/a").write_text("y" * 10_000)
    assert len(hot.text("/a")) == 10_000
    hot.close()
    (tmp_path / "tree/a").unlink()
    with pytest.raises(FileNotFoundError):
        hot.text("/a")
    put(tmp_path, "/a", "3")
    assert hot.integer("/a") == 3
    hot.close()


def test_a_snapshot_gives_the_errors_and_links_of_its_manifest_and_leads_nowhere_else(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {"/sys/real/file": "x\n"},
        errors={"/sys/closed": "EACCES"},
        links={"/sys/link": "real", "/out": "../../../../etc", "/loop": "pool", "/pool": "loop"},
        sizes={"/models": {"total_bytes": 2, "free_bytes": 1}},
    )
    assert root.text("/sys/link/file") == "x"
    assert root.link("/sys/link") == "real"
    assert root.names("/sys") == ["closed", "link", "real"]
    with pytest.raises(PermissionError):
        root.text("/sys/closed")
    with pytest.raises(FileNotFoundError):
        root.text("/out/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        root.text("/loop")
    with pytest.raises(OSError, match="Invalid argument"):
        root.link("/sys/real")
    assert root.exists("/sys/closed")
    assert not root.exists("/nowhere")
    assert root.size("/models").free_bytes == 1
    with pytest.raises(FileNotFoundError):
        root.size("/")


def test_the_root_of_this_machine_is_the_real_one(tmp_path: Path) -> None:
    root = open_root(Path("/"))
    assert root.real
    assert root.text("/proc/self/comm")
    assert root.link("/proc/self") == str(os.getpid())
    assert root.resolve("/proc/self") == f"/proc/{os.getpid()}"
    assert root.exists("/proc")
    assert root.size("/").total_bytes > 0
    with pytest.raises(FileNotFoundError):
        open_root(tmp_path)


def test_a_rate_needs_two_readings_far_enough_apart() -> None:
    rates = Rates()
    rates.update({"a": 100, "b read": 5}, 0)
    with pytest.raises(Unreadable, match="needs_two_readings"):
        rates.of("a")
    rates.update({"a": 300, "b read": 15}, 2 * SECOND)
    assert rates.of("a") == 100.0
    assert rates.total(" read") == 5.0
    rates.update({"a": 1000, "b read": 0}, 2 * SECOND + 1000)
    assert rates.of("a") == 100.0
    rates.update({"a": 10}, 4 * SECOND)
    with pytest.raises(Unreadable):
        rates.of("a")
    with pytest.raises(Unreadable):
        rates.total(" read")


@given(
    st.builds(CpuTimes, st.floats(0, 2**40), st.floats(0, 2**40)),
    st.builds(CpuTimes, st.floats(0, 2**40), st.floats(0, 2**40)),
)
def test_a_busy_share_is_between_0_and_1_whatever_the_counters_do(before: CpuTimes, now: CpuTimes) -> None:
    ratio = busy_ratio(before, now)
    assert ratio is None or 0.0 <= ratio <= 1.0


@pytest.mark.parametrize("text", ["", "cpu 1 2", "cpux 1 2 3 4 5", "intr 5", "cpu a b c d", "cpu 1 2 3 4"])
def test_counters_of_another_shape_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- any ValueError becomes "malformed"
        parse_cpu_times(text)


@pytest.mark.parametrize(("text", "numbers"), [("0-3,8", [0, 1, 2, 3, 8]), ("", []), ("5\n", [5])])
def test_a_list_of_cpus_is_read_as_the_kernel_writes_it(text: str, numbers: list[int]) -> None:
    assert cpu_info.expand_list(text) == numbers


@pytest.mark.parametrize("text", ["a", "3-1", "-4", "0-999999999"])
def test_a_list_of_cpus_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- any ValueError becomes "malformed"
        cpu_info.expand_list(text)


def test_an_arm_cpu_is_named_by_its_part(tmp_path: Path) -> None:
    block = "processor\t: {}\nFeatures\t: fp asimd sve bf16 i8mm\nCPU implementer\t: 0x41\nCPU part\t: {}\n"
    root = tree(tmp_path, {"/proc/cpuinfo": "\n".join([block.format(0, "0xd85"), block.format(1, "0xd87")])})
    info = cpu_info.read(root)
    assert (info.vendor, info.model) == ("ARM", "Cortex-X925 + Cortex-A725")
    assert info.isa == ("asimd", "i8mm", "bf16", "sve")
    assert info.logical_cores == 2


def test_arms_kinds_of_cores_are_told_apart_and_a_boards_name_is_no_cpus(tmp_path: Path) -> None:
    block = "processor\t: {}\nCPU implementer\t: 0x41\nCPU part\t: {}\n"
    parts = ["0xd05", "0xd05", "0xd0b", "0xfff"]
    text = "\n".join(block.format(number, part) for number, part in enumerate(parts))
    speeds = {
        f"/sys/devices/system/cpu/cpu{n}/cpufreq/cpuinfo_max_freq": s
        for n, s in ((0, "1800000"), (1, "1800000"), (2, "2400000"))
    }
    info = cpu_info.read(tree(tmp_path, speeds | {"/proc/cpuinfo": f"{text}\nModel\t: Some Board 5\n"}))
    assert info.model is None
    assert [(kind.name, kind.logical_cores, kind.max_hertz) for kind in info.core_types] == [
        ("Cortex-A76", 1, 2_400_000_000),
        ("Cortex-A55", 2, 1_800_000_000),
        ("part 0xfff", 1, None),
    ]


@pytest.mark.parametrize(("implementer", "part"), [("0x41", "0x001"), ("0x61", "0xd85"), ("x", "y")])
def test_an_arm_cpu_that_is_not_known_has_no_invented_name(
    tmp_path: Path, implementer: str, part: str
) -> None:
    text = f"processor\t: 0\nCPU implementer\t: {implementer}\nCPU part\t: {part}\n"
    info = cpu_info.read(tree(tmp_path, {"/proc/cpuinfo": text}))
    assert info.model is None
    assert info.unavailable["model"] in ("not_reported", "malformed")


@pytest.mark.parametrize(
    ("words", "governor"),
    [
        (("performance", "performance"), "performance"),
        (("schedutil", "performance"), "performance, schedutil"),
    ],
)
def test_the_governor_is_that_of_all_cores_each_word_once(
    tmp_path: Path, words: tuple[str, str], governor: str
) -> None:
    folder = "/sys/devices/system/cpu/cpufreq"
    files = {f"{folder}/policy{n}/scaling_governor": f"{word}\n" for n, word in enumerate(words)}
    assert cpu_info.read(tree(tmp_path, files)).governor == governor


def test_a_machine_that_chooses_no_clocks_has_no_governor(tmp_path: Path) -> None:
    assert cpu_info.read(tree(tmp_path, {})).unavailable["governor"] == "not_present"


def test_energy_of_the_packages_counts_on_through_a_wrap(tmp_path: Path) -> None:
    folder = "/sys/class/powercap/intel-rapl:0"
    root = tree(
        tmp_path,
        {
            f"{folder}/name": "package-0",
            f"{folder}/max_energy_range_uj": "1000000",
            f"{folder}/energy_uj": "900000",
            "/sys/class/powercap/intel-rapl:0:0/name": "core",
            "/sys/class/powercap/dtpm/name": "package-9",
        },
    )
    rapl = Rapl(root)
    with pytest.raises(Unreadable, match="not_present"):
        rapl.joules()
    rapl.probe()
    assert rapl.joules() == 0.0
    put(tmp_path, f"{folder}/energy_uj", "400000")
    assert rapl.joules() == 0.5
    rapl.close()


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"hwmon/hwmon0/name": "nvme", "hwmon/hwmon0/temp1_input": "1"}, None),
        ({"hwmon/hwmon0/name": "k10temp", "hwmon/hwmon0/temp2_input": "1"}, "hwmon/hwmon0/temp2_input"),
        (
            {
                "hwmon/hwmon0/name": "coretemp",
                "hwmon/hwmon0/temp1_input": "1",
                "hwmon/hwmon0/temp1_label": "Core 0",
                "hwmon/hwmon0/temp9_input": "1",
                "hwmon/hwmon0/temp9_label": "Package id 0",
            },
            "hwmon/hwmon0/temp9_input",
        ),
        ({"thermal/thermal_zone1/type": "x86_pkg_temp"}, "thermal/thermal_zone1/temp"),
        ({"hwmon/hwmon0/name": "zenpower"}, None),
    ],
)
def test_the_cpus_own_sensor_is_found(tmp_path: Path, files: dict[str, str], found: str | None) -> None:
    root = tree(tmp_path, {f"/sys/class/{path}": text for path, text in files.items()})
    if found is None:
        with pytest.raises((OSError, Unreadable)):
            cpu_temperature.find_sensors(root)
    else:
        assert cpu_temperature.find_sensors(root) == (f"/sys/class/{found}",)


def test_of_several_packages_the_hottest_is_told(tmp_path: Path) -> None:
    files: dict[str, str] = {}
    for package, degrees in (("0", "51000"), ("1", "74500"), ("2", "999000")):
        folder = f"/sys/class/hwmon/hwmon{package}"
        files |= {f"{folder}/name": "coretemp", f"{folder}/temp1_input": degrees}
        files |= {f"{folder}/temp1_label": f"Package id {package}"}
    platform = LinuxPlatform(tree(tmp_path, files))
    platform.probe()
    assert platform.temperature_celsius() == 74.5
    for package in ("0", "1"):
        put(tmp_path, f"/sys/class/hwmon/hwmon{package}/temp1_input", "x")
    with pytest.raises(Unreadable, match="malformed"):
        platform.temperature_celsius()


@pytest.mark.parametrize(
    ("files", "hertz"),
    [
        ({"cpufreq/policy0/base_frequency": "3800000", "cpu0/acpi_cppc/nominal_freq": "1"}, 3_800_000_000),
        ({"cpu0/acpi_cppc/nominal_freq": "0", "cpu1/acpi_cppc/nominal_freq": "4501"}, 4_501_000_000),
        ({}, 2_500_000_000),
    ],
)
def test_the_base_clock_is_asked_of_the_kernel_of_firmware_and_of_intels_brand(
    tmp_path: Path, files: dict[str, str], hertz: int
) -> None:
    brand = {"/proc/cpuinfo": "processor : 0\nmodel name : Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz\n"}
    folder = "/sys/devices/system/cpu"
    root = tree(tmp_path, brand | {f"{folder}/{name}": text for name, text in files.items()})
    assert cpu_info.read(root).base_hertz == hertz


def structure(kind: int, body: bytes, *strings: bytes) -> bytes:
    return bytes([kind, 4 + len(body), 0, 0]) + body + b"\0".join([*strings, b""]) + b"\0"


def module(
    size: int, *, extended: int = 0, speed: int = 4800, configured: int = 6000, kind: int = 0x22
) -> bytes:
    body = bytearray(0x5C - 4)
    for at, value, width in (
        *((0x0C, size, 2), (0x10, 1, 1), (0x11, 2, 1), (0x12, kind, 1), (0x15, speed, 2)),
        *((0x1C, extended, 4), (0x20, configured, 2), (0x58, 8400, 4)),
    ):
        body[at - 4 : at - 4 + width] = value.to_bytes(width, "little")
    return structure(17, bytes(body), b"DIMM A1", b"P0 CHANNEL A")


def test_modules_are_read_from_firmwares_table() -> None:
    table = b"".join(
        [
            structure(1, b"\0" * 20, b"maker"),
            module(16384),
            module(0),
            module(0x7FFF, extended=65536),
            module(0xFFFF),
            module(0x8000 | 512, configured=0xFFFF),
            structure(127, b""),
            b"\0\0",
        ]
    )
    found = list(dmi.parse_table(table))
    gib, kib = 1 << 30, 1 << 10
    assert [m.size_bytes for m in found] == [16 * gib, 64 * gib, None, 512 * kib]
    assert (found[0].type, found[0].speed_mt_s) == ("DDR5", 6000)
    assert (found[0].locator, found[0].bank) == ("DIMM A1", "P0 CHANNEL A")
    assert found[3].speed_mt_s == 8400


@given(st.binary(max_size=400))
def test_any_bytes_are_modules_or_malformed(table: bytes) -> None:
    gaps = FieldReader()
    found = gaps.read("modules", lambda: list(dmi.parse_table(table)))
    assert gaps.reasons in ({}, {"modules": "malformed"})
    assert all(m.size_bytes is None or m.size_bytes > 0 for m in found or ())


def test_the_table_is_preferred_and_nothing_is_said_so(tmp_path: Path) -> None:
    table = module(16384) + structure(127, b"") + b"\0\0"
    root = tree(tmp_path / "a", {dmi.TABLE: table, dmi.UDEV: "E:MEMORY_DEVICE_0_SIZE=1"})
    assert [m.size_bytes for m in dmi.modules(root)] == [16 << 30]
    with pytest.raises(Unreadable, match="not_present"):
        dmi.modules(tree(tmp_path / "b"))


def test_modules_that_differ_have_no_common_type(tmp_path: Path) -> None:
    slots = (f"E:MEMORY_DEVICE_{n}_SIZE=1\nE:MEMORY_DEVICE_{n}_TYPE=DDR{n}" for n in (4, 5))
    udev = "\n".join(slots)
    root = tree(tmp_path, {dmi.UDEV: udev, "/proc/meminfo": "MemTotal: 8 kB\n"})
    info = LinuxPlatform(root).memory_info()
    assert info.type is None
    assert info.unavailable["type"] == "not_reported"
    assert info.unavailable["swap_total_bytes"] == "not_reported"


def test_more_available_than_there_is_is_not_believed(tmp_path: Path) -> None:
    root = tree(tmp_path, {"/proc/meminfo": "MemTotal: 8 kB\nMemAvailable: 9 kB\n"})
    sample = HostReader(root, LOCAL_OLLAMA_URL).sample().memory
    assert sample.used_bytes is None
    assert sample.unavailable["used_bytes"] == "inconsistent"


@given(st.binary(max_size=200))
def test_any_table_of_amds_gives_a_value_or_a_reason(table: bytes) -> None:
    gaps = FieldReader()
    gaps.read("energy", lambda: gpu_metrics.energy_joules(table))
    gaps.read("throttle", lambda: gpu_metrics.throttle_reasons(table))
    assert {reason.partition(":")[0] for reason in gaps.reasons.values()} <= set(REASONS)


def test_amds_table_gives_throttling_of_cards_and_energy_of_accelerators() -> None:
    card = bytearray(b"\x78\x00\x01\x03" + b"\0" * 116)
    card[112:120] = (1 << 0 | 1 << 36 | 1 << 57).to_bytes(8, "little")
    assert gpu_metrics.throttle_reasons(bytes(card)) == ("power", "thermal", "firmware")
    accelerator = bytearray(b"\x20\x01\x01\x04" + b"\0" * 284)
    accelerator[24:32] = (65536 * 7).to_bytes(8, "little")
    assert gpu_metrics.energy_joules(bytes(accelerator)) == 7.0
    for table, read in ((card, gpu_metrics.energy_joules), (accelerator, gpu_metrics.throttle_reasons)):
        with pytest.raises(Unreadable, match="no_source"):
            read(bytes(table))
    card[112:120] = b"\xff" * 8
    with pytest.raises(Unreadable, match="not_reported"):
        gpu_metrics.throttle_reasons(bytes(card))
    with pytest.raises(Unreadable, match="malformed"):
        gpu_metrics.throttle_reasons(bytes(card[:40]))


def test_memory_of_a_process_is_what_is_resident_in_either_spelling() -> None:
    text = "drm-memory-vram: 5 MiB\ndrm-resident-vram: 7 KiB\ndrm-memory-gtt: 3\ndrm-memory-x: many\n"
    assert fdinfo.sizes(key_values(text)) == {"vram": 7 * 1024, "gtt": 3}


def test_links_are_read_as_the_kernel_writes_them() -> None:
    assert pci.generation("16.0 GT/s PCIe") == 4
    assert pci.generation("2.5 GT/s") == 1
    assert pci.width("16") == 16
    for speed in ("", "Unknown", "3.0 GT/s"):
        with pytest.raises((ValueError, HardwareError)):
            pci.generation(speed)
    for lanes in ("0", "255", "x"):
        with pytest.raises((ValueError, HardwareError)):
            pci.width(lanes)


def test_a_name_comes_from_the_systems_list_of_devices_or_not_at_all(tmp_path: Path) -> None:
    files = {
        "/d/vendor": "0x10de\n",
        "/d/device": "0x2684\n",
        "/usr/share/hwdata/pci.ids": "1002  AMD\n\t2684  No\n10de  NVIDIA\n\t1111  A\n\t\t2684 1  No\n"
        "\t2684  AD102 [RTX 4090]\n# a\n9999  Else\n\t1234  No\n",
    }
    assert pci.name(tree(tmp_path / "a", files), "/d") == "AD102 [RTX 4090]"
    with pytest.raises(Unreadable, match="PCI ID database"):
        pci.name(tree(tmp_path / "b", files | {"/d/device": "0x1234\n"}), "/d")
    with pytest.raises(Unreadable, match="PCI ID database"):
        pci.name(tree(tmp_path / "c", files | {"/d/vendor": "0x8086\n"}), "/d")


def test_mounts_are_read_with_their_escapes_and_the_longest_point_wins(tmp_path: Path) -> None:
    lines = [
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw",
        r"2 1 8:2 / /my\040models rw shared:1 master:2 - xfs /dev/sdb1 rw",
        "3 1 0:50 / /my rw - tmpfs tmpfs rw",
        "nonsense",
    ]
    root = tree(tmp_path, {"/proc/self/mountinfo": "\n".join(lines), "/proc/7/mountinfo": lines[0]})
    found = mounts.mounts(root)
    assert [mount.kind for mount in found] == ["ext4", "xfs", "tmpfs"]
    for path, kind in (("/my models/x", "xfs"), ("/my/x", "tmpfs"), ("/mymodels", "ext4")):
        mount = mounts.mount_of(found, path)
        assert mount is not None
        assert mount.kind == kind
    assert mounts.mount_of([], "/") is None
    assert len(mounts.mounts(root, 7)) == 1


def test_this_machines_root_lists_links_and_sizes() -> None:
    root = Root()
    assert "self" in root.names("/proc")
    assert root.data("/proc/self/comm", 3)


CPUS = "/sys/devices/system/cpu"


def test_the_clock_is_the_fastest_of_a_few_cores_and_read_rarely(tmp_path: Path) -> None:
    files = {f"{CPUS}/cpufreq/policy{n:02}/scaling_cur_freq": str(1_000_000 + n) for n in range(40)}
    root = tree(tmp_path, files)
    now = [0]
    pace = CpuFrequency(root, lambda: now[0])
    pace.probe()
    root.opened.clear()
    assert pace.clock_hertz() == 1_000_035_000
    assert len(root.opened) == 8
    put(tmp_path, f"{CPUS}/cpufreq/policy35/scaling_cur_freq", "3000000")
    now[0] = 4 * SECOND
    assert pace.clock_hertz() == 1_000_035_000
    now[0] = 5 * SECOND
    assert pace.clock_hertz() == 3_000_000_000
    pace.close()


def test_throttled_time_counts_each_package_once(tmp_path: Path) -> None:
    file = "thermal_throttle/package_throttle_total_time_ms"
    files = {f"{CPUS}/cpu{n}/{file}": str(1500 * (1 + n // 2)) for n in range(4)}
    files |= {f"{CPUS}/cpu{n}/topology/physical_package_id": str(n // 2) for n in range(4)}
    pace = CpuFrequency(tree(tmp_path, files))
    with pytest.raises(Unreadable, match="not_present"):
        pace.throttled_seconds()
    pace.probe()
    assert pace.throttled_seconds() == 4.5
    with pytest.raises(Unreadable, match="not_present"):
        pace.clock_hertz()


def test_pressure_is_the_share_of_time_in_which_something_waited(tmp_path: Path) -> None:
    def waited(us: int) -> dict[str, str]:
        line = f"some avg10=0.00 avg60=0.00 avg300=0.00 total={us}\nfull avg10=0.00 total=9\n"
        return {f"/proc/pressure/{name}": line for name in ("cpu", "memory", "io")}

    now = [10 * SECOND]
    reader = PressureReader(tree(tmp_path, waited(1_000_000)), lambda: now[0])
    reader.probe()
    assert set(reader.sample().unavailable.values()) == {"needs_two_readings"}
    for path, text in waited(1_500_000).items():
        put(tmp_path, path, text)
    put(tmp_path, "/proc/pressure/io", "none of it")
    now[0] += 2 * SECOND
    sample = reader.sample()
    assert (sample.cpu_ratio, sample.memory_ratio, sample.io_ratio) == (0.25, 0.25, None)
    assert sample.unavailable == {"io_ratio": "malformed"}
    reader.close()


def test_a_kernel_without_pressure_is_not_asked_at_every_tick(tmp_path: Path) -> None:
    root = tree(tmp_path)
    reader = PressureReader(root)
    reader.probe()
    root.opened.clear()
    assert set(reader.sample().unavailable.values()) == {"not_present"}
    assert root.opened == []


@pytest.mark.parametrize("text", ["", "full total=1", "some avg10=0.00", "some total=x", "some total=-1"])
def test_pressure_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- int() says it in its own words
        parse_total(text)
