"""What drivers say on their render nodes: questions as the kernel's headers lay them out, and any answer."""

from __future__ import annotations

import ctypes
import errno
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.hardware.field_reader import FieldReader
from obt_agent.hardware.gpu.amd.provider import amd
from obt_agent.hardware.gpu.intel.provider import intel
from obt_agent.hardware.gpu.sysfs import SysfsGpuProvider
from obt_agent.hardware.host.linux import drm
from obt_agent.hardware.host.linux.pci import PciGpu
from obt_agent.hardware.inventory import GpuInfo
from obt_agent.hardware.read_once import read_once
from obt_agent.hardware.snapshot.capture import RecordingRoot, capture
from obt_agent.hardware.snapshot.root import Root, SnapshotRoot
from tests.hardware.replay import SNAPSHOTS
from tests.hardware.test_sysfs_gpu import ARC, CARD, deny
from tests.hardware.trees import put

GIB = 1 << 30
PATH = "/sys/bus/pci/devices/0000:03:00.0"


def region(kind: int, size: int) -> bytes:
    """Both drivers' regions begin alike, and are of one size."""
    return struct.pack("<HHIQ", kind, 0, 65536, size) + bytes(72)


REGIONS = region(0, 64 * GIB) + region(1, 12 * GIB)
XE, I915 = struct.pack("<II", 2, 0) + REGIONS, struct.pack("<IIII", 2, 0, 0, 0) + REGIONS


def amdgpu(*, flags: int = 0, units: int = 60, kind: int = 9, width: int = 256) -> bytes:
    """The start of struct drm_amdgpu_info_device."""
    device = bytearray(184)
    struct.pack_into("<I", device, 48, units)
    struct.pack_into("<Q", device, 136, flags)
    struct.pack_into("<II", device, 176, kind, width)
    return bytes(device)


def write(pointer: int, data: bytes) -> None:
    ctypes.memmove(pointer, data, len(data))


def read(pointer: int, size: int) -> bytes:
    return ctypes.string_at(pointer, size)


def xe_kernel(request: bytearray) -> None:
    extensions, query, size, pointer, *reserved = struct.unpack("<QIIQQQ", request)
    assert (extensions, query, reserved) == (0, 1, [0, 0])
    if size == 0:
        struct.pack_into("<I", request, 12, len(XE))
    else:
        assert size == len(XE)
        write(pointer, XE)


def i915_kernel(request: bytearray) -> None:
    items, flags, item = struct.unpack("<IIQ", request)
    query, length, item_flags, pointer = struct.unpack("<QiIQ", read(item, 24))
    assert (items, flags, query, item_flags) == (1, 0, 4, 0)
    if length == 0:
        write(item + 8, struct.pack("<i", len(I915)))
    else:
        assert length == len(I915)
        write(pointer, I915)


def i915_refusal(request: bytearray) -> None:
    write(struct.unpack("<IIQ", request)[2] + 8, struct.pack("<i", -errno.ENODEV))


def amdgpu_kernel(request: bytearray) -> None:
    pointer, size, query = struct.unpack("<QII16x", request)
    assert (size, query) == (184, 0x16)
    write(pointer, amdgpu())


@pytest.fixture
def node(tmp_path: Path) -> Root:
    """A machine whose card has a node that can be opened, as far as that goes without a card."""
    (tmp_path / "node").touch()

    class Here(Root):
        def names(self, path: str) -> list[str]:
            assert path == f"{PATH}/drm"
            return ["card1", "renderD129"]

        def exists(self, path: str) -> bool:
            return path == f"{PATH}/drm/renderD129"

        def open(self, path: str) -> int:
            assert path == "/dev/dri/renderD129"
            return super().open(str(tmp_path / "node"))

    return Here()


def kernel(monkeypatch: pytest.MonkeyPatch, wanted: int, answer: Callable[[bytearray], None]) -> None:
    def ioctl(_descriptor: int, request: int, argument: bytearray | bytes) -> int:
        assert request == wanted
        answer(argument if isinstance(argument, bytearray) else bytearray(argument))
        return 0

    monkeypatch.setattr("fcntl.ioctl", ioctl)


def gpu(driver: str) -> PciGpu:
    return PciGpu("0000:03:00.0", PATH, driver, may_sleep=False)


# _IOWR('d', 0x40, 40 bytes), _IOWR('d', 0x40 + 0x39, 16 bytes), _IOW('d', 0x40 + 5, 32 bytes)
def number(direction: int, command: int, size: int) -> int:
    return direction << 30 | size << 16 | ord("d") << 8 | 0x40 + command


def test_the_questions_have_the_numbers_that_the_headers_macros_make() -> None:
    assert number(3, 0x00, struct.calcsize("<QIIQQQ")) == drm.XE_DEVICE_QUERY
    assert number(3, 0x39, struct.calcsize("<IIQ")) == drm.I915_QUERY
    assert number(1, 0x05, struct.calcsize("<QII16x")) == drm.AMDGPU_INFO


