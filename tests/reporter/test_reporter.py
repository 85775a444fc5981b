"""States go out in full after admission and on every change; heartbeats go on whatever the server does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self, cast

import msgspec
import pytest

from obt_agent import reporter
from obt_agent.errors import AgentError, Busy, LinkLost
from obt_agent.hardware.inventory import Inventory
from obt_agent.ollama.catalog import Snapshot
from obt_agent.ollama.payloads import InstalledModel, OllamaState, RunningModel
from obt_agent.protocol.admission import HeartbeatParams, HelloResult, JobCounts, OutboxCounts
from obt_agent.protocol.jobs import JobSummary
from obt_agent.protocol.state import HardwareSync, JobsSync, ModelsSync
from obt_agent.reporter import Gauges, Reporter, heartbeat_every_s
from tests.dispatcher.doubles import FakeSession, permissive


class Changing:
    """A value with a generation that others wait on."""

    def __init__(self) -> None:
        self.generation = 1
        self._changed = asyncio.Event()

    def change(self) -> None:
        self.generation += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def later(self, after: int) -> None:
        while self.generation <= after:
            await self._changed.wait()


class FakeModels(Changing):
    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.copy: tuple[str, str] | None = None
        """A loaded model of that name, with the digest of the other."""

    @property
    def snapshot(self) -> Snapshot:
        models = tuple(InstalledModel(name=name, digest=f"d-{name}", size_bytes=1) for name in self.names)
        running = tuple(
            RunningModel(name=name, digest=f"d-{name}", size_bytes=1, size_vram_bytes=0)
            for name in self.names[:2]
        )
        if self.copy is not None:
            copied = f"d-{self.copy[1]}"
            models += (InstalledModel(name=self.copy[0], digest=copied, size_bytes=1),)
            running += (RunningModel(name=self.copy[0], digest=copied, size_bytes=1, size_vram_bytes=0),)
        return Snapshot(
            generation=self.generation,
            state=OllamaState(reachable=True, version="0.33.0"),
            models=models,
            running=running,
            list_digest=str(self.generation),
            stale=False,
        )

    async def wait_changed(self, after_generation: int) -> Snapshot:
        await self.later(after_generation)
        return self.snapshot


class FakeMachine(Changing):
    latest = None

    async def inventory(self, *, refresh: bool = False) -> Inventory:
        return inventory(str(self.generation))

    async def wait_inventory_changed(self, after_fingerprint: str) -> Inventory:
        await self.later(int(after_fingerprint))
        return await self.inventory()


def inventory(fingerprint: str) -> Inventory:
    return msgspec.convert(_fill(Inventory, fingerprint), Inventory)


def _fill(type_: type, fingerprint: str) -> dict[str, Any]:
    """The least object that the type takes: its required fields, with a value of their kind."""
    out: dict[str, Any] = {}
    for field in msgspec.structs.fields(type_):
        if not field.required:
            continue
        kind = field.type
        if field.encode_name == "fingerprint":
            out[field.encode_name] = fingerprint
        elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            out[field.encode_name] = _fill(kind, fingerprint)
        elif kind is str:
            out[field.encode_name] = "x"
        elif kind in (int, float):
            out[field.encode_name] = 0
        else:
            out[field.encode_name] = []
    return out


class FakeJobs(Changing):
    store_id = "store"
    jobs: tuple[JobSummary, ...] = ()

    async def unsettled(self) -> tuple[JobSummary, ...]:
        return self.jobs

    waiting_counts = OutboxCounts()
    problem = None

    @property
    def store(self) -> FakeJobs:
        return self

    async def wait_changed(self, after_generation: int) -> int:
        await self.later(after_generation)
        return self.generation

    @property
    def counts(self) -> JobCounts:
        return JobCounts(open=len(self.jobs))


class RecordingSession(FakeSession):
    """Records what is sent; answers with what ``refuse`` says."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: asyncio.Queue[msgspec.Struct] = asyncio.Queue()
        self.refuse: AgentError | None = None
        self.refused: set[str] = set()

    async def request(
        self, method: str, params: msgspec.Struct, result: type[Any], *, timeout_s: float, bulk: bool = False
    ) -> Any:
        assert bulk, "a state must not pass streams by"
        self.sent.put_nowait(params)
        if self.refuse is not None and method in self.refused:
            raise self.refuse
        return msgspec.Raw(b"{}")

    def notify(self, method: str, params: msgspec.Struct, *, droppable: bool = False) -> bool:
        if not self.alive:
            raise LinkLost("gone")
        self.sent.put_nowait(params)
        return True

    async def next(self, kind: type[Any]) -> Any:
        async with asyncio.timeout(10):
            while True:
                message = await self.sent.get()
                if isinstance(message, kind):
                    return message


