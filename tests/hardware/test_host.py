"""Limits, storage, traffic, host names and Ollama's processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from obt_agent.hardware.field_reader import Unreadable
from obt_agent.hardware.host.counters import IoRates
from obt_agent.hardware.host.linux import devices
from obt_agent.hardware.host.linux.cgroup import LimitsProvider
from obt_agent.hardware.host.linux.file_readings import LinuxFileReadings
from obt_agent.hardware.host.linux.memory import system_bytes
from obt_agent.hardware.host.linux.process_table import LinuxProcessTable
from obt_agent.hardware.host.linux.storage import StorageProvider
from obt_agent.hardware.host.linux.system import HostProvider
from obt_agent.hardware.host.ollama_processes import OllamaProcesses
from obt_agent.hardware.host.psutil_reader import PsutilReadings
from obt_agent.hardware.host.reader import HostReader, is_this_machine
from obt_agent.hardware.host.readings import HostReadings
from obt_agent.hardware.inventory import CgroupLimits, StorageInfo
from obt_agent.hardware.snapshot.root import Root, SnapshotRoot
from tests.hardware.trees import BASICS, put, tree

GIB = 1 << 30
V2 = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = """\
31 25 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 25 0:32 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
34 25 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""


class Clock:
    """Nanoseconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000

    def __call__(self) -> int:
        return self.seconds * 1_000_000_000


def processes_of(
    root: Root, clock: Callable[[], int] = time.monotonic_ns, *, port: int = 11434
) -> OllamaProcesses:
    readings: HostReadings = PsutilReadings() if root.real else LinuxFileReadings(root)
    return OllamaProcesses(LinuxProcessTable(root), readings, clock=clock, port=port)


def limits(tmp_path: Path, files: dict[str, str], place: str, mountinfo: str) -> LimitsProvider:
    system = {
        "/proc/5/cgroup": place,
        "/proc/self/mountinfo": mountinfo,
        "/sys/devices/system/cpu/online": "0-7",
    }
    provider = LimitsProvider(tree(tmp_path, system | files))
    provider.follow(5)
    return provider


def test_the_tightest_ancestor_limits_and_file_pages_are_given_back(tmp_path: Path) -> None:
    root = "/sys/fs/cgroup"
    provider = limits(
        tmp_path,
        {
            f"{root}/a/memory.max": str(4 * GIB),
            f"{root}/a/memory.current": str(3 * GIB),
            f"{root}/a/memory.stat": f"inactive_file {GIB}\nactive_file 0\n",
            f"{root}/a/cpu.max": "150000 100000",
            f"{root}/a/b/memory.max": str(8 * GIB),
            f"{root}/a/b/memory.current": str(2 * GIB),
            f"{root}/a/b/memory.stat": f"inactive_file {GIB}\nactive_file {GIB}\n",
            f"{root}/a/b/cpu.max": "max 100000",
            f"{root}/a/b/cpuset.cpus.effective": "0-3",
        },
        "0::/a/b\n",
        V2,
    )
    found = provider.inventory()
    assert found == CgroupLimits(memory_bytes=4 * GIB, cpus=1.5, cpuset="0-3", cgroup_version=2)
    assert provider.available_bytes() == 2 * GIB
    assert provider.probe().status == "ok"


@pytest.mark.parametrize(
    ("file", "text", "field"), [("memory.max", "-1", "memory_bytes"), ("cpu.max", "-1 100000", "cpus")]
)
def test_a_negative_limit_is_malformed_and_no_limit(tmp_path: Path, file: str, text: str, field: str) -> None:
    provider = limits(tmp_path, {f"/sys/fs/cgroup/ollama/{file}": text}, "0::/ollama\n", V2)
    found = provider.inventory()
    assert getattr(found, field) is None
    assert found.unavailable[field] == "malformed"


@pytest.mark.parametrize("text", ["", "MemTotal:\n", "MemTotal: much kB\n"])
def test_a_meminfo_without_its_total_is_an_unreadable_one(tmp_path: Path, text: str) -> None:
    with pytest.raises((Unreadable, ValueError)):
        system_bytes(tree(tmp_path, {"/proc/meminfo": text}))


def test_version_1_is_read_by_its_own_names(tmp_path: Path) -> None:
    memory = "/sys/fs/cgroup/memory/docker/x"
    provider = limits(
        tmp_path,
        {
            f"{memory}/memory.limit_in_bytes": str(2 * GIB),
            f"{memory}/memory.usage_in_bytes": str(GIB),
            f"{memory}/memory.stat": f"total_inactive_file {GIB // 2}\ninactive_file 9\n",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "200000",
            "/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "/sys/fs/cgroup/cpuset/docker/x/cpuset.effective_cpus": "0-7",
        },
        "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n2:cpuset:/docker/x\n0::/\n",
        V1,
    )
    assert provider.inventory() == CgroupLimits(memory_bytes=2 * GIB, cpus=2.0, cpuset=None, cgroup_version=1)
    assert provider.available_bytes() == GIB + GIB // 2


def test_a_process_with_no_limits_has_none_and_no_reason_for_it(tmp_path: Path) -> None:
    provider = limits(tmp_path, {"/sys/fs/cgroup/a/memory.max": "max"}, "0::/a\n", V2)
    assert provider.inventory() == CgroupLimits(cgroup_version=2)
    assert provider.available_bytes() is None


def test_a_container_sees_its_part_of_the_hierarchy(tmp_path: Path) -> None:
    mounted = "30 25 0:26 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    provider = limits(tmp_path, {"/sys/fs/cgroup/sub/memory.max": str(GIB)}, "0::/docker/x/sub\n", mounted)
    assert provider.inventory().memory_bytes == GIB


@pytest.mark.parametrize("place", ["0::/a\n", ""])
def test_groups_that_are_not_mounted_here_are_said_so(tmp_path: Path, place: str) -> None:
    provider = limits(tmp_path, {}, place, "")
    assert provider.inventory().unavailable["memory_bytes"] == "not_present"
    assert provider.probe().status == "degraded"


def test_nonsense_in_a_group_is_malformed(tmp_path: Path) -> None:
    files = {"/sys/fs/cgroup/a/memory.max": "lots", "/sys/fs/cgroup/a/cpu.max": "5 0"}
    found = limits(tmp_path, files, "0::/a\n", V2).inventory()
    assert found.unavailable == {"memory_bytes": "malformed", "cpus": "malformed"}


@pytest.mark.parametrize("place", ["0::/../other.scope\n", "0::/docker/other\n"])
def test_groups_out_of_sight_are_no_freedom_from_limits(tmp_path: Path, place: str) -> None:
    mounted = "30 25 0:26 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    provider = limits(tmp_path, {"/sys/fs/cgroup/memory.max": str(GIB)}, place, mounted)
    found = provider.inventory()
    assert (found.memory_bytes, found.cpus) == (None, None)
    assert "not mounted where the agent sees it" in found.unavailable["memory_bytes"]
    assert provider.probe().status == "degraded"


def test_one_hierarchy_out_of_sight_does_not_hide_the_others(tmp_path: Path) -> None:
    files = {"/sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(GIB)}
    provider = limits(tmp_path, files, "4:memory:/a\n3:cpu,cpuacct:/../b\n2:cpuset:/../b\n", V1)
    found = provider.inventory()
    assert (found.memory_bytes, found.cpus) == (GIB, None)
    assert set(found.unavailable) == {"cpus", "cpuset"}


def test_the_mark_above_which_the_kernel_slows_a_group_is_told_beside_the_limit(tmp_path: Path) -> None:
    folder = "/sys/fs/cgroup/a"
    files = {f"{folder}/memory.high": str(GIB), f"{folder}/memory.max": str(2 * GIB)}
    found = limits(tmp_path, files | {f"{folder}/b/memory.high": "max"}, "0::/a/b\n", V2).inventory()
    assert (found.memory_bytes, found.memory_high_bytes) == (2 * GIB, GIB)


@pytest.mark.parametrize(("allowed", "expected"), [("2-3", "2-3"), ("0-7", None), ("0-127", None)])
def test_a_process_held_to_some_cpus_without_a_group_is_limited_too(
    tmp_path: Path, allowed: str, expected: str | None
) -> None:
    files = {
        "/sys/fs/cgroup/a/cpuset.cpus.effective": "0-7",
        "/proc/5/status": f"Cpus_allowed_list:\t{allowed}\n",
    }
    assert limits(tmp_path, files, "0::/a\n", V2).inventory().cpuset == expected


def test_no_process_to_follow_is_the_reason_that_nothing_is_known(tmp_path: Path) -> None:
    provider = LimitsProvider(tree(tmp_path))
    assert set(provider.inventory().unavailable.values()) == {"not_running"}
    assert provider.probe().status == "ok"


def store(
    tmp_path: Path,
    mount: str,
    files: dict[str, str] | None = None,
    links: dict[str, str] | None = None,
) -> StorageInfo:
    system = {"/proc/self/mountinfo": f"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n{mount}\n", "/models/.keep": ""}
    sizes = {"/models": {"total_bytes": 100, "free_bytes": 40}}
    root = tree(tmp_path, system | (files or {}), sizes=sizes, links=links)
    (found,) = StorageProvider(root, "/models").inventory()
    return found


def test_a_store_on_a_rotating_disk_behind_a_mapped_device_is_known_for_what_it_is(tmp_path: Path) -> None:
    found = store(
        tmp_path,
        "2 1 253:0 / /models rw - ext4 /dev/mapper/crypt rw",
        {
            "/sys/devices/virtual/dm-0/slaves/sda2/x": "",
            "/sys/devices/sda/sda2/partition": "2",
            "/sys/devices/sda/queue/rotational": "1",
            "/sys/devices/sda/device/model": "Old Disk",
        },
        links={
            "/sys/dev/block/253:0": "../../devices/virtual/dm-0",
            "/sys/class/block/sda2": "../../devices/sda/sda2",
        },
    )
    assert (found.kind, found.model, found.filesystem) == ("hdd", "Old Disk", "ext4")
    assert (found.total_bytes, found.free_bytes) == (100, 40)


@pytest.mark.parametrize(
    ("mount", "kind"),
    [
        ("2 1 0:50 / /models rw - nfs4 server:/export rw", "network"),
        ("2 1 0:51 / /models rw - tmpfs tmpfs rw", "memory"),
        ("2 1 252:1 / /models rw - btrfs /dev/vda1 rw", "virtual"),
    ],
)
def test_other_stores_are_told_apart(tmp_path: Path, mount: str, kind: str) -> None:
    links = {"/sys/class/block/vda1": "../../devices/vda/vda1"}
    files = {"/sys/devices/vda/vda1/partition": "1"}
    assert store(tmp_path, mount, files, links=links).kind == kind


def test_a_store_whose_disk_is_not_shown_has_a_size_and_a_reason(tmp_path: Path) -> None:
    found = store(tmp_path, "2 1 0:60 / /models rw - overlay overlay rw")
    assert (found.kind, found.total_bytes) == (None, 100)
    assert found.unavailable["kind"] == "not_present"


def test_the_store_is_asked_of_ollamas_process(tmp_path: Path) -> None:
    mountinfo = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
    sizes = {
        "/data": {"total_bytes": 9, "free_bytes": 3},
        "/home/x/.ollama/models": {"total_bytes": 8, "free_bytes": 2},
    }
    root = tree(
        tmp_path,
        {
            "/proc/self/mountinfo": mountinfo,
            "/proc/5/environ": "A=1\0OLLAMA_MODELS=/data\0",
            "/proc/6/environ": "HOME=/home/x\0",
            "/proc/7/environ": "A=1\0",
        },
        sizes=sizes,
    )
    provider = StorageProvider(root)
    totals = []
    for pid in (5, 6):
        provider.follow(pid)
        totals.append(provider.inventory()[0].total_bytes)
    assert totals == [9, 8]
    provider.follow(7)
    assert provider.inventory() == ()
    assert (provider.probe().status, (provider.probe().reason or "")[:11]) == ("degraded", "not_present")
    provider.follow(None)
    assert provider.probe().status == "absent"


def server(tmp_path: Path, files: dict[str, str], **more: Any) -> StorageProvider:
    mounts = {"/proc/self/mountinfo": "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n", "/proc/self/cgroup": "0::/\n"}
    provider = StorageProvider(tree(tmp_path, mounts | files, **more))
    provider.follow(5)
    return provider


def test_the_store_of_a_container_is_described_by_the_containers_own_mounts(tmp_path: Path) -> None:
    (found,) = server(
        tmp_path,
        {
            "/proc/5/cgroup": "0::/system.slice/docker-0123.scope\n",
            "/proc/5/environ": "HOME=/root\0",
            "/proc/5/mountinfo": "1 0 0:40 / / rw - overlay overlay rw\n"
            "2 1 8:17 /x /root/.ollama rw - xfs /dev/sdb1 rw\n",
            "/root/.ollama/models/old": "of an Ollama that ran here before",
            "/sys/dev/block/8:17/queue/rotational": "1",
        },
        sizes={
            "/root/.ollama/models": {"total_bytes": 1, "free_bytes": 1},
            "/proc/5/root/root/.ollama/models": {"total_bytes": 900, "free_bytes": 300},
        },
    ).inventory()
    assert (found.filesystem, found.kind, found.total_bytes) == ("xfs", "hdd", 900)
    assert found.found_by == "setting"


def test_an_agent_in_the_same_container_sees_the_store_as_ollama_does(tmp_path: Path) -> None:
    place = "5:memory:/docker/0123\n0::/docker/0123\n"
    (found,) = server(
        tmp_path,
        {"/proc/5/cgroup": place, "/proc/self/cgroup": place, "/proc/5/environ": "HOME=/root\0"},
        sizes={"/root/.ollama/models": {"total_bytes": 7, "free_bytes": 1}},
    ).inventory()
    assert (found.total_bytes, found.filesystem) == (7, "ext4")


def test_a_path_of_the_host_is_not_taken_for_that_of_a_closed_container(tmp_path: Path) -> None:
    provider = server(
        tmp_path,
        {"/proc/5/cgroup": "0::/kubepods.slice/x\n", "/usr/share/ollama/.ollama/models/old": ""},
        errors={"/proc/5/environ": "EACCES"},
    )
    assert provider.inventory() == ()
    assert "container" in (provider.probe().reason or "")


def test_a_store_in_a_home_that_is_closed_to_the_agent_is_still_known_by_its_user(tmp_path: Path) -> None:
    (found,) = server(
        tmp_path,
        {
            "/proc/5/cgroup": "0::/system.slice/ollama.service\n",
            "/proc/5/status": "Name:\tollama\nUid:\t998\t998\t998\t998\n",
            "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nollama:x:998:998::/srv/ollama:/bin/false\n",
        },
        errors={"/proc/5/environ": "EACCES", "/srv/ollama/.ollama/models": "EACCES"},
        sizes={"/": {"total_bytes": 50, "free_bytes": 5}},
    ).inventory()
    assert (found.found_by, found.total_bytes) == ("home", 50)


def test_traffic_counts_whole_disks_and_real_interfaces_once(tmp_path: Path) -> None:
    def counters(reads: int, received: int) -> dict[str, str]:
        disks = [
            f"8 0 sda 1 0 {reads} 0 1 0 0 0",
            f"8 1 sda1 1 0 {reads} 0 1 0 0 0",
            f"253 0 dm-0 1 0 {reads} 0 1 0 0 0",
        ]
        net = [
            "Inter-| x",
            "face |x",
            f" eth0: {received} 0 0 0 0 0 0 0 0 0",
            f"br0: {received} 0 0 0 0 0 0 0 0 0",
        ]
        return {"/proc/diskstats": "\n".join(disks), "/proc/net/dev": "\n".join(net)}

    system = {
        "/sys/block/sda/x": "",
        "/sys/block/dm-0/x": "",
        "/sys/class/net/eth0/device/x": "",
        "/sys/class/net/br0/x": "",
        "/sys/class/net/lo/x": "",
    }
    root = tree(tmp_path, system | counters(0, 0))
    clock = Clock()
    readings = LinuxFileReadings(root)
    rates = IoRates(readings, clock)
    disks, interfaces = devices.disks(root), devices.interfaces(root)
    first = rates.disk(disks), rates.network(interfaces)
    assert first[0].read_bytes_per_second is None
    assert first[1].unavailable["receive_bytes_per_second"] == "needs_two_readings"
    for path, text in counters(2000, 5000).items():
        put(tmp_path, path, text)
    clock.seconds += 2
    disk, network = rates.disk(disks), rates.network(interfaces)
    assert (disk.read_bytes_per_second, disk.write_bytes_per_second) == (1000 * 512, 0.0)
    assert (network.receive_bytes_per_second, network.transmit_bytes_per_second) == (2500.0, 0.0)
    readings.close()


OVERLAY = "1 0 0:40 / / rw - overlay overlay rw,lowerdir"
POD = "2 1 0:41 / /run/secrets/kubernetes.io/serviceaccount ro - tmpfs tmpfs rw\n"


@pytest.mark.parametrize(
    ("files", "virtualization", "container"),
    [
        ({"/sys/class/dmi/id/sys_vendor": "QEMU"}, "qemu", "none"),
        ({"/sys/class/dmi/id/product_name": "VMware Virtual Platform"}, "vmware", "none"),
        (
            {
                "/sys/class/dmi/id/sys_vendor": "Microsoft Corporation",
                "/sys/class/dmi/id/product_name": "Virtual Machine",
            },
            "hyperv",
            "none",
        ),
        ({"/sys/hypervisor/type": "xen"}, "xen", "none"),
        ({"/proc/sys/kernel/osrelease": "5.15.90.1-microsoft-standard-WSL2"}, "hyperv", "none"),
        ({"/run/.containerenv": ""}, "none", "podman"),
        ({"/.dockerenv": ""}, "none", "docker"),
        ({"/run/host/container-manager": "lxc-libvirt"}, "none", "lxc-libvirt"),
        ({"/proc/1/cgroup": "0::/kubepods/pod1\n"}, "none", "kubernetes"),
        ({"/proc/cpuinfo": "flags : avx hypervisor\n"}, "unnamed", "none"),
        (
            {"/sys/class/dmi/id/sys_vendor": "Amazon EC2", "/sys/class/dmi/id/product_name": "g5.xlarge"},
            "kvm",
            "none",
        ),
        (
            {"/sys/class/dmi/id/sys_vendor": "Amazon EC2", "/sys/class/dmi/id/product_name": "g5.metal"},
            "none",
            "none",
        ),
        ({"/sys/firmware/devicetree/base/hypervisor/compatible": "linux,kvm\0"}, "kvm", "none"),
        ({"/sys/firmware/devicetree/base/hypervisor/compatible": "new,thing\0"}, "unnamed", "none"),
        ({"/sys/firmware/devicetree/base/fw-cfg@9020000/reg": ""}, "qemu", "none"),
        ({"/sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B\0"}, "none", "none"),
        ({"/run/systemd/container": "lxc\n"}, "none", "lxc"),
        ({"/proc/self/mountinfo": f"{OVERLAY}=/var/lib/containerd/io.x/1/fs\n"}, "none", "containerd"),
        ({"/proc/self/mountinfo": f"{OVERLAY}=/var/lib/containers/storage/overlay/1\n"}, "none", "podman"),
        ({"/proc/self/mountinfo": f"{OVERLAY}=/live/layer\n"}, "none", "none"),
        ({"/proc/self/mountinfo": f"{OVERLAY}=/x\n{POD}"}, "none", "kubernetes"),
    ],
)
def test_what_the_host_runs_on_is_recognised(
    tmp_path: Path, files: dict[str, str], virtualization: str, container: str
) -> None:
    host = HostProvider(tree(tmp_path, BASICS | {"/proc/1/cgroup": "0::/init.scope\n"} | files)).inventory()
    assert (host.virtualization, host.container) == (virtualization, container)
    assert host.wsl is ("microsoft" in files.get("/proc/sys/kernel/osrelease", ""))


def test_an_empty_machine_has_a_reason_for_everything(tmp_path: Path) -> None:
    host = HostProvider(tree(tmp_path)).inventory()
    assert {"os", "kernel", "arch", "distro", "virtualization", "container"} <= set(host.unavailable)
    assert HostProvider(tree(tmp_path)).probe().status == "degraded"


def test_a_board_without_dmi_is_named_by_its_device_tree(tmp_path: Path) -> None:
    files = {"/sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B\0"}
    host = HostProvider(tree(tmp_path, BASICS | files)).inventory()
    assert host.board is not None
    assert host.board.name == "Raspberry Pi 5 Model B"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:11434", True),
        ("http://[::1]:11434", True),
        ("http://0.0.0.0:11434", True),
        ("http://192.0.2.7:11434", False),
        ("http://no-such-name.invalid:11434", None),
    ],
)
def test_ollama_on_another_machine_is_known_by_its_address(url: str, local: bool | None) -> None:
    assert is_this_machine(url) is local


def test_processes_are_not_looked_for_when_ollama_is_elsewhere() -> None:
    reader = HostReader(Root(), "http://192.0.2.7:11434")
    assert reader.sample().ollama == ()
    assert "another machine" in reader.inventory(None).limits.unavailable["memory_bytes"]
    reader.close()


def test_a_name_that_cannot_be_resolved_at_first_is_resolved_later(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[bool | None] = [None, True]
    asked = []

    def resolve(url: str) -> bool | None:
        asked.append(url)
        return answers.pop(0)

    monkeypatch.setattr("obt_agent.hardware.host.reader.is_this_machine", resolve)
    monkeypatch.setattr("obt_agent.hardware.host.reader._RESOLVE_AGAIN_S", 0.0)
    root = Opened()
    reader = HostReader(root, "http://gpu-box:11434")
    reader.sample()
    assert root.looked == []
    reader.sample()
    reader.sample()
    assert root.looked
    assert len(asked) == 2
    reader.close()


class Opened(Root):
    """This machine, with no process to be seen, and a note of whether any was looked for."""

    def __init__(self) -> None:
        self.looked: list[str] = []

    def names(self, path: str) -> list[str]:
        if path != "/proc":
            return super().names(path)
        self.looked.append(path)
        return []


@pytest.fixture
def ollama(tmp_path: Path) -> Iterator[Ollama]:
    program = Path(shutil.copy2("/bin/sh", tmp_path / "ollama"))
    server = Ollama(program)
    server.start()
    yield server
    server.stop()


class Ollama:
    """A real process that looks as Ollama's server does: by its name, its word and its child."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        command = [str(self._program), "-c", "sleep 1000 & echo up; read line; kill $!; wait", "serve"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"up\n"

    def stop(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


class Alone(Root):
    """This machine, where of all processes only one program's can be seen."""

    def __init__(self) -> None:
        self.visible: set[str] = set()

    def names(self, path: str) -> list[str]:
        return sorted(self.visible) if path == "/proc" else super().names(path)


def test_the_server_and_its_descendants_are_found_measured_and_followed_through_a_restart(
    ollama: Ollama,
) -> None:
    root = Alone()
    root.visible = {str(ollama.pid), "1", "self"}
    clock = Clock()
    processes = processes_of(root, clock)
    processes.update()
    assert processes.server_pid == ollama.pid
    samples = {sample.role: sample for sample in processes.sample()}
    assert samples["server"].rss_bytes
    assert samples["server"].unavailable == {"cpu_ratio": "needs_two_readings"}
    assert len(list(processes.pids)) == 2
    ollama.stop()
    assert processes.sample() == ()
    assert not processes.pids
    ollama.start()
    root.visible = {str(ollama.pid)}
    processes.update()
    assert processes.server_pid == ollama.pid
    processes.sample()
    clock.seconds += 1
    found = processes.sample()
    assert {sample.role for sample in found} == {"server", "runner"}
    assert all(sample.cpu_ratio is not None for sample in found)
    processes.close()
    assert processes.pids == ()


def test_between_full_looks_only_new_processes_are_looked_at(tmp_path: Path) -> None:
    root = tree(tmp_path, {"/proc/10/comm": "bash\n", "/proc/10/cmdline": "bash"})
    clock = Clock()
    processes = processes_of(root, clock)
    processes.update()
    clock.seconds += 6
    for path, text in {"/proc/11/comm": "ollama\n", "/proc/11/cmdline": "ollama\0serve"}.items():
        put(tmp_path, path, text)
    root.opened.clear()
    processes.update()
    assert processes.server_pid == 11
    assert not [path for path in root.opened if path.startswith("/proc/10/")]


def test_a_process_that_became_ollama_since_it_was_seen_is_found_when_asked_to_look_again(
    tmp_path: Path,
) -> None:
    root = tree(
        tmp_path,
        {"/proc/10/comm": "bash\n", "/proc/10/cmdline": "bash", "/proc/10/stat": "10 (o) S 1" + " 0" * 40},
    )
    clock = Clock()
    processes = processes_of(root, clock)
    processes.update()
    put(tmp_path, "/proc/10/comm", "ollama\n")
    put(tmp_path, "/proc/10/cmdline", "ollama\0serve")
    clock.seconds += 6
    processes.update()
    assert processes.server_pid != 10
    processes.rescan()
    processes.update()
    assert 10 in processes.pids
    for path, text in {"/proc/4/comm": ".ollama-wrapped\n", "/proc/4/cmdline": "ollama\0serve"}.items():
        put(tmp_path, path, text)
    processes.rescan()
    processes.update()
    assert sorted(processes.pids) == [4, 10]


@pytest.mark.parametrize(("port", "server"), [(11434, 10), (11500, 11), (12000, 12), (443, 9)])
def test_of_several_servers_the_one_that_listens_at_our_port_is_followed(
    tmp_path: Path, port: int, server: int
) -> None:
    hosts = {9: None, 10: "HOME=/x", 11: "OLLAMA_HOST=':11500'", 12: "A=1\0OLLAMA_HOST=http://0.0.0.0:12000"}
    files = {f"/proc/{pid}/environ": text for pid, text in hosts.items() if text is not None}
    for pid in hosts:
        files |= {f"/proc/{pid}/comm": "ollama\n", f"/proc/{pid}/cmdline": "ollama\0serve"}
    processes = processes_of(tree(tmp_path, files, errors={"/proc/9/environ": "EACCES"}), port=port)
    processes.update()
    assert processes.server_pid == server
    assert sorted(processes.pids) == [9, 10, 11, 12]


def test_a_runner_is_known_by_its_server_and_by_the_weights_in_its_command_line(tmp_path: Path) -> None:
    stat = " (o) S 1" + " 0" * 40
    blob = "/var/lib/ollama/blobs/sha256-" + "a" * 64
    commands = {
        10: "ollama\0serve",
        11: "ollama\0serve",
        # As llama-server is started (0.30 and later), and as Ollama's own runner was before.
        20: f"llama-server\0--model\0{blob}\0--port\x0034567\0--host\x00127.0.0.1\0-c\x004096",
        21: f"ollama\0runner\0--ollama-engine\0--model\0{blob.replace('a' * 64, 'b' * 64)}\0--port\x0034568",
        22: "llama-server\0--port\x0034569",
    }
    files = {
        "/proc/11/environ": "OLLAMA_HOST=127.0.0.1:11500",
        "/proc/10/environ": "A=1",
        "/proc/10/task/10/children": "20 22 ",
        "/proc/11/task/11/children": "21 ",
    }
    for pid, command in commands.items():
        name = "ollama" if pid < 20 else "llama-server"
        files |= {f"/proc/{pid}/comm": f"{name}\n", f"/proc/{pid}/cmdline": command}
        files |= {f"/proc/{pid}/stat": f"{pid}{stat}", f"/proc/{pid}/statm": "9 9 9 9 9 9 9"}
    root = tree(tmp_path, files)
    clock = Clock()
    processes = processes_of(root, clock)
    processes.update()
    found = {one.pid: (one.role, one.server_pid, one.port, one.blob) for one in processes.sample()}
    assert found == {
        10: ("server", None, 11434, None),
        11: ("server", None, 11500, None),
        20: ("runner", 10, None, "a" * 64),
        21: ("runner", 11, None, "b" * 64),
        22: ("runner", 10, None, None),
    }
    # Seen before it became the runner, it is asked again.
    put(tmp_path, "/proc/22/cmdline", f"llama-server\0--model\0{blob}")
    clock.seconds += 3
    processes.update()
    assert {one.blob for one in processes.sample() if one.pid == 22} == {"a" * 64}


def test_a_client_called_ollama_is_no_server(tmp_path: Path) -> None:
    root = tree(tmp_path, {"/proc/10/comm": "ollama\n", "/proc/10/cmdline": "ollama\0run\0llama3"})
    processes = processes_of(root)
    processes.update()
    assert processes.server_pid is None


def test_this_machine_reads_with_no_fault() -> None:
    reader = HostReader(Root(), "http://127.0.0.1:11434")
    inventory = reader.inventory("0.33.0")
    assert inventory.cpu.logical_cores == os.cpu_count() or inventory.cpu.logical_cores
    assert inventory.host.kernel == os.uname().release
    sample = reader.sample()
    total = inventory.memory.total_bytes
    assert total is not None
    assert sample.memory.used_bytes is not None
    assert 0 < sample.memory.used_bytes <= total
    assert reader.topology() == reader.topology()
    reader.close()


def test_a_snapshot_of_nothing_still_reads(tmp_path: Path) -> None:
    tree(tmp_path)
    reader = HostReader(SnapshotRoot(tmp_path), "http://127.0.0.1:11434")
    assert reader.inventory(None).memory.total_bytes is None
    assert reader.sample().cpu.utilization_ratio is None
    reader.close()
