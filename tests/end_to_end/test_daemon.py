"""The whole of it: a server that drives agents which dial out, over real sockets and processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import Any

import aiohttp
import pytest

from obt_server.client import ApiError
from obt_standin import StandIn
from obt_standin.script import Behaviour
from tests.end_to_end.world import World, listening_sockets
from tests.waiting import until

pytestmark = pytest.mark.slow

MODEL = "standin-small:latest"


async def streamed(here: World, agent: str, **body: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    items, final = [], {}
    async for name, data in here.client.stream(agent, "generate", {"model": MODEL, "prompt": "x", **body}):
        if name == "item":
            items.append(data)
        elif name == "final":
            final = data
    return items, final


async def test_while_it_runs_and_streams_the_agent_has_no_socket_that_anybody_could_reach(
    here: World, standin: StandIn
) -> None:
    standin.script.decode_tps, standin.script.tokens = 50.0, 100_000
    agent = await here.enrolled("one", name="one")
    (view,) = await here.online()
    stream = here.client.stream(view["id"], "generate", {"model": MODEL, "prompt": "x"})
    async with contextlib.aclosing(stream):  # type: ignore[type-var] # an async generator
        assert (await anext(stream))[0] == "item"
        assert listening_sockets(agent.process.pid) == []


def test_the_look_at_sockets_sees_what_it_should() -> None:
    with (
        socket.socket() as tcp,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        udp.bind(("127.0.0.1", 0))
        unix.bind("\0obt-test-listens")
        unix.listen()
        found = " ".join(listening_sockets(os.getpid()))
    assert "SOCK_STREAM" in found
    assert "SOCK_DGRAM" in found
    assert "obt-test-listens" in found


async def test_of_two_agents_with_the_same_name_the_first_keeps_it(here: World) -> None:
    await here.enrolled("one", name="twin")
    (first,) = await here.online()
    await here.enrolled("two", name="twin")
    views = await here.online(2)
    (second,) = (view for view in views if view["id"] != first["id"])
    assert {view["id"]: view["name"] for view in views} == {
        first["id"]: "twin",
        second["id"]: f"twin ({second['id'][-8:]})",
    }
    for address in ("twin", first["id"], second["id"]):
        assert (await here.client.command(address, "list_models", {}))["models"]


async def test_the_same_agent_started_twice_names_the_one_that_runs_and_nothing_flaps(here: World) -> None:
    first = await here.enrolled("one", name="one")
    (before,) = await here.online()
    (first.folder / "second").mkdir()
    second = await here.program(first.folder / "second", "run", "--config", str(first.config))
    assert await second.ended() == 75
    assert str(first.process.pid) in second.log
    (after,) = await here.online()
    assert after["session"] == before["session"]


async def test_ten_thousand_tokens_arrive_complete_and_in_order_also_in_single_bytes(
    here: World, standin: StandIn
) -> None:
    await here.enrolled("one", name="one")
    (view,) = await here.online()
    for split in (None, 1):
        standin.script.numbered, standin.script.tokens, standin.script.split_bytes = True, 10_000, split
        items, final = await streamed(here, view["id"], options={"num_predict": 10_000})
        words = "".join(item["chunk"]["response"] for item in items).split()
        assert words == [str(number) for number in range(10_000)]
        assert final["final"]["eval_count"] == 10_000
        assert [item["t_us"] for item in items] == sorted(item["t_us"] for item in items)


async def test_a_changed_list_of_models_and_a_stopped_ollama_are_heard(here: World, standin: StandIn) -> None:
    await here.enrolled("one", name="one")
    (view,) = await here.online()

    async def models() -> set[str]:
        return {
            one["name"] for one in await here.client.get(f"/agents/{view['id']}/models") if one["current"]
        }

    async with aiohttp.ClientSession() as http:
        body = {"source": MODEL, "destination": "late:1b"}
        assert (await http.post(f"{standin.url}/api/copy", json=body)).status == 200
    await until(lambda: _contains(models(), "late:1b"))
    await standin.stop()
    await until(lambda: _reachable(here, expected=False))
    await standin.start()
    await until(lambda: _reachable(here, expected=True))


async def _reachable(here: World, *, expected: bool) -> bool:
    (view,) = await here.views()
    return view["ollama"]["reachable"] is expected


async def _contains(names: Any, name: str) -> bool:
    return name in await names


WRONG = {
    "a web page": (Behaviour(answer="html"), "ollama_error"),
    "the queue is full": (Behaviour(answer="busy"), "ollama_error"),
    "no HTTP": (Behaviour(answer="garbage"), "ollama_error"),
    "no final line": (Behaviour(ending="no_final_line"), "stream_incomplete"),
    "endless repetition": (Behaviour(ending="repeat", tokens=60), "stream_incomplete"),
    "runner killed": (Behaviour(ending="runner_killed"), "ollama_error"),
    "connection reset": (Behaviour(ending="reset"), "stream_incomplete"),
    "cut inside a chunk": (Behaviour(ending="cut"), "stream_incomplete"),
    "a line that is no JSON": (Behaviour(ending="broken_line"), "ollama_error"),
}
"""What Ollama does wrong, and the kind of error that a server sees."""


async def test_what_goes_wrong_in_ollama_is_a_typed_error_and_the_agent_goes_on(
    here: World, standin: StandIn
) -> None:
    await here.enrolled("one", name="one")
    (view,) = await here.online()
    standin.script.answer = "load_fails"
    with pytest.raises(ApiError, match="memory"):
        await streamed(here, view["id"])
    standin.script.answer = "ollama"
    seen = {}
    for name, (behaviour, _) in WRONG.items():
        standin.script.once.append(behaviour)
        try:
            seen[name] = f"no error but {await streamed(here, view['id'])}"
        except ApiError as refused:
            seen[name] = refused.kind if len(refused.message) > 20 else f"{refused.kind}, without advice"
        items, final = await streamed(here, view["id"], options={"num_predict": 3})
        assert items, name
        assert final, name
    assert seen == {name: kind for name, (_, kind) in WRONG.items()}


async def test_an_unknown_model_an_unknown_method_and_wrong_parameters_say_what_to_do(
    shared: tuple[World, StandIn, str],
) -> None:
    here, _, agent = shared
    for method, params, kind, words in (
        ("generate", {"model": "nobody:1b", "prompt": "x"}, "model_not_found", "ollama pull"),
        ("generated", {}, "unknown_method", "generate"),
        ("show_model", {"model": 3}, "invalid_params", "model"),
        ("run_benchmark", {"job_id": "j", "plan": {}}, "invalid_params", "plan"),
        ("pull_model", {"job_id": "j", "model": "x"}, "not_permitted", "policy.allow_changes"),
    ):
        with pytest.raises(ApiError) as refused:
            await here.client.command(agent, method, params)
        assert refused.value.kind == kind
        assert words in refused.value.message


async def test_a_5_mib_image_reaches_ollama_whole(shared: tuple[World, StandIn, str]) -> None:
    here, standin, agent = shared
    image = "A" * (5 << 20)
    with contextlib.suppress(ApiError):  # the stand-in's model cannot see; what it was sent is the point
        await streamed(here, agent, images=[image])
    assert any(image.encode() in request.body for request in standin.requests)


async def test_sigterm_in_mid_stream_ends_the_stream_with_an_answer_and_leaves_ollama_quiet(
    here: World, standin: StandIn
) -> None:
    standin.script.decode_tps, standin.script.tokens = 50.0, 100_000
    agent = await here.enrolled("one", name="one")
    (view,) = await here.online()
    stream = here.client.stream(view["id"], "generate", {"model": MODEL, "prompt": "x"})
    assert (await anext(stream))[0] == "item"
    agent.signal(signal.SIGTERM)
    with pytest.raises(ApiError) as refused:
        async for _ in stream:
            pass
    assert refused.value.kind in {"cancelled", "link_lost"}
    assert await agent.ended() == 0
    await until(lambda: standin.open_streams == 0)
    assert not (agent.folder / "state" / "status.json").exists()


async def test_sighup_takes_a_good_configuration_and_refuses_a_wrong_one(here: World) -> None:
    agent = await here.enrolled("one", name="one")
    (view,) = await here.online()
    agent.change(policy={"commands": {"deny": ["generate"]}})
    agent.signal(signal.SIGHUP)
    await agent.logged("config.reloaded")
    await until(lambda: _denied(here, view["id"]))
    agent.change(policy={"comands": {}})
    agent.signal(signal.SIGHUP)
    await agent.logged("config.refused")
    assert "commands" in agent.log.partition("config.refused")[2], "the nearest key is suggested"
    assert await _denied(here, view["id"]), "the configuration before stays in force"
    assert agent.process.returncode is None


async def _denied(here: World, agent: str) -> bool:
    try:
        await streamed(here, agent)
    except ApiError as refused:
        return refused.kind == "not_permitted" and "policy.commands.deny" in refused.message
    return False


async def test_a_benchmark_outlives_the_agent_that_is_killed_in_the_midst_of_it(
    here: World, standin: StandIn
) -> None:
    standin.script.decode_tps = 100.0
    agent = await here.enrolled("one", name="one")
    (view,) = await here.online()
    plan = {"model_name": MODEL, "num_iterations": 6, "warmup_iterations": 1, "cooldown_s": 0}
    plan["prompt_config"] = {"prompt_tokens": 32, "completion_tokens": 20}
    job = await here.client.post("/benchmarks", {"agent": view["id"], "plan": plan})

    async def iteration() -> bool:
        progress = (await here.client.get(f"/benchmarks/{job['job_id']}"))["progress"] or {}
        return (progress.get("iteration") or 0) >= 2

    await until(iteration)
    agent.signal(signal.SIGKILL)
    await agent.ended()
    await here.start(agent.folder)
    await until(lambda: _finished(here, job["job_id"]))
    result = await here.client.get(f"/benchmarks/{job['job_id']}/result")
    assert result["status"] in {"completed", "interrupted"}
    assert len(result["metrics"]) >= 1


async def _finished(here: World, job_id: str) -> bool:
    return (await here.client.get(f"/benchmarks/{job_id}"))["finished_at"] is not None


@pytest.fixture
async def shared(here: World, standin: StandIn) -> tuple[World, StandIn, str]:
    """An agent that is online."""
    await here.enrolled("one", name="one")
    (view,) = await here.online()
    return here, standin, view["id"]
