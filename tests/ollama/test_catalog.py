from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from obt_agent.config.schema import OllamaConfig
from obt_agent.errors import OllamaError, OllamaUnavailable
from obt_agent.ollama import lists
from obt_agent.ollama.catalog import SEEN_WITHIN_S, Catalog, Snapshot, list_digest
from obt_agent.ollama.client import OllamaClient
from obt_agent.ollama.payloads import InstalledModel, RunningModel
from obt_standin import Model, Script, StandIn
from obt_standin.script import Answer
from tests.waiting import until as until_true


@asynccontextmanager
async def polled(standin: StandIn, *, run: bool = False) -> AsyncIterator[Catalog]:
    """A catalogue on a stand-in; with ``run`` it polls by itself, quickly."""
    async with OllamaClient(OllamaConfig(url=standin.url), attempts=1) as client:
        catalog = Catalog(client, poll_interval_s=0.01, probe_timeout_s=5)
        task = asyncio.create_task(catalog.run()) if run else None
        try:
            async with asyncio.timeout(30):
                yield catalog
        finally:
            if task is not None:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task


async def until(catalog: Catalog, holds: Callable[[Snapshot], bool]) -> Snapshot:
    """Wait for a snapshot of which something holds."""
    snapshot = catalog.snapshot
    while not holds(snapshot):
        snapshot = await catalog.wait_changed(snapshot.generation)
    return snapshot


async def test_before_the_first_poll_nothing_is_known(standin: StandIn) -> None:
    async with polled(standin) as catalog:
        assert catalog.snapshot.generation == 0
        assert not catalog.snapshot.state.reachable
        assert catalog.snapshot.stale


async def test_a_poll_shows_models_and_which_of_them_are_loaded(standin: StandIn) -> None:
    async with polled(standin) as catalog, OllamaClient(OllamaConfig(url=standin.url)) as client:
        await client.load("standin-small")
        snapshot = await catalog.refresh()
    assert snapshot.generation == 1
    assert snapshot.state.reachable
    assert snapshot.state.version == "0.33.0-standin"
    assert {model.name: model.loaded for model in snapshot.models} == {
        "standin-small:latest": True,
        "standin-think:8b": False,
        "standin-embed:latest": False,
        "standin-far:cloud": False,
    }
    assert [model.name for model in snapshot.running] == ["standin-small:latest"]


async def test_polls_that_see_nothing_new_make_no_generation(standin: StandIn) -> None:
    async with polled(standin) as catalog, OllamaClient(OllamaConfig(url=standin.url)) as client:
        await client.load("standin-small")
        first = await catalog.refresh()
        await client.load("standin-small", keep_alive="1h")
        again = await catalog.refresh()
    assert again.generation == first.generation
    assert again.running[0].expires_at != first.running[0].expires_at


async def test_a_new_model_a_loaded_one_and_an_unloaded_one_each_make_a_generation(standin: StandIn) -> None:
    async with polled(standin) as catalog, OllamaClient(OllamaConfig(url=standin.url)) as client:
        first = await catalog.refresh()
        await client.copy("standin-small", "again")
        second = await catalog.refresh()
        await client.load("again")
        third = await catalog.refresh()
        await client.unload("again")
        fourth = await catalog.refresh()
    assert [first.generation, second.generation, third.generation, fourth.generation] == [1, 2, 3, 4]
    assert first.list_digest != second.list_digest == third.list_digest == fourth.list_digest


async def test_ollama_going_away_keeps_the_last_list_as_stale_and_coming_back_freshens_it(
    standin: StandIn,
) -> None:
    async with polled(standin, run=True) as catalog, OllamaClient(OllamaConfig(url=standin.url)) as client:
        await client.load("standin-small")
        there = await until(catalog, lambda seen: bool(seen.running))
        await standin.stop()
        gone = await until(catalog, lambda seen: not seen.state.reachable)
        assert gone.stale
        assert [model.name for model in gone.models] == [model.name for model in there.models]
        assert not any(model.loaded for model in gone.models)
        assert gone.running == ()
        # The first poll to fail may have met the end of its connection.
        await until_true(lambda: "ollama serve" in (catalog.snapshot.state.error or ""))
        assert gone.list_digest == there.list_digest
        assert (gone.state.since or 0) >= (there.state.since or 0)
        await standin.start()
        back = await until(catalog, lambda seen: seen.state.reachable)
        assert not back.stale


