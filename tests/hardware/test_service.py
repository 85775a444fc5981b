"""The service as the rest of the agent uses it, over the real binding and a driver that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from obt_agent.config.schema import HardwareConfig
from obt_agent.daemon_thread import Stalled
from obt_agent.hardware.gpu.nvidia.provider import NvidiaProvider
from obt_agent.hardware.host.linux.storage import StorageProvider
from obt_agent.hardware.host.reader import HostReader
from obt_agent.hardware.inventory import Inventory, StorageInfo
from obt_agent.hardware.provider import CostGroup, GpuProvider, GpuReadings
from obt_agent.hardware.samples import Sample
from obt_agent.hardware.service import HardwareService
from obt_agent.hardware.snapshot.root import SnapshotRoot
from obt_agent.hardware.supervisor import Timings
from tests.hardware.nvml.fake import FakeDriver
from tests.hardware.trees import BASICS, pci, put, tree

OFTEN = HardwareConfig(idle_interval_s=0.05, active_interval_s=0.05, min_interval_s=0.001)
SELDOM = HardwareConfig(idle_interval_s=3600.0, active_interval_s=0.05, min_interval_s=0.001)
SOON = Timings(
    slow_interval_s=0.001,
    check_interval_s=0.05,
    gpu_deadline_s=1.0,
    retry_first_s=0.05,
    retry_most_s=0.2,
    close_deadline_s=0.3,
)


def service_of(
    machine: Path,
    *providers: GpuProvider,
    config: HardwareConfig = OFTEN,
    timings: Timings = SOON,
) -> HardwareService:
    return HardwareService(config, root=machine, providers=providers, timings=timings)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    folder = tmp_path / "machine"
    tree(folder, BASICS | pci("0000:01:00.0", "0x10de"))
    return folder


@asynccontextmanager
async def serving(
    machine: Path, driver: FakeDriver, timings: Timings = SOON, config: HardwareConfig = OFTEN
) -> AsyncIterator[HardwareService]:
    nvidia = NvidiaProvider(SnapshotRoot(machine), driver.nvml, driver.prober())
    service = service_of(machine, nvidia, config=config, timings=timings)
    await service.start()
    try:
        async with asyncio.timeout(60):
            yield service
    finally:
        async with asyncio.timeout(20):
            await service.close()


async def first(service: HardwareService, wanted: Callable[[Sample], bool]) -> Sample:
    async with service.watch(0.01, reason="test") as watch:
        async for sample in watch:
            if wanted(sample):
                return sample
    raise AssertionError("the watch ended")


def state_is(state: str) -> Callable[[Sample], bool]:
    return lambda sample: [gpu.state for gpu in sample.gpus] == [state]


async def until(service: HardwareService, wanted: Callable[[Inventory], bool]) -> Inventory:
    inventory = await service.inventory()
    while not wanted(inventory):
        inventory = await service.wait_inventory_changed(inventory.fingerprint)
    return inventory


def status_is(status: str) -> Callable[[Inventory], bool]:
    return lambda inventory: {p.name: p.status for p in inventory.providers}["nvidia"] == status


async def test_a_call_that_hangs_for_ever_stalls_its_gpu_and_nothing_else(
    machine: Path, driver: FakeDriver
) -> None:
    async with serving(machine, driver.machine("rtx4090")) as service:
        await service.inventory()
        await first(service, state_is("ok"))
        driver.answer("* hang:nvmlDeviceGetUtilizationRates 1")
        stalled = await first(service, state_is("stalled"))
        assert stalled.gpus[0].unavailable["power_watts"] == "stalled"
        assert stalled.memory.used_bytes == 400 * 1024
        later = await first(service, state_is("stalled"))
        assert later.cpu.load == (0.5, 0.25, 0.1)
        assert await service.energy_edges() == {}
        assert status_is("stalled")(await service.inventory(refresh=True))


async def test_a_driver_that_comes_back_is_used_again(machine: Path, driver: FakeDriver) -> None:
    async with serving(machine, driver.machine("rtx4090")) as service:
        await service.inventory()
        driver.answer("* hang:nvmlDeviceGetMemoryInfo 1")
        await first(service, state_is("stalled"))
        driver.forget_answer("* hang:nvmlDeviceGetMemoryInfo 1")
        recovered = await first(service, state_is("ok"))
        assert recovered.gpus[0].memory_used_bytes == 6442450944


async def test_a_lost_gpu_stays_in_the_inventory_and_is_found_again(
    machine: Path, driver: FakeDriver
) -> None:
    async with serving(machine, driver.machine("rtx4090")) as service:
        before = await service.inventory()
        driver.answer("0 ret:* 15")
        await first(service, state_is("lost"))
        lost = await until(service, status_is("lost"))
        assert [gpu.id for gpu in lost.gpus] == [gpu.id for gpu in before.gpus]
        driver.forget_answer("0 ret:* 15")
        await first(service, state_is("ok"))
        assert (await until(service, status_is("ok"))).gpus == before.gpus


async def test_a_driver_that_will_not_start_is_tried_again(machine: Path, driver: FakeDriver) -> None:
    async with serving(machine, driver.machine("rtx4090").answer("* ret:nvmlInit 9")) as service:
        assert status_is("degraded")(await service.inventory())
        driver.forget_answer("* ret:nvmlInit 9")
        assert (await until(service, status_is("ok"))).gpus[0].name == "NVIDIA GeForce RTX 4090"


async def test_a_gpu_that_wakes_is_read_again(machine: Path, driver: FakeDriver) -> None:
    power = "/sys/bus/pci/devices/0000:01:00.0/power"
    put(machine, f"{power}/control", "auto\n")
    put(machine, f"{power}/runtime_status", "suspended\n")
    async with serving(machine, driver.machine("rtx4090")) as service:
        await first(service, state_is("suspended"))
        assert status_is("suspended")(await service.inventory())
        put(machine, f"{power}/runtime_status", "active\n")
        await first(service, state_is("ok"))
        put(machine, f"{power}/runtime_status", "suspended\n")
        await first(service, state_is("suspended"))


async def test_a_gpu_that_is_plugged_in_changes_the_inventory(machine: Path, driver: FakeDriver) -> None:
    async with serving(machine, driver.machine("rtx4090")) as service:
        before = await service.inventory()
        for path, content in pci("0000:41:00.0", "0x10de").items():
            put(machine, path, content)
        driver.machine("dual")
        after = await until(service, lambda inventory: len(inventory.gpus) == 2)
        assert after.fingerprint != before.fingerprint


async def test_energy_at_an_edge_is_read_then_and_not_taken_from_a_sample(
    machine: Path, driver: FakeDriver
) -> None:
    async with serving(machine, driver.machine("dual"), replace(SOON, gpu_deadline_s=30), SELDOM) as service:
        await service.inventory()
        one, two = "GPU-33333333-0000-0000-0000-000000000000", "GPU-16601660-0000-0000-0000-000000000000"
        assert await service.energy_edges() == {one: 1.0, two: 2.0}
        driver.answer("0 nvmlDeviceGetTotalEnergyConsumption 4500")
        assert await service.energy_edges() == {one: 4.5, two: 2.0}


async def test_a_fault_in_a_provider_does_not_end_sampling(machine: Path, driver: FakeDriver) -> None:
    class Faulty(NvidiaProvider):
        def sample(self, group: CostGroup) -> GpuReadings:
            raise RuntimeError("a fault of the program")

    nvidia = Faulty(SnapshotRoot(machine), driver.machine("rtx4090").nvml, driver.prober())
    service = service_of(machine, nvidia, timings=replace(SOON, retry_first_s=60))
    await service.start()
    async with asyncio.timeout(60):
        await service.inventory()
        sample = await first(service, state_is("degraded"))
        assert sample.gpus[0].unavailable["power_watts"] == "driver_error"
        await service.close()


async def test_the_cadence_is_that_of_the_fastest_who_wants_samples(machine: Path) -> None:
    service = service_of(machine, config=HardwareConfig())
    assert service.interval_s == 30.0
    service.note_loaded(True)
    assert service.interval_s == 1.0
    async with service.watch(0.5, reason="benchmark"), service.watch(2.0, reason="person") as slow:
        assert service.interval_s == 0.5
        assert slow.interval_s == 2.0
        async with service.watch(0.0001, reason="greedy") as greedy:
            assert service.interval_s == greedy.interval_s == 0.2
    service.note_loaded(False)
    assert service.interval_s == 30.0
    await service.close()


async def test_who_begins_to_watch_does_not_wait_for_the_idle_tick(machine: Path) -> None:
    service = service_of(machine, config=SELDOM)
    await service.start()
    async with asyncio.timeout(30), service.watch(0.01, reason="test") as watch:
        samples = [await anext(watch) for _ in range(3)]
    assert [sample.t_mono_ns for sample in samples] == sorted({sample.t_mono_ns for sample in samples})
    assert service.latest is not None
    assert service.sampler_cost.samples >= 3
    assert service.sampler_cost.cpu_ratio > 0
    await service.close()


async def test_the_end_of_a_watch_takes_no_sample(machine: Path) -> None:
    service = service_of(machine, config=SELDOM)
    await service.start()
    async with asyncio.timeout(30):
        await service.inventory()
        async with service.watch(3600, reason="test") as watch:
            await anext(watch)
            taken = service.sampler_cost.samples
        for _ in range(20):
            await asyncio.sleep(0)
        # Read in the host's own thread: a sample that the end had asked for would be read before it.
        await service.inventory(refresh=True)
        assert service.sampler_cost.samples == taken
    await service.close()


async def test_a_sample_that_is_asked_for_again_at_once_is_the_same(machine: Path) -> None:
    service = service_of(machine, config=HardwareConfig(min_interval_s=3600))
    async with asyncio.timeout(30):
        sample = await service.sample()
        assert await service.sample() is sample
        assert service.latest is sample
    await service.close()


async def test_closing_ends_every_watch(machine: Path) -> None:
    service = service_of(machine)
    await service.start()
    async with asyncio.timeout(30), service.watch(3600, reason="test") as watch:
        await anext(watch)
        closing = asyncio.create_task(service.close())
        assert [sample async for sample in watch] == []
        await closing


async def test_the_version_of_ollama_is_in_the_inventory_as_soon_as_it_is_known(machine: Path) -> None:
    service = service_of(machine, timings=replace(SOON, check_interval_s=3600))
    await service.start()
    async with asyncio.timeout(30):
        before = await service.inventory()
        assert before.host.ollama_version is None
        assert before.host.unavailable["ollama_version"] == "not_reported: Ollama did not answer"
        service.note_ollama_version("0.33.0")
        after = await service.wait_inventory_changed(before.fingerprint)
        assert after.host.ollama_version == "0.33.0"
    await service.close()


async def test_a_new_version_is_in_the_inventory_although_the_first_try_failed(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = service_of(machine)
    await service.start()
    async with asyncio.timeout(30):
        before = await service.inventory()
        real, tries = HostReader.inventory, list[int]()

        def fails_once(reader: HostReader, version: str | None) -> Inventory:
            tries.append(1)
            if len(tries) == 1:
                raise TypeError("once")
            return real(reader, version)

        monkeypatch.setattr(HostReader, "inventory", fails_once)
        service.note_ollama_version("0.33.0")
        after = await service.wait_inventory_changed(before.fingerprint)
        assert after.host.ollama_version == "0.33.0"
    assert tries
    await service.close()


async def test_a_process_that_turns_into_ollama_is_found_as_soon_as_ollama_answers(machine: Path) -> None:
    put(machine, "/proc/10/comm", "sh\n")
    put(machine, "/proc/10/stat", "10 (ollama) S 1" + " 0" * 40)
    service = service_of(machine, timings=replace(SOON, check_interval_s=60.0))
    await service.start()
    async with asyncio.timeout(30):
        await first(service, lambda _: True)
        put(machine, "/proc/10/cmdline", "ollama\0serve")
        put(machine, "/proc/10/comm", "ollama\n")
        service.note_ollama_version("0.33.0")
        sample = await first(service, lambda sample: bool(sample.ollama))
    assert [process.pid for process in sample.ollama] == [10]
    await service.close()


async def test_a_fault_that_nobody_foresaw_costs_one_reading_and_no_more(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = {"sample": 2, "inventory": 1}

    def faulty(name: str) -> None:
        real = getattr(HostReader, name)

        def method(reader: HostReader, *arguments: object) -> object:
            if faults[name]:
                faults[name] -= 1
                raise TypeError(name)
            return real(reader, *arguments)

        monkeypatch.setattr(HostReader, name, method)

    faulty("sample")
    faulty("inventory")
    service = service_of(machine)
    await service.start()
    async with asyncio.timeout(30):
        await first(service, lambda _: True)
        await service.wait_inventory_changed("")
    assert faults == {"sample": 0, "inventory": 0}
    await service.close()


async def test_a_refresh_collects_anew_and_the_plain_question_does_not(machine: Path) -> None:
    service = service_of(machine)
    async with asyncio.timeout(30):
        first_one = await service.inventory()
        assert await service.inventory() is first_one
        second = await service.inventory(refresh=True)
    assert second is not first_one
    assert second.fingerprint == first_one.fingerprint
    await service.close()


def test_a_process_with_a_hung_driver_ends_in_time(machine: Path, driver: FakeDriver) -> None:
    program = textwrap.dedent(f"""
        import asyncio
        from pathlib import Path
        from obt_agent.hardware.gpu.nvidia.provider import NvidiaProvider
        from obt_agent.hardware.snapshot.root import SnapshotRoot
        from obt_agent.hardware.service import HardwareService
        from obt_agent.config.schema import HardwareConfig
        from obt_agent.hardware.supervisor import Timings
        from tests.hardware.nvml.fake import FakeDriver

        async def main():
            driver = FakeDriver(Path({str(driver.library)!r})).machine("rtx4090")
            nvidia = NvidiaProvider(SnapshotRoot(Path({str(machine)!r})), driver.nvml, driver.prober())
            service = HardwareService(
                HardwareConfig(),
                root=Path({str(machine)!r}),
                providers=[nvidia],
                timings=Timings(gpu_deadline_s=0.2, close_deadline_s=0.2),
            )
            await service.inventory()
            driver.answer("* hang:nvmlDeviceGetUtilizationRates 1")
            sample = await service.sample()
            print(sample.gpus[0].state)
            await service.close()

        asyncio.run(main())
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.split()[-1]) == (0, "stalled"), done.stderr


