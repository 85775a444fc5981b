"""What a program gets that embeds the hub: values of its own world, and no library's inner types."""

import inspect
import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from obt_agent.errors import InvalidParams
from obt_agent.protocol import methods
from obt_agent.protocol.commands import HardwareWatchParams, ListModelsParams, RunningModelsResult
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.errors import StreamEnd
from obt_agent.protocol.jobs import JobStarted
from obt_agent.protocol.streams import Item, SeriesFinal, SeriesItem, StreamFinal
from obt_server import hub as public
from obt_server.hub import AgentHub, CommandParams
from obt_server.router import obt_router
from tests.server.agent_double import AgentDouble, Answer
from tests.server.conftest import Running
from tests.server.job_steps import accept
from tests.server.memory_storage import MemoryStorage
from tests.server.test_streams import quick


class Walk:
    """Follows annotations from what is public to everything that it gives or takes."""

    def __init__(self) -> None:
        self.seen: set[Any] = set()
        self.found: list[str] = []

    def annotation(self, kind: Any, path: str) -> None:
        if kind is msgspec.Raw:
            self.found.append(path)
        for part in typing.get_args(kind):
            self.annotation(part, path)
        if inspect.isclass(kind) and kind.__module__.startswith("obt_") and kind not in self.seen:
            self.seen.add(kind)
            self.members(kind, f"{path} -> {kind.__name__}")

    def members(self, kind: type, path: str) -> None:
        for name, hint in typing.get_type_hints(kind).items():
            if not name.startswith("_"):
                self.annotation(hint, f"{path}.{name}")
        for name, member in inspect.getmembers(kind):
            if name == "__aiter__" or not name.startswith("_"):
                self.function(member.fget if isinstance(member, property) else member, f"{path}.{name}")

    def function(self, function: Any, path: str) -> None:
        if inspect.isfunction(function):
            for name, hint in typing.get_type_hints(function).items():
                self.annotation(hint, f"{path}({name})")


def public_values() -> Iterator[tuple[str, Any]]:
    for name in public.__all__:
        yield name, getattr(public, name)
    hub = AgentHub(MemoryStorage())
    for name, value in vars(hub).items():
        if not name.startswith("_"):
            yield f"AgentHub.{name}", type(value)
    yield "an item of a stream", Item
    for method in methods.COMMANDS:
        yield f"the result of {method.name}", method.result


def test_nothing_that_an_embedding_application_meets_is_undecoded() -> None:
    walk = Walk()
    for name, value in public_values():
        walk.annotation(value, name)
    walk.function(obt_router, "obt_router")
    assert walk.found == []
    met = {kind.__name__ for kind in walk.seen}
    assert {"AgentStream", "Viewer", "SeriesItem", "JobRecord", "Presence", "ServerStorage"} <= met


async def running_models(_: AgentDouble, __: Request) -> Answer:
    return {"models": [], "later": 1}


@pytest.mark.parametrize(
    "params", [{"refresh": False}, ListModelsParams(refresh=False), b' {"refresh":false}']
)
async def test_parameters_are_a_mapping_a_struct_or_json_text(server: Running, params: CommandParams) -> None:
    async def list_models(_: AgentDouble, __: Request) -> Answer:
        return {"models": [], "list_digest": "d", "ollama": {"reachable": True}}

    async with server.agent() as agent:
        agent.handlers["list_models"] = list_models
        result = await server.parts.hub.call(agent.agent_id, "list_models", params)
        assert result.ollama.reachable
        assert msgspec.json.decode(agent.requests[-1].params) == {"refresh": False}


async def test_a_result_is_of_the_commands_type_or_the_text_that_the_agent_sent(server: Running) -> None:
    hub = server.parts.hub
    async with server.agent() as agent:
        agent.handlers["running_models"] = running_models
        agent.handlers["run_benchmark"] = accept
        assert await hub.call(agent.agent_id, "running_models") == RunningModelsResult(models=())
        assert await hub.call_text(agent.agent_id, "running_models") == b'{"models":[],"later":1}'
        started = await hub.call(agent.agent_id, "run_benchmark", {"plan": {"model_name": "m"}})
        assert isinstance(started, JobStarted)


async def test_a_result_of_another_type_is_refused_by_its_field(server: Running) -> None:
    async def wrong(_: AgentDouble, __: Request) -> Answer:
        return {"models": 7}

    async with server.agent() as agent:
        agent.handlers["running_models"] = wrong
        with pytest.raises(InvalidParams, match=r"result\.models"):
            await server.parts.hub.call(agent.agent_id, "running_models")


@pytest.mark.parametrize(
    "params",
    [b"", b"[]", b"{", b'{"model":"\xff"}', b'{"model":"m","x":' + b"[" * 1000 + b"]" * 1000 + b"}", {}],
)
async def test_what_is_no_object_for_the_command_never_reaches_the_agent(
    server: Running, params: CommandParams
) -> None:
    hub = server.parts.hub
    async with server.agent() as agent:
        with pytest.raises(InvalidParams):
            await hub.call(agent.agent_id, "show_model", params)
        with pytest.raises(InvalidParams):
            async with hub.stream(agent.agent_id, "generate", params):
                pass
        with pytest.raises(InvalidParams):
            await hub.start_job(agent.agent_id, "pull_model", params)
        await agent.sync_models()
        assert not agent.requests


async def test_a_stream_gives_decoded_items_and_their_result(server: Running) -> None:
    async with server.agent() as agent:
        agent.handlers["generate"] = quick
        async with server.parts.hub.stream(agent.agent_id, "generate", {"model": "m"}) as stream:
            items = [item async for item in stream]
            result = stream.result
    assert items == [Item(t_us=1, chunk={"response": "quick", "done": False})]
    assert isinstance(result, StreamFinal)
    assert result.final == {"done": True, "eval_count": 2}


async def test_a_series_gives_decoded_samples(server: Running) -> None:
    sample = SeriesItem(t_us=1, n=1, sample={"cpu": 0.5})

    async def watch(agent: AgentDouble, request: Request) -> Answer:
        await agent.stream_items(request, msgspec.Raw(msgspec.json.encode(sample)))
        return SeriesFinal(interval_ms=500, stream=StreamEnd(next_seq=1))

    hub = server.parts.hub
    async with server.agent() as agent:
        agent.handlers["hardware_watch"] = watch
        async with hub.watch_hardware(agent.agent_id, 500) as viewer:
            assert [item async for item in viewer] == [sample]
        params = HardwareWatchParams(interval_ms=500)
        async with hub.stream(agent.agent_id, "hardware_watch", params) as stream:
            assert [item async for item in stream] == [sample]
            assert stream.result == SeriesFinal(interval_ms=500, stream=StreamEnd(next_seq=1))