async def test_a_new_version_is_a_new_generation(standin: StandIn) -> None:
    async with polled(standin, run=True) as catalog:
        await until(catalog, lambda seen: seen.state.reachable)
        standin.script.version = "0.34.0"
        assert (await until(catalog, lambda seen: seen.state.version == "0.34.0")).state.reachable


async def test_a_look_is_one_question_while_nothing_changes(standin: StandIn) -> None:
    async with polled(standin) as catalog:
        await catalog.refresh()
        asked = len(standin.requests)
        for _ in range(4):
            await catalog.look()
        await standin.wait_for(lambda ollama: len(ollama.requests) >= asked + 4)
        paths = [exchange.path for exchange in list(standin.requests)[asked:]]
    assert sorted(paths) == ["/api/ps", "/api/ps", "/api/tags", "/api/tags"]


@pytest.mark.parametrize("change", ["installed", "loaded"])
async def test_two_looks_see_any_change_with_everything_that_goes_with_it(
    change: str, standin: StandIn
) -> None:
    async with polled(standin) as catalog, OllamaClient(OllamaConfig(url=standin.url)) as client:
        before = await catalog.refresh()
        await client.copy("standin-small", "again")
        if change == "loaded":
            await client.load("again")
        for _ in range(2):
            await catalog.look()
        after = catalog.snapshot
    assert after.generation == before.generation + 1
    assert "again:latest" in {model.name for model in after.models}
    loaded = [model.name for model in after.models if model.loaded]
    assert loaded == [model.name for model in after.running] == ["again:latest"] * (change == "loaded")


def test_two_looks_at_the_interval_that_is_set_by_default_fit_into_what_is_promised() -> None:
    assert 2 * OllamaConfig().poll_interval_s < SEEN_WITHIN_S == 5


async def test_an_ollama_that_restarted_between_two_looks_is_asked_for_its_version(standin: StandIn) -> None:
    async with polled(standin) as catalog:
        await catalog.refresh()
        await standin.stop()
        standin.script.version = "0.34.0"
        await standin.start()
        await catalog.look()
        assert catalog.snapshot.state.reachable
        assert catalog.snapshot.state.version == "0.34.0"


async def test_looks_too_far_apart_for_one_question_each_ask_for_everything(standin: StandIn) -> None:
    async with OllamaClient(OllamaConfig(url=standin.url), attempts=1) as client:
        catalog = Catalog(client, poll_interval_s=SEEN_WITHIN_S / 2)
        task = asyncio.create_task(catalog.run())
        async with asyncio.timeout(30):
            await standin.wait_for(lambda ollama: len(ollama.requests) >= 6)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    paths = [exchange.path for exchange in list(standin.requests)[:6]]
    assert paths == ["/api/version", "/api/tags", "/api/ps"] * 2


@pytest.mark.parametrize("answer", ["html", "reset", "garbage"])
async def test_whatever_answers_in_ollamas_place_becomes_state_and_polling_goes_on(
    answer: Answer, standin: StandIn
) -> None:
    async with polled(standin, run=True) as catalog:
        await until(catalog, lambda seen: seen.state.reachable)
        standin.script.answer = answer
        lost = await until(catalog, lambda seen: not seen.state.reachable)
        assert lost.state.error
        standin.script.answer = "ollama"
        await until(catalog, lambda seen: seen.state.reachable)


async def test_an_ollama_that_takes_the_connection_and_says_nothing_counts_as_gone(standin: StandIn) -> None:
    standin.script.answer = "hang"
    async with OllamaClient(OllamaConfig(url=standin.url)) as client:
        snapshot = await Catalog(client, probe_timeout_s=0.05).refresh()
    assert not snapshot.state.reachable
    assert "within 0.05 s" in (snapshot.state.error or "")


async def test_many_callers_at_once_share_a_poll(standin: StandIn) -> None:
    async with polled(standin) as catalog:
        await asyncio.gather(*(catalog.refresh() for _ in range(20)))
    assert sum(exchange.path == "/api/tags" for exchange in standin.requests) <= 2