async def test_a_store_that_hangs_costs_only_its_own_place_in_the_inventory(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    def hangs(_self: StorageProvider) -> tuple[StorageInfo, ...]:
        gate.wait()
        return ()

    monkeypatch.setattr(StorageProvider, "inventory", hangs)
    service = service_of(machine, timings=replace(SOON, host_deadline_s=0.5))
    async with asyncio.timeout(30):
        inventory = await service.inventory()
    gate.set()
    assert {p.name: p.status for p in inventory.providers}["storage"] == "stalled"
    assert inventory.memory.total_bytes == 1000 * 1024
    await service.close()


async def sample_until_it_fails(service: HardwareService) -> None:
    while True:
        await service.sample()


async def test_kernel_files_that_hang_stall_a_sample_and_not_the_sampler(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    real = HostReader.sample

    def hangs(reader: HostReader) -> Sample:
        gate.wait()
        return real(reader)

    service = service_of(machine, timings=replace(SOON, host_deadline_s=0.2))
    await service.start()
    async with asyncio.timeout(30):
        await first(service, lambda _: True)
        monkeypatch.setattr(HostReader, "sample", hangs)
        with pytest.raises(Stalled):
            await sample_until_it_fails(service)
        monkeypatch.setattr(HostReader, "sample", real)
        gate.set()
        before = service.latest
        await first(service, lambda sample: sample is not before)
    await service.close()


async def test_the_disk_of_the_models_is_asked_for_by_itself(tmp_path: Path) -> None:
    mounts = {"/proc/self/mountinfo": "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"}
    models = "/usr/share/ollama/.ollama/models"
    sizes = {models: {"total_bytes": 9, "free_bytes": 3}}
    tree(tmp_path / "with", BASICS | mounts | {f"{models}/.keep": ""}, sizes=sizes)
    tree(tmp_path / "without", BASICS | mounts)
    async with asyncio.timeout(60), contextlib.AsyncExitStack() as stack:
        found = []
        for folder in ("with", "without"):
            service = service_of(tmp_path / folder)
            stack.push_async_callback(service.close)
            found.append(await service.model_store())
    assert found[0] is not None
    assert (found[0].free_bytes, found[0].found_by, found[1]) == (3, "usual_place", None)
