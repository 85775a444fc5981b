"""Whatever the files say: nothing raises, every number is finite and none contradicts another."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from obt_agent.hardware import inventory, samples
from obt_agent.hardware.field_reader import REASONS
from obt_agent.hardware.gpu.registry import gpu_providers
from obt_agent.hardware.legacy import legacy_hardware_info
from obt_agent.hardware.read_once import MachineReading, read_once
from obt_agent.hardware.snapshot.root import SnapshotRoot
from tests.effort import examples
from tests.hardware.replay import SNAPSHOTS

ERRORS = ["EACCES", "EIO", "ENODEV", "EINVAL", "ENODATA", "EPERM", "EOPNOTSUPP", "EBUSY"]
CONTENTS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"",
            b"-1\n",
            b"0\n",
            b"99999999999999999999999\n",
            b"nan\n",
            b"inf\n",
            b"1e309",
            b"max\n",
            b"\xff\xfe",
            b": :\n",
        ]
    ),
    st.integers(-(2**70), 2**70).map(lambda n: str(n).encode()),
)
UNITS = ("_bytes", "_celsius", "_watts", "_joules", "_hertz", "_ratio", "_ns", "_us", "_bits", "_mt_s")
UNITLESS = {
    *("collected_at", "t_wall"),  # Unix seconds, as the protocol has all its times
    *("sockets", "physical_cores", "logical_cores", "numa_nodes", "cgroup_version", "cpus", "missed", "pid"),
    *("server_pid", "port"),
    *("index", "shader_cores", "max_gen", "max_width", "pcie_gen", "pcie_width", "max_instances"),
    *("gpu_instance_id", "compute_instance_id", "multiprocessors", "ecc_uncorrected", "load"),
    *("read_bytes_per_second", "write_bytes_per_second"),
    *(
        "receive_bytes_per_second",
        "transmit_bytes_per_second",
        "energy_joules_total",
        "throttled_seconds_total",
    ),
}


@pytest.mark.timeout(600)  # each example lays out a whole machine in files
@pytest.mark.parametrize("name", ["amd-dgpu", "amd-apu", "intel-arc", "container-limits", "suspended-laptop"])
@settings(
    max_examples=examples(15),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_corrupted_machine_is_read_with_no_exception_and_no_nonsense(
    name: str, tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SNAPSHOTS / name, folder)
    corrupt(folder, data)
    root = SnapshotRoot(folder)
    reading = read_once(root, gpu_providers(root))
    check(reading)
    msgspec.json.decode(msgspec.json.encode(reading), type=MachineReading)
    required_numbers_are_there(msgspec.to_builtins(legacy_hardware_info(reading.inventory)))


def corrupt(folder: Path, data: st.DataObject) -> None:
    """Give some files other contents, some an error, and take some away."""
    files = sorted(path for path in (folder / "tree").rglob("*") if path.is_file())
    manifest = json.loads((folder / "manifest.json").read_text())
    errors = manifest.setdefault("errors", {})
    for path in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=12, unique=True)):
        match data.draw(st.sampled_from(["content", "error", "gone"])):
            case "content":
                path.write_bytes(data.draw(CONTENTS))
            case "error":
                errors["/" + str(path.relative_to(folder / "tree"))] = data.draw(st.sampled_from(ERRORS))
            case _:
                path.unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def check(reading: MachineReading) -> None:
    for path, value in numbers(msgspec.to_builtins(reading)):
        assert math.isfinite(value), path
        assert value >= 0 or "celsius" in path, path
        if path.endswith("_ratio") and "cpu_ratio" not in path:
            assert value <= 1, path
    for reason in reasons(msgspec.to_builtins(reading)):
        assert reason.partition(":")[0] in REASONS, reason
    memory, total = reading.sample.memory, reading.inventory.memory.total_bytes
    assert memory.used_bytes is None or total is None or memory.used_bytes <= total
    limit = reading.inventory.limits.memory_bytes
    assert memory.cgroup_available_bytes is None or limit is None or memory.cgroup_available_bytes <= limit
    infos = {gpu.id: gpu.memory for gpu in reading.inventory.gpus}
    for gpu in reading.sample.gpus:
        known = infos[gpu.id]
        for used, size in (
            (gpu.memory_used_bytes, known.total_bytes),
            (gpu.shared_used_bytes, known.shared_total_bytes),
        ):
            assert used is None or size is None or used <= size


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from numbers(inner, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from numbers(inner, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def reasons(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value.get("unavailable", {}).values()
        for inner in value.values():
            yield from reasons(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from reasons(inner)


def required_numbers_are_there(info: dict[str, Any]) -> None:
    """OBT's integers must not be null."""
    assert isinstance(info["cpu"]["base_clock"], int | float)
    required = [info["cpu"]["cores"], info["cpu"]["threads"], info["total_memory"]]
    required += [info["ram"]["speed"], info["ram"]["channels"]]
    required += [gpu[name] for gpu in info["gpus"] for name in ("vram_size", "index")]
    required += [module[name] for module in info["ram"]["modules"] for name in ("size", "speed")]
    assert all(isinstance(number, int) for number in required)
    words = [
        *info["firmware"].values(),
        info["cpu"]["name"],
        info["cpu"]["architecture"],
        info["ram"]["type"],
    ]
    assert all(isinstance(word, str) and word for word in words)


def structs() -> list[type[msgspec.Struct]]:
    found = {**vars(inventory), **vars(samples)}.values()
    return [
        value
        for value in found
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value is not msgspec.Struct
    ]


@pytest.mark.parametrize("struct", structs(), ids=lambda struct: struct.__name__)
def test_every_number_has_its_unit_in_its_name(struct: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(struct):
        if re.search(r"\b(int|float)\b", str(field.type)):
            assert field.name.endswith(UNITS) or field.name in UNITLESS, field.name


@pytest.mark.parametrize("struct", structs(), ids=lambda struct: struct.__name__)
def test_nothing_of_the_schema_can_carry_a_serial_number(struct: type[msgspec.Struct]) -> None:
    assert not [field.name for field in msgspec.structs.fields(struct) if "serial" in field.name]