async def test_what_an_older_ollama_leaves_out_of_its_list_is_asked_once_for_each_digest() -> None:
    models = [Model(name=f"m{number}:latest", capabilities=("completion", "tools")) for number in range(12)]
    models.append(Model(name="far:latest", remote_model="far", remote_host="https://ollama.com:443"))
    async with StandIn(Script(models=models, tags_details=False, latency_s=0.01)) as standin:
        async with polled(standin, run=True) as catalog:
            first = await catalog.wait_changed(0)
            assert not any(model.capabilities for model in first.models)
            filled = await until(
                catalog,
                lambda seen: all(model.capabilities for model in seen.models if not model.remote_model),
            )
            local = [model for model in filled.models if model.remote_model is None]
            assert {model.capabilities for model in local} == {("completion", "tools")}
            assert {model.context_length for model in local} == {4096}
            asked = len(standin.requests)
            await standin.wait_for(lambda ollama: len(ollama.requests) > asked + 9)
        shows = [exchange for exchange in standin.requests if exchange.path == "/api/show"]
    assert len(shows) == 12
    ends = [(exchange.began_ns, 1) for exchange in shows] + [(exchange.ended_ns, -1) for exchange in shows]
    at_once = 0
    for _, step in sorted(ends):
        at_once += step
        assert at_once <= 3  # two, and one more that ended but whose end is not noted yet


async def test_a_model_whose_metadata_cannot_be_had_stays_in_the_list() -> None:
    script = Script(models=[Model(name="odd:latest")], tags_details=False)
    async with StandIn(script) as standin, polled(standin) as catalog:
        await catalog.refresh()
        standin.store.remove("odd:latest")
        await catalog.fill()
        assert [model.name for model in catalog.snapshot.models] == ["odd:latest"]
        asked = len(standin.requests)
        await catalog.fill()
        assert len(standin.requests) == asked


installed = st.builds(
    InstalledModel, name=st.text(max_size=4), digest=st.text(max_size=4), size_bytes=st.just(1)
)


@given(st.lists(installed, max_size=5))
def test_the_lists_digest_ignores_order_and_nothing_else_of_names_and_digests(
    models: list[InstalledModel],
) -> None:
    turned = models[::-1]
    assert list_digest(models) == list_digest(turned)
    if models:
        other = msgspec.structs.replace(models[0], digest=models[0].digest + "x")
        assert list_digest([other, *models[1:]]) != list_digest(models)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"models":5}', b"\xff", b"[" * 10_000])
def test_a_list_of_another_form_is_an_ollama_error(body: bytes) -> None:
    for read in (lists.read_installed, lists.read_running):
        with pytest.raises(OllamaError, match="not Ollama"):
            read(body)


def test_a_version_of_another_form_is_an_ollama_error() -> None:
    with pytest.raises(OllamaError):
        lists.read_version(b'{"version":5}')


def test_models_that_are_null_are_none() -> None:
    assert lists.read_installed(b'{"models":null}').models == ()
    assert lists.read_running(b'{"models":null}').models == ()


@pytest.mark.parametrize("read", [lists.read_installed, lists.read_running])
@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        (b"{}", "Entry 2 of {path} has no name."),
        (b"5", "Entry 2 of {path} cannot be read: "),
        (b'{"name":"x","size":"4 GB"}', "Entry 2 of {path} cannot be read: Expected `int`, got `str`"),
        (b'{"name":"x","details":{"family":["a"]}}', "Entry 2 of {path} cannot be read: "),
    ],
)
def test_an_odd_entry_costs_itself_and_says_why(
    read: Callable[[bytes], lists.InstalledList | lists.RunningList], odd: bytes, problem: str
) -> None:
    found = read(b'{"models":[{"name":"a"},' + odd + b',{"model":"b"}]}')
    assert [model.name for model in found.models] == ["a", "b"]
    (problem_found,) = found.problems
    assert problem_found.startswith(
        problem.format(path="/api/tags" if read is lists.read_installed else "/api/ps")
    )


@pytest.mark.parametrize(
    ("size", "vram", "ratio"),
    [(4, 3, 0.75), (4, 4, 1.0), (4, 0, 0.0), (5_000, 6_100, None), (0, 0, None), (4, -1, None)],
)
def test_a_share_on_gpus_is_a_share_or_unknown(size: int, vram: int, ratio: float | None) -> None:
    model = RunningModel(name="m", digest="d", size_bytes=size, size_vram_bytes=vram)
    assert model.gpu_offload_ratio == ratio


def test_an_unknown_architecture_has_no_context_length() -> None:
    assert lists.read_shown(b'{"capabilities":["completion"]}') == (("completion",), None)
    assert lists.read_shown(b'{"model_info":{"general.architecture":"x","x.context_length":"y"}}') == (
        (),
        None,
    )


