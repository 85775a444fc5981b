"""What a capture keeps, what it masks, and that it replays."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from obt_agent.hardware.gpu.nvidia.provider import NvidiaProvider
from obt_agent.hardware.gpu.registry import gpu_providers
from obt_agent.hardware.read_once import MachineReading, read_once
from obt_agent.hardware.snapshot.capture import RecordingRoot, capture
from obt_agent.hardware.snapshot.masking import Masker
from obt_agent.hardware.snapshot.replay import replay
from obt_agent.hardware.snapshot.root import Root, SnapshotRoot
from tests.hardware.nvml.fake import FakeDriver
from tests.hardware.replay import SNAPSHOTS
from tests.hardware.trees import BASICS, tree

SECRETS = (
    *("alice", "carol", "castle", "SN0042", "token", "192.0.2.9", "acme"),
    *("12345678-1234-1234-1234-123456789abc", "12345678_1234_1234_1234_123456789abc", "00:1b:44:11:3a:b7"),
)


def captured(folder: Path, source: Root) -> tuple[MachineReading, SnapshotRoot]:
    recorder = RecordingRoot(source)
    reading = capture(folder, source, gpu_providers(recorder), recorder, source="a test")
    return reading, SnapshotRoot(folder)


@pytest.mark.parametrize("name", ["amd-apu", "intel-arc", "container-limits", "suspended-laptop"])
def test_a_machine_that_is_captured_replays_as_it_was_read(name: str, tmp_path: Path) -> None:
    _, root = captured(tmp_path / "copy", SnapshotRoot(SNAPSHOTS / name))
    again = read_once(root, gpu_providers(root))
    expected = msgspec.json.decode((SNAPSHOTS / name / "expected.json").read_bytes(), type=MachineReading)
    assert msgspec.to_builtins(again.sample) == msgspec.to_builtins(expected.sample)
    assert again.inventory.fingerprint == expected.inventory.fingerprint
    assert root.manifest.origin == "captured"


def test_this_machine_can_be_captured_and_replays(tmp_path: Path) -> None:
    reading, root = captured(tmp_path / "here", Root())
    again = read_once(root, gpu_providers(root))
    assert again.inventory.cpu == reading.inventory.cpu
    assert again.inventory.memory.total_bytes == reading.inventory.memory.total_bytes
    assert again.inventory.limits == reading.inventory.limits


def test_no_secret_and_no_other_process_leaves_with_a_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "castle.example.org")
    monkeypatch.setenv("SUDO_USER", "carol")
    source = tree(
        tmp_path / "machine",
        BASICS
        | {
            "/proc/cpuinfo": BASICS["/proc/cpuinfo"] + "Serial\t\t: SN0042\n",
            "/proc/1/cgroup": "0::/machine/castle.scope\n",
            "/proc/70/comm": "ollama\n",
            "/proc/70/cmdline": "/home/alice/bin/ollama\0serve\0--token=x",
            "/proc/70/environ": "OLLAMA_MODELS=/home/alice/models\0API_KEY=token\0OLLAMA_HOST=192.0.2.9:500",
            "/proc/70/stat": "70 (ollama) S 1 " + "0 " * 40,
            "/proc/70/cgroup": "0::/user.slice/12345678-1234-1234-1234-123456789abc\n",
            "/proc/70/status": "Name:\tollama\nUid:\t1000\nGroups:\tof alice\nCpus_allowed_list:\t0-1\n",
            "/etc/passwd": "alice:x:1000:1000:Alice:/home/alice:/bin/sh\nollama:x:998:998::/srv/carol:/\n",
            "/proc/71/comm": "mail of alice\n",
            "/proc/self/mountinfo": "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
            "2 1 0:50 / /home/alice/models rw - nfs4 castle:/export/alice rw,addr=192.0.2.9,username=alice\n"
            "4 1 0:52 /alice/x /data/carol rw - ext4 /dev/mapper/castle--vg-root rw,journal=/alice\n"
            "5 1 0:53 / /pod12345678_1234_1234_1234_123456789abc rw - ext4 /dev/sdc rw\n"
            "6 1 0:54 / / rw - overlay overlay rw,lowerdir=/var/lib/docker/of/alice\n"
            "7 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
            "3 1 0:51 / /run/user/1000 rw - tmpfs alice rw\n",
            "/sys/fs/cgroup/user.slice/12345678-1234-1234-1234-123456789abc/memory.max": "max",
            "/proc/net/dev": " enx001b44113ab7: 1 0 0 0 0 0 0 0 1\n vpn-acme: 1 0 0 0 0 0 0 0 1\n",
            "/sys/class/net/enx001b44113ab7/device/x": "",
            "/sys/class/net/vpn-acme/x": "",
            "/sys/class/dmi/id/board_name": "Board of castle, 00:1b:44:11:3a:b7",
            "/sys/firmware/dmi/tables/DMI": b"SN0042 in the table",
            "/run/udev/data/+dmi:id": "E:MEMORY_DEVICE_0_SIZE=1024\nE:MEMORY_DEVICE_0_SERIAL_NUMBER=SN0042\n",
        },
        sizes={"/home/alice/models": {"total_bytes": 5, "free_bytes": 4}},
    )
    _, root = captured(tmp_path / "sent", source)
    written = "\n".join(
        f"{path.relative_to(tmp_path / 'sent')}\n{path.read_text(errors='replace')}"
        if path.is_file()
        else str(path.name)
        for path in sorted((tmp_path / "sent").rglob("*"))
    )
    assert [secret for secret in SECRETS if secret in written] == []
    assert not (tmp_path / "sent/tree/proc/71").exists()
    again = read_once(root, ())
    assert [module.size_bytes for module in again.inventory.memory.modules] == [1024]
    assert [store.kind for store in again.inventory.storage] == ["network"]
    assert [process.pid for process in again.sample.ollama] == [70]
    assert "OLLAMA_HOST=:500" in root.text("/proc/70/environ")
    assert again.inventory.host.container == "docker"
    assert again.inventory.limits.cpuset == "0-1"
    assert {"lo", "eth0", "wg0"}.isdisjoint(root.names("/sys/class/net"))
    assert "enx000000000000" in root.names("/sys/class/net")


def test_a_host_or_person_with_an_ordinary_name_does_not_break_the_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "ollama")
    monkeypatch.setenv("USER", "pci")
    _, root = captured(tmp_path / "copy", SnapshotRoot(SNAPSHOTS / "amd-apu"))
    again = read_once(root, gpu_providers(root))
    assert [gpu.vendor for gpu in again.inventory.gpus] == ["amd"]
    assert len(again.sample.ollama) == 2


def test_a_capture_does_not_overwrite(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        captured(tmp_path, SnapshotRoot(SNAPSHOTS / "cpu-vm"))


def test_two_uuids_stay_two_and_one_stays_one() -> None:
    masker = Masker("h")
    one, two = "GPU-12345678-1234-1234-1234-123456789abc", "GPU-87654321-1234-1234-1234-123456789abc"
    masked = masker.text(f"{one} {two} {one}").split()
    assert masked[0] == masked[2] != masked[1]
    assert masker.text("host of a shoe, h.example") == "host of a shoe, host.example"


def test_of_a_table_of_all_devices_only_this_machines_rows_stay() -> None:
    masker = Masker("h", devices=frozenset({"2684", "747e"}))
    table = (
        b"1002  AMD\n\t747e  Navi\n\t\t1 2  Board\n\t1234  Other\n10de  NVIDIA\n\t2684  AD102\n9999  Else\n"
    )
    assert masker.file("/usr/share/misc/pci.ids", table).decode().splitlines() == [
        "1002  AMD",
        "\t747e  Navi",
        "10de  NVIDIA",
        "\t2684  AD102",
    ]


def test_what_nvidias_driver_said_replays_with_another_uuid(tmp_path: Path, driver: FakeDriver) -> None:
    desktop = SNAPSHOTS / "nvidia-desktop"
    shutil.copy(desktop / "nvml.txt", driver.library.with_name("nvml.txt"))
    source = SnapshotRoot(desktop)
    recorder = RecordingRoot(source)
    nvidia = NvidiaProvider(recorder, driver.nvml, driver.prober())
    reading = capture(tmp_path / "sent", source, [nvidia], recorder, source="a test")
    (before,) = reading.inventory.gpus
    assert before.id not in (tmp_path / "sent/nvml.txt").read_text()
    again, _ = replay(tmp_path / "sent")
    (after,) = again.inventory.gpus
    assert (after.name, after.memory, after.pcie) == (before.name, before.memory, before.pcie)
    (was,), (now,) = reading.sample.gpus, again.sample.gpus
    assert msgspec.structs.replace(now, id=was.id) == was
    assert [list(p.gpu_memory_bytes.values()) for p in again.sample.ollama] == [[], [6000000000]]
