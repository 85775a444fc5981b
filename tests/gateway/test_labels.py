"""``/ollama/@label``: the first machine that is there, has the model and does not measure."""

import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from obt_agent.ollama.payloads import InstalledModel, OllamaState, RunningModel
from obt_agent.protocol.admission import HeartbeatParams
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.jobs import JobProgress, JobProgressParams
from obt_agent.protocol.state import ModelsSync
from tests.gateway.conftest import client
from tests.server.agent_double import AgentDouble, Answer
from tests.server.conftest import Running
from tests.waiting import until

REVISIONS = itertools.count(1)


@contextlib.asynccontextmanager
async def machine(
    server: Running,
    name: str,
    *models: str,
    loaded: str = "",
    given: tuple[str, ...] = ("gpu",),
    **identity: Any,
) -> AsyncIterator[AgentDouble]:
    async with server.agent(name, **identity) as agent:
        await server.http.put(f"/api/v1/agents/{name}/labels", json={"labels": given})
        await say_models(agent, *models, loaded=loaded)
        agent.handlers["generate"] = generate
        yield agent


async def say_models(agent: AgentDouble, *models: str, loaded: str = "") -> None:
    running = [RunningModel(name=loaded, digest="d", size_bytes=1, size_vram_bytes=0)] if loaded else []
    sync = ModelsSync(
        revision=next(REVISIONS),
        ollama=OllamaState(reachable=True, version="0.5.0"),
        list_digest="x",
        models=tuple(InstalledModel(name=one, digest="d", size_bytes=1) for one in models),
        running=tuple(running),
    )
    await agent.ask("models.sync", sync)


async def generate(agent: AgentDouble, request: Request) -> Answer:
    return agent.final(request, msgspec.json.encode({"response": agent.identity["name"], "done": True}))


async def asked(http: Any, model: str = "a") -> Any:
    return await http.post("/api/generate", json={"model": model, "prompt": "x", "stream": False})


async def test_what_a_machine_has_that_has_said_nothing_yet_is_not_known_and_not_missing(
    gateway_server: Running,
) -> None:
    server = gateway_server
    async with machine(server, "one", "b"), client(server, "@gpu") as http:
        assert (await asked(http)).status_code == 404
        async with server.agent("new") as late:
            await server.http.put("/api/v1/agents/new/labels", json={"labels": ["gpu"]})
            answer = await asked(http)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            assert (await asked(http, "b")).status_code == 200, "one that is known to have it"
            await say_models(late, "b")

            async def known() -> bool:
                return bool((await asked(http)).status_code == 404)

            await until(known)


async def test_the_first_that_has_the_model_answers_and_one_that_has_it_loaded_before_it(
    gateway_server: Running,
) -> None:
    async with (
        machine(gateway_server, "one", "b:latest"),
        machine(gateway_server, "two", "a:latest") as second,
        machine(gateway_server, "three", "a:latest") as third,
        machine(gateway_server, "four", "a:latest", given=(), loaded="a:latest"),
        client(gateway_server, "@gpu") as http,
    ):
        first = (await asked(http)).json()["response"]
        assert first in ("two", "three"), "not one without the model, nor one without the label"
        for name, agent, other in (("three", third, second), ("two", second, third)):
            await say_models(other, "a:latest")
            await say_models(agent, "a:latest", loaded="a:latest")
            assert (await asked(http)).json()["response"] == name
            assert (await asked(http, "A")).json()["response"] == name, "however the name is written"
        missing = await asked(http, "c")
        assert (missing.status_code, missing.json()) == (404, {"error": "model 'c' not found"})


async def test_a_machine_that_measures_is_left_alone(gateway_server: Running) -> None:
    async with (
        machine(gateway_server, "one", "a:latest", loaded="a:latest") as first,
        machine(gateway_server, "two", "a:latest") as second,
        client(gateway_server, "@gpu") as http,
    ):
        for agent, phase, answers in (
            (first, "waiting", "one"),
            (first, "iteration", "two"),
            (second, "pulling manifest", "two"),
            (second, "warmup", None),
        ):
            await measure(gateway_server, agent, phase)
            answer = await asked(http)
            if answers is not None:
                assert answer.json()["response"] == answers, phase
            else:
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")


async def measure(server: Running, agent: AgentDouble, phase: str) -> None:
    progress = JobProgressParams(job_id="j", state="running", progress=JobProgress(phase=phase))
    await agent.notify("job.progress", progress)
    presence = server.parts.hub.presence(agent.agent_id)
    assert presence is not None
    await until(lambda: presence.progress["j"].progress.phase == phase if "j" in presence.progress else False)


async def test_a_label_of_the_machines_own_draws_no_prompts(gateway_server: Running) -> None:
    async with (
        machine(gateway_server, "one", "a:latest", given=(), labels=("gpu",)),
        client(gateway_server, "@gpu") as http,
    ):
        assert (await asked(http)).status_code == 404


async def test_a_heartbeat_says_what_is_loaded_too(gateway_server: Running) -> None:
    async with (
        machine(gateway_server, "one", "a:latest") as first,
        machine(gateway_server, "two", "a:latest") as second,
        client(gateway_server, "@gpu") as http,
    ):
        before = (await asked(http)).json()["response"]
        name, agent = ("two", second) if before == "one" else ("one", first)
        beat = HeartbeatParams(ollama=OllamaState(reachable=True), loaded=("a:latest",), t_mono_us=1)
        await agent.notify("heartbeat", beat)
        presence = gateway_server.parts.hub.presence(agent.agent_id)
        assert presence is not None
        await until(lambda: presence.heartbeat is not None)
        assert (await asked(http)).json()["response"] == name


async def test_a_label_lists_what_its_machines_have_together(gateway_server: Running) -> None:
    async with (
        machine(gateway_server, "one", "a:latest", "b:latest", loaded="b:latest"),
        machine(gateway_server, "two", "a:latest", "c:latest"),
        client(gateway_server, "@gpu", models=("a", "b")) as http,
    ):
        tags = (await http.get("/api/tags")).json()["models"]
        assert sorted(one["name"] for one in tags) == ["a:latest", "b:latest"]
        assert [one["name"] for one in (await http.get("/api/ps")).json()["models"]] == ["b:latest"]
        assert (await http.get("/api/version")).json() == {"version": "0.5.0"}


async def test_a_label_whose_machines_are_away_is_503(gateway_server: Running) -> None:
    async with machine(gateway_server, "one", "a:latest"):
        pass
    async with client(gateway_server, "@gpu") as http:
        presence = gateway_server.parts.hub.online
        await until(lambda: not presence())
        answer = await asked(http)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")


async def test_a_token_narrows_a_label_to_its_machines(gateway_server: Running) -> None:
    async with (
        machine(gateway_server, "one", "a:latest", loaded="a:latest"),
        machine(gateway_server, "two", "a:latest"),
        client(gateway_server, "@gpu", machines=("two",)) as http,
    ):
        assert (await asked(http)).json()["response"] == "two"