class Restless:
    """An Ollama whose model has another digest at each look, in turns, and a truth for a context length."""

    connections = 1

    def __init__(self) -> None:
        self.looks = self.shows = 0

    async def version(self) -> str:
        return "1"

    async def installed(self) -> lists.InstalledList:
        self.looks += 1
        return lists.InstalledList((InstalledModel(name="m", digest=f"d{self.looks % 2}", size_bytes=1),))

    async def running(self) -> lists.RunningList:
        return lists.RunningList(())

    async def show(self, model: str) -> bytes:
        self.shows += 1
        return b'{"model_info": {"general.architecture": "l", "l.context_length": true}}'


async def test_metadata_of_models_that_are_gone_is_forgotten() -> None:
    ollama = Restless()
    catalog = Catalog(ollama)  # type: ignore[arg-type]  # what the catalogue asks of a client, and no more
    for _ in range(4):
        await catalog.refresh()
        await catalog.fill()
    assert ollama.shows == 4, "kept for ever, the digests of a restless Ollama would fill the memory"
    assert catalog.snapshot.models[0].context_length is None


class Hanging(Restless):
    """Lists at once, with another model each time; says nothing when asked to show one."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def show(self, model: str) -> bytes:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError(model)


async def test_an_ollama_that_hangs_over_a_model_still_has_its_changes_seen() -> None:
    ollama = Hanging()
    catalog = Catalog(ollama, poll_interval_s=0.001)  # type: ignore[arg-type]  # what it asks of a client
    task = asyncio.create_task(catalog.run())
    async with asyncio.timeout(20):
        await ollama.asked.wait()
        seen = catalog.snapshot
        for _ in range(3):
            seen = await until(catalog, lambda now, before=seen: now.list_digest != before.list_digest)  # type: ignore[misc]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Restarting(Restless):
    """Is away when it is first asked to show a model."""

    async def installed(self) -> lists.InstalledList:
        return lists.InstalledList((InstalledModel(name="m", digest="d", size_bytes=1),))

    async def show(self, model: str) -> bytes:
        self.shows += 1
        if self.shows == 1:
            raise OllamaUnavailable("Ollama closed the connection before it answered.")
        return b'{"capabilities": ["completion"], "model_info": {}}'


async def test_metadata_that_could_not_be_asked_for_is_asked_for_again() -> None:
    ollama = Restarting()
    catalog = Catalog(ollama)  # type: ignore[arg-type]  # what it asks of a client
    await catalog.refresh()
    seen = []
    for _ in range(3):
        await catalog.fill()
        seen.append(catalog.snapshot.models[0].capabilities)
    assert seen == [(), ("completion",), ("completion",)]
    assert ollama.shows == 2


class Imitating(Restless):
    """A router that imitates Ollama: one digest for all its models, and no list of loaded ones."""

    shown: ClassVar[dict[str, tuple[str, int]]] = {
        "small-chat:8b": ("completion", 40960),
        "only-embeds:latest": ("embedding", 2048),
        "sees-images:27b": ("vision", 131072),
    }

    def __init__(self, digest: str) -> None:
        super().__init__()
        self.digest = digest

    async def installed(self) -> lists.InstalledList:
        models = [InstalledModel(name=name, digest=self.digest, size_bytes=0) for name in self.shown]
        return lists.InstalledList(tuple(models), ("Entry 4 of /api/tags has no name.",))

    async def running(self) -> lists.RunningList:
        raise OllamaError("This Ollama has no such function (404).", status=404)

    async def show(self, model: str) -> bytes:
        capability, length = self.shown[model]
        info = {"general.architecture": "a", "a.context_length": length}
        return msgspec.json.encode({"capabilities": [capability], "model_info": info})


@pytest.mark.parametrize("digest", ["", "sha256:0"])
async def test_models_that_share_a_digest_keep_what_each_of_them_can(digest: str) -> None:
    catalog = Catalog(Imitating(digest))  # type: ignore[arg-type]  # what it asks of a client
    await catalog.refresh()
    await catalog.fill()
    found = {one.name: (*one.capabilities, one.context_length) for one in catalog.snapshot.models}
    assert found == Imitating.shown


async def test_a_list_that_cannot_be_read_costs_itself_and_says_why() -> None:
    catalog = Catalog(Imitating(""))  # type: ignore[arg-type]  # what it asks of a client
    with capture_logs() as logs:
        snapshot = await catalog.refresh()
    assert snapshot.state.reachable
    assert len(snapshot.models) == 3
    problems = ("Entry 4 of /api/tags has no name.", "This Ollama has no such function (404).")
    assert snapshot.problems == problems
    assert {"ollama.entries_unreadable"} < {entry["event"] for entry in logs}