class World:
    def __init__(self, names: Sequence[str] = ("a", "secret", "b")) -> None:
        self.models = FakeModels(names)
        self.machine = FakeMachine()
        self.jobs = FakeJobs()
        self.session = RecordingSession()
        self.reporter = Reporter(
            models=cast("Any", self.models),  # fakes: only what the reporter calls
            machine=cast("Any", self.machine),
            jobs=cast("Any", self.jobs),
            policy=permissive(models={"deny": ["*secret*"]}),
            gauges=Gauges(streams=lambda: 3, loop_lag_ms=lambda: 0.5),
        )

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self.reporter.run(self.session, 3600.0))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_after_admission_every_state_goes_out_and_a_heartbeat() -> None:
    async with World() as world:
        seen = {type(await world.session.next(msgspec.Struct)) for _ in range(4)}
    assert seen == {ModelsSync, HardwareSync, JobsSync, HeartbeatParams}


async def test_models_that_the_owner_hides_are_in_no_sync_and_no_heartbeat() -> None:
    async with World() as world:
        sync = await world.session.next(ModelsSync)
        beat = world.reporter.heartbeat()
    assert [model.name for model in sync.models] == ["a", "b"]
    assert [model.name for model in sync.running] == ["a"]
    assert beat.loaded == ("a",)
    assert (beat.streams, beat.loop_lag_ms) == (3, 0.5)


async def test_a_loaded_copy_of_a_hidden_model_is_hidden_too() -> None:
    world = World()
    world.models.copy = ("harmless", "secret")
    async with world:
        sync = await world.session.next(ModelsSync)
        beat = world.reporter.heartbeat()
    assert [model.name for model in sync.models] == ["a", "b"]
    assert [model.name for model in sync.running] == ["a"]
    assert beat.loaded == ("a",)


async def test_each_change_is_sent_in_full_with_a_higher_revision() -> None:
    async with World() as world:
        first = await world.session.next(ModelsSync)
        world.models.names.append("c")
        world.models.change()
        second = await world.session.next(ModelsSync)
        world.machine.change()
        hardware = await world.session.next(HardwareSync)
        world.jobs.jobs = (JobSummary(job_id="j", kind="benchmark", state="running"),)
        world.jobs.change()
        jobs = await world.session.next(JobsSync)
    assert [model.name for model in second.models] == ["a", "b", "c"]
    assert second.revision > first.revision
    assert hardware.inventory.fingerprint == "2"
    assert jobs.jobs[0].job_id == "j"


async def test_the_server_may_ask_for_a_state_again() -> None:
    async with World() as world:
        await world.session.next(JobsSync)
        world.reporter.request(["jobs"])
        assert await world.session.next(JobsSync)
    world.reporter.request(["jobs"])  # nobody is there: nothing happens


async def test_a_long_list_comes_in_pages_that_make_the_whole() -> None:
    names = [f"model-{n}" for n in range(500)]
    async with World(names) as world:
        pages = [await world.session.next(ModelsSync)]
        while not pages[-1].page.last:
            pages.append(await world.session.next(ModelsSync))
    assert [model.name for page in pages for model in page.models] == names
    assert [page.page.index for page in pages] == list(range(len(pages)))
    assert len(pages) > 1
    assert len({page.revision for page in pages}) == 1
    assert all(len(msgspec.json.encode(page)) < 2 * reporter.PAGE_BYTES for page in pages)


async def test_a_refused_sync_is_tried_again_and_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "RETRY_AFTER_S", 0.001)
    world = World()
    world.session.refuse, world.session.refused = Busy("later"), {"models.sync"}
    async with world:
        await world.session.next(ModelsSync)
        await world.session.next(ModelsSync)
        world.jobs.change()
        await world.session.next(JobsSync)
        world.session.refuse = None
        await world.session.next(ModelsSync)
        assert not world.task.done()


async def test_a_lost_link_ends_the_report_without_an_error() -> None:
    world = World()
    world.session.refuse, world.session.refused = LinkLost("gone"), {"hardware.sync"}
    async with asyncio.timeout(10):
        await world.reporter.run(world.session, 3600.0)


async def test_an_unforeseen_error_is_not_swallowed() -> None:
    world = World()
    world.models.wait_changed = None  # type: ignore[assignment, method-assign]  # a bug, on purpose
    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(10):
            await world.reporter.run(world.session, 3600.0)


async def test_of_several_waits_the_first_to_fail_is_heard() -> None:
    async def fails() -> None:
        raise Busy("x")

    with pytest.raises(Busy):
        await reporter.first_of(asyncio.Event().wait(), fails())


@pytest.mark.parametrize(
    ("asked_s", "every_s"), [(None, 15.0), (5.0, 5.0), (1e-300, 1.0), (0.5, 1.0), (1e300, 3600.0)]
)
def test_no_server_makes_the_agent_beat_without_pause_or_never(asked_s: float | None, every_s: float) -> None:
    assert (
        heartbeat_every_s(HelloResult(protocol=1, session=1, heartbeat_interval_s=asked_s), 15.0) == every_s
    )