@pytest.mark.parametrize(
    ("driver", "request_number", "answer"),
    [("xe", drm.XE_DEVICE_QUERY, xe_kernel), ("i915", drm.I915_QUERY, i915_kernel)],
)
def test_the_memory_of_an_intel_card_is_what_its_driver_says_when_asked(
    monkeypatch: pytest.MonkeyPatch,
    node: Root,
    driver: str,
    request_number: int,
    answer: Callable[[bytearray], None],
) -> None:
    kernel(monkeypatch, request_number, answer)
    assert drm.card_bytes(node, gpu(driver)) == 12 * GIB


def test_a_refusal_of_one_item_is_an_error_as_any_other(monkeypatch: pytest.MonkeyPatch, node: Root) -> None:
    kernel(monkeypatch, drm.I915_QUERY, i915_refusal)
    with pytest.raises(OSError, match="No such device"):
        drm.card_bytes(node, gpu("i915"))


def test_an_answer_that_needs_no_room_or_too_much_is_refused(
    monkeypatch: pytest.MonkeyPatch, node: Root
) -> None:
    for size in (0, 1 << 30):
        kernel(monkeypatch, drm.XE_DEVICE_QUERY, wanting(size))
        with pytest.raises(OSError, match="Protocol error"):
            drm.card_bytes(node, gpu("xe"))


def wanting(size: int) -> Callable[[bytearray], None]:
    return lambda request: struct.pack_into("<I", request, 12, size)


def test_amdgpu_tells_the_kind_of_memory_and_what_the_gpu_is(
    monkeypatch: pytest.MonkeyPatch, node: Root
) -> None:
    kernel(monkeypatch, drm.AMDGPU_INFO, amdgpu_kernel)
    assert drm.amd_device(node, gpu("amdgpu")) == drm.AmdDevice(
        integrated=False, compute_units=60, memory_type="GDDR6", bus_width_bits=256
    )


def test_what_the_driver_does_not_know_is_none() -> None:
    device = drm.parse_amdgpu(amdgpu(flags=1, kind=0, width=0))
    assert (device.integrated, device.memory_type, device.bus_width_bits) == (True, None, None)


@given(st.binary(max_size=400), st.sampled_from(["xe", "i915"]))
def test_any_answer_is_a_size_or_a_reason(answer: bytes, driver: str) -> None:
    gaps = FieldReader()
    size = gaps.read("size", lambda: drm.parse_regions(answer, driver))
    assert (size or 0) > 0 or gaps.reasons["size"] in ("malformed", "not_reported")


@given(st.binary(max_size=250))
def test_any_description_of_amdgpus_is_one_or_malformed(answer: bytes) -> None:
    gaps = FieldReader()
    device = gaps.read("device", lambda: drm.parse_amdgpu(answer))
    assert device is not None or gaps.reasons == {"device": "malformed"}


def machine(tmp_path: Path, name: str, path: str, answers: dict[str, bytes]) -> Path:
    """A copy of a snapshot whose card has a render node that answers."""
    folder = Path(shutil.copytree(SNAPSHOTS / name, tmp_path / name))
    put(folder, f"{path}/drm/renderD128/dev", "226:128")
    manifest = SnapshotRoot(folder).manifest
    document = msgspec.to_builtins(manifest) | {"answers": {k: v.hex() for k, v in answers.items()}}
    (folder / "manifest.json").write_bytes(msgspec.json.encode(document))
    return folder


def described(provider: SysfsGpuProvider) -> GpuInfo:
    provider.probe()
    (info,) = provider.inventory()
    return info


def test_a_card_that_answers_has_its_memory_in_the_inventory_and_a_capture_keeps_the_answer(
    tmp_path: Path,
) -> None:
    folder = machine(tmp_path, "intel-arc", ARC, {"/dev/dri/renderD128 xe": XE})
    assert described(intel(SnapshotRoot(folder))).memory.total_bytes == 12 * GIB
    recorder = RecordingRoot(SnapshotRoot(folder))
    capture(tmp_path / "sent", SnapshotRoot(folder), [intel(recorder)], recorder, source="a test")
    sent = SnapshotRoot(tmp_path / "sent")
    again = read_once(sent, [intel(sent)])
    assert again.inventory.gpus[0].memory.total_bytes == 12 * GIB


def test_a_node_that_is_closed_is_a_gap_that_a_capture_keeps_too(tmp_path: Path) -> None:
    folder = machine(tmp_path, "amd-dgpu", CARD, {})
    deny(folder, "/dev/dri/renderD128")
    memory = described(amd(SnapshotRoot(folder))).memory
    assert (memory.type, memory.unavailable["type"], memory.kind) == (None, "no_permission", "dedicated")
    recorder = RecordingRoot(SnapshotRoot(folder))
    capture(tmp_path / "sent", SnapshotRoot(folder), [amd(recorder)], recorder, source="a test")
    assert SnapshotRoot(tmp_path / "sent").manifest.errors["/dev/dri/renderD128"] == "EACCES"


def test_amdgpus_word_goes_before_what_is_guessed_from_sensors(tmp_path: Path) -> None:
    folder = machine(
        tmp_path,
        "amd-dgpu",
        CARD,
        {"/dev/dri/renderD128 amdgpu": amdgpu(flags=1, units=40, kind=12, width=128)},
    )
    info = described(amd(SnapshotRoot(folder)))
    assert (info.integrated, info.memory.kind, info.memory.type) == (True, "carveout", "LPDDR5")
    assert (info.shader_cores, info.memory.bus_width_bits) == (40 * 64, 128)
