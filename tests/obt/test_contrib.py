"""Agents in an application of OBT's shape: its page's calls, as a browser makes them."""

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import websockets

from obt_agent.errors import NotPermitted
from obt_agent.hardware.read_once import MachineReading
from obt_agent.ollama.payloads import InstalledModel
from obt_agent.protocol.envelope import Request
from obt_agent.protocol.jobs import JobProgress, JobProgressParams
from obt_server.auth import secrets
from obt_server.auth.operators import Operators
from obt_server.contrib.obt import mount_agents
from obt_server.store import Database, OperatorStore
from tests.benchmark.results import iteration, result
from tests.hardware.replay import SNAPSHOTS
from tests.obt.application import PAGE, ObtShape, obt_shape
from tests.obt.fields import AcceptedHardware, AcceptedModel, AcceptedResult
from tests.server.agent_double import AgentDouble, Answer, dial, uuid7
from tests.server.job_steps import accept, digest, finish
from tests.server.plain_uvicorn import plain_uvicorn

DESKTOP = msgspec.json.decode(
    (SNAPSHOTS / "nvidia-desktop" / "expected.json").read_bytes(), type=MachineReading
).inventory
MODELS = (
    InstalledModel(name="a:1", digest="d1", size_bytes=7),
    InstalledModel(name="b:1", digest="d2", size_bytes=8),
)


@dataclass
class Site:
    """OBT's shape with agents, as its page and an operator reach it."""

    url: str
    shape: ObtShape
    page: httpx.AsyncClient
    """As the page asks: its origin, and no token."""
    operator: httpx.AsyncClient
    """With an API token."""

    async def enrol(self, name: str) -> tuple[str, str]:
        token = (await self.operator.post("/obt/api/v1/join-tokens", json={})).json()["secret"]
        agent_id, secret = uuid7(), secrets.new_secret("test")
        answer = await self.page.post(
            f"{self.url}/obt/api/v1/agents/enroll",
            headers={"Authorization": f"Bearer {token}"},
            json={
                "agent": {"id": agent_id, "name": name, "version": "1"},
                "secret_sha256": secrets.sha256(secret),
            },
        )
        assert answer.status_code == 200, answer.text
        return agent_id, secret

    @contextlib.asynccontextmanager
    async def agent(self, name: str = "pc") -> AsyncIterator[AgentDouble]:
        """An agent with two models, whose Ollama answers."""
        agent_id, secret = await self.enrol(name)
        async with dial(f"{self.url}/obt", secret, agent_id, name=name) as agent:
            await agent.hello()
            await agent.sync_models(*MODELS)
            yield agent

    async def own_client(self, client_id: str) -> None:
        """A client of OBT's own registers and sends a heartbeat, as OBT's client does."""
        hardware = AcceptedHardware.model_validate(
            {
                "cpu": {"name": "c", "architecture": "x", "base_clock": 1, "cores": 1, "threads": 2},
                "ram": {"speed": 0, "type": "unknown", "channels": 0},
                "total_memory": 1,
                "firmware": dict.fromkeys(
                    (
                        *("bios_version", "bios_vendor", "bios_release_date", "cpu_microcode"),
                        *("os_name", "os_version", "os_kernel", "ollama_version"),
                    ),
                    "unknown",
                ),
            }
        )
        who = {"client_id": client_id, "version": "0.3.2"}
        body: dict[str, Any] = {"hardware": hardware.model_dump()}
        assert (await self.page.post("models/register", params=who, json=body)).status_code == 200
        body = {"models": [{"name": "own:1", "size": 5}]}
        beat = await self.page.post("models/heartbeat", params={**who, "available": "true"}, json=body)
        assert beat.status_code == 200, beat.text

    def generate(self, client_id: str, model: str = "a:1", **headers: str) -> Any:
        socket = f"{self.url.replace('http', 'ws')}/api/v1/models/generate/{model}?client_id={client_id}"
        return websockets.connect(socket, origin=PAGE, additional_headers=headers, proxy=None)  # type: ignore[arg-type]  # an origin is a text


@contextlib.asynccontextmanager
async def site(folder: Path, **options: Any) -> AsyncIterator[Site]:
    shape = obt_shape()
    mount_agents(
        shape.app,
        database=folder / "agents.sqlite3",
        clients=shape.clients,
        prompts=shape.prompts,
        origins=[PAGE],
        **options,
    )
    with contextlib.closing(Database.sqlite(folder / "agents.sqlite3")) as database:
        operators = Operators(OperatorStore(database))
        await operators.store.set_password("owner", "no password", 0.0)
        token, _ = await operators.new_token("owner", "tests", None)
    bearer = {"Authorization": f"Bearer {token}"}
    plain = {"timeout": 20, "trust_env": False, "follow_redirects": True}
    async with (
        plain_uvicorn(shape.app) as url,
        httpx.AsyncClient(base_url=f"{url}/api/v1/", headers={"Origin": PAGE}, **plain) as page,  # type: ignore[arg-type]  # of several types
        httpx.AsyncClient(base_url=url, headers=bearer, **plain) as operator,  # type: ignore[arg-type]  # the same
    ):
        yield Site(url, shape, page, operator)


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Site]:
    """With OBT's page as it is: on this machine, without a token."""
    async with site(tmp_path, local_page=True) as one:
        yield one


# -- lists ------------------------------------------------------------------------------------------------


async def test_the_page_lists_agents_beside_obts_own_clients(local: Site) -> None:
    async with local.agent("pc") as agent:
        await agent.ask("hardware.sync", {"revision": 1, "inventory": DESKTOP})
        await local.own_client("own")
        answer = await local.page.get("models/clients")
        clients = {one["id"]: one for one in answer.json()}
        assert set(clients) == {"own", "pc"}
        assert answer.headers["access-control-allow-origin"] == PAGE, "or the browser keeps it from the page"
        pc = clients["pc"]
        assert [model["name"] for model in pc["models"]] == ["a:1", "b:1"]
        assert (pc["available"], pc["model_count"], pc["name"]) == (True, 2, "pc")
        # What the page shows of a client that was chosen, without looking whether it is there.
        assert pc["hardware"]["gpu_name"] == "NVIDIA GeForce RTX 4090"
        assert (pc["hardware"]["gpu_count"], pc["hardware"]["gpu_memory"]) == (1, 24564)
        assert pc["hardware"]["cpu_threads"] == 32
        assert clients["own"]["models"][0]["name"] == "own:1"
        assert clients["own"]["hardware"]["cpu_threads"] == 2
        hardware = (await local.page.get("hardware")).json()
        assert set(hardware) == {"own", "pc"}
        for shown in hardware.values():
            AcceptedHardware.model_validate(shown)
        (gpu,) = (await local.page.get("hardware/gpu")).json()
        assert (gpu["id"], gpu["name"], gpu["memory"], gpu["client_id"]) == (
            0,
            "NVIDIA GeForce RTX 4090",
            24,
            "pc",
        )


async def test_a_client_that_is_away_or_whose_ollama_does_not_answer_is_in_no_list(local: Site) -> None:
    agent_id, secret = await local.enrol("pc")
    await local.own_client("own")
    local.shape.clients["own"]["missed_heartbeats"] = 3
    assert (await local.page.get("models/clients")).json() == []
    async with dial(f"{local.url}/obt", secret, agent_id, name="pc") as agent:
        await agent.hello()
        assert (await local.page.get("models/clients")).json() == [], "nothing was heard of its Ollama"
        await agent.sync_models(*MODELS)
        (listed,) = (await local.page.get("models/clients")).json()
        assert listed["hardware"]["cpu_threads"] == 0, "the page reads it before an inventory came"


@pytest.mark.parametrize("path", ["models", "models/"])
async def test_models_are_listed_with_and_without_the_slash(local: Site, path: str) -> None:
    async with local.agent("pc") as agent:
        await local.own_client("own")
        for client_id, names in (
            ("pc", ["a:1", "b:1"]),
            (agent.agent_id, ["a:1", "b:1"]),
            ("own", ["own:1"]),
        ):
            listed = (await local.page.get(path, params={"client_id": client_id})).json()
            assert [AcceptedModel.model_validate(one).name for one in listed] == names
        answer = await local.page.get(path, params={"client_id": "nobody"})
        assert (answer.status_code, "detail" in answer.json()) == (404, True), "OBT itself says so"


async def test_obts_own_client_keeps_its_id_and_an_agent_of_that_name_goes_by_its_own(local: Site) -> None:
    await local.own_client("pc")
    async with local.agent("pc") as agent:
        listed = {
            one["id"]: one["models"][0]["name"] for one in (await local.page.get("models/clients")).json()
        }
        assert listed == {"pc": "own:1", agent.agent_id: "a:1"}
        async with local.generate("pc") as socket:
            await socket.send('{"prompt": "p"}')
            assert "OBT itself" in json.loads(await socket.recv())["response"]


async def test_everything_else_is_answered_by_obt_itself(local: Site) -> None:
    assert (await local.page.get(f"{local.url}/")).json() == {"name": "an application of OBT's shape"}
    assert (await local.page.get("prompts/test-suites")).json()[0]["prompts"][0]["id"] == "haiku"
    assert (await local.page.get("nothing")).status_code == 404


# -- generation -------------------------------------------------------------------------------------------


async def answering(agent: AgentDouble, request: Request) -> Answer:
    await agent.stream(request, b'{"response":"blue","done":false}')
    return agent.final(request)


async def test_prompts_are_answered_over_the_pages_socket_one_after_the_other(local: Site) -> None:
    async with local.agent("pc") as agent:
        agent.handlers["generate"] = answering
        async with local.generate("pc") as socket:
            for prompt in ("Why is the sky blue?", "And the sea?"):
                await socket.send(json.dumps({"prompt": prompt}))
                assert json.loads(await socket.recv()) == {"response": "blue", "done": False}
                assert json.loads(await socket.recv())["done"] is True
                assert msgspec.json.decode(agent.requests[-1].params) == {"model": "a:1", "prompt": prompt}


# -- benchmarks -------------------------------------------------------------------------------------------


async def start(local: Site, **more: Any) -> httpx.Response:
    body = {"client_id": "pc", "models": ["a:1"], "prompts": ["haiku"], "hardware": {"use_gpu": True}}
    return await local.page.post("benchmarks/start", json={**body, **more})


async def test_benchmarks_run_from_the_start_to_their_deletion(local: Site) -> None:
    async with local.agent("pc") as agent:
        agent.handlers["run_benchmark"] = accept
        (job_id,) = (await start(local)).json()["benchmark_ids"]
        (shown,) = (await local.page.get("benchmarks")).json()
        # The page looks on while something runs, and reads the first row of everything.
        assert (shown["id"], shown["status"], shown["end_time"]) == (job_id, "running", None)
        assert shown["metrics"][0]["memory_usage_mb"] == 0
        assert shown["config"]["prompt_config"]["prompt"] == "Write a haiku."
        progress = JobProgress(phase="iteration", iteration=2, iterations_planned=3)
        await agent.notify(
            "job.progress", JobProgressParams(job_id=job_id, state="running", progress=progress)
        )
        await agent.sync_models(*MODELS, revision=2)
        shown = (await local.page.get(f"benchmarks/status/{job_id}")).json()
        assert shown["error"] == "Not measured yet: iteration 2 of 3."
        measured = result(iteration(0, 11.0), iteration(1, 22.0))
        await finish(agent, job_id, msgspec.json.encode(measured).decode())
        (shown,) = (await local.page.get("benchmarks", params={"status": "completed"})).json()
        AcceptedResult.model_validate(shown)
        assert (shown["id"], shown["client_id"], shown["config"]["client_id"]) == (job_id, "pc", "pc")
        assert shown["average_tokens_per_second"] == pytest.approx(18.0)
        assert shown["average_latency_ms"] == 50.0
        assert len(shown["metrics"]) == 2
        assert (await local.page.get("benchmarks/results", params={"model_name": "b:1"})).json() == []
        assert (await local.page.delete(f"benchmarks/results/{job_id}")).json() == {"status": "ok"}
        assert (await local.page.get("benchmarks/results")).json() == []
        gone = await local.page.delete(f"benchmarks/{job_id}")
        assert (gone.status_code, isinstance(gone.json()["detail"], str)) == (404, True)


async def test_each_model_runs_with_each_prompt_and_no_prompts_mean_all(local: Site) -> None:
    async with local.agent("pc") as agent:
        agent.handlers["run_benchmark"] = accept
        for prompts, texts in (
            (["sort", "Say hello."], ["Sort a list.", "Say hello."]),
            ([None], ["Write a haiku.", "Sort a list."]),
            (None, ["Write a haiku.", "Sort a list."]),
        ):
            agent.requests.clear()
            answer = await start(local, models=["a:1", "b:1"], prompts=prompts)
            assert len(answer.json()["benchmark_ids"]) == 4
            plans = [msgspec.json.decode(request.params)["plan"] for request in agent.requests]
            asked = [(plan["model_name"], plan["prompt_config"]["prompt"]) for plan in plans]
            assert asked == [(model, text) for model in ("a:1", "b:1") for text in texts]


@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        ({"use_gpu": True, "gpu_id": "1", "threads": 8}, {"use_gpu": True, "gpu_id": 1}),
        ({"use_gpu": True, "gpu_id": None}, {"use_gpu": True}),
        ({"use_gpu": False, "gpu_id": 0}, {"use_gpu": False}),
        # what another form of the page sends: the client's hardware, and no choice
        ({"cpu_threads": 32, "gpu_count": 1}, {"use_gpu": True}),
        (None, {"use_gpu": True}),
    ],
)
async def test_the_pages_choice_of_gpu_reaches_the_agent(
    local: Site, sent: dict[str, Any] | None, asked: dict[str, Any]
) -> None:
    async with local.agent("pc") as agent:
        agent.handlers["run_benchmark"] = accept
        assert (await start(local, hardware=sent)).status_code == 200
        assert msgspec.json.decode(agent.requests[-1].params)["plan"]["hardware"] == asked


async def test_a_refusal_is_one_sentence_that_the_page_shows(local: Site) -> None:
    async def refusing(*_: object) -> Answer:
        return NotPermitted("The owner does not allow benchmarks.")

    async with local.agent("pc") as agent:
        agent.handlers["run_benchmark"] = refusing
        answer = await start(local)
        assert (answer.status_code, answer.json()["detail"]) == (403, "The owner does not allow benchmarks.")
        answer = await start(local, models=["m"] * 33, prompts=["x", "y"])
        assert (answer.status_code, "1 to 64" in answer.json()["detail"]) == (422, True)
    assert (await start(local, client_id="nobody")).status_code == 404


async def test_one_that_runs_is_cancelled_and_failed_ones_say_why(local: Site) -> None:
    async with local.agent("pc") as agent:
        agent.handlers["run_benchmark"] = accept
        (job_id,) = (await start(local)).json()["benchmark_ids"]
        assert (await local.page.delete(f"benchmarks/{job_id}")).json() == {"status": "cancelling"}
        assert msgspec.json.decode(agent.requests[-1].params) == {"job_id": job_id}
        text = msgspec.json.encode(result(status="cancelled")).decode()
        await finish(agent, job_id, text, state="cancelled", sha256=digest(text))
        (other,) = (await start(local)).json()["benchmark_ids"]
        await finish(agent, other, '{"of": "another age"}', state="failed")
        shown = {one["id"]: one for one in (await local.page.get("benchmarks")).json()}
        assert (shown[job_id]["status"], shown[job_id]["error"]) == ("failed", "It was cancelled.")
        assert "does not read" in shown[other]["error"]
        for one in shown.values():
            AcceptedResult.model_validate(one)
            assert len(one["metrics"]) == 1


# -- who may ----------------------------------------------------------------------------------------------

PAGE_CALLS = (
    ("GET", "models?client_id=pc"),
    ("GET", "models/?client_id=pc"),
    ("GET", "benchmarks"),
    ("GET", "benchmarks/results"),
    ("GET", "benchmarks/status/x"),
    ("POST", "benchmarks/start"),
    ("DELETE", "benchmarks/x"),
    ("DELETE", "benchmarks/results/x"),
)
SHARED_LISTS = ("models/clients", "hardware", "hardware/", "hardware/gpu")


async def closed_to(one: Site, headers: dict[str, str], *, status: int) -> None:
    """Nobody with these headers learns of an agent or drives one; OBT's own clients are there as before."""
    async with one.agent("pc") as agent:
        await agent.ask("hardware.sync", {"revision": 1, "inventory": DESKTOP})
        await one.own_client("own")
        for method, path in PAGE_CALLS:
            answer = await one.page.request(method, path, headers=headers)
            assert answer.status_code == status, (method, path, answer.text)
        for path in SHARED_LISTS:
            # OBT sends "hardware" to the address with the slash, under whatever name it was asked by.
            text = (await one.page.get(path, headers=headers, follow_redirects=False)).text
            assert not [word for word in ('"pc"', "RTX", agent.agent_id) if word in text], path
            # What OBT shows of its own clients is OBT's to decide.
            assert path in ("hardware", "hardware/gpu") or '"own"' in text, (path, text)
        listed = await one.page.get("models/", params={"client_id": "own"}, headers=headers)
        assert listed.json()[0]["name"] == "own:1"
        address, others = httpx.URL(one.url), {key: text for key, text in headers.items() if key != "Host"}
        socket = (
            f"ws://{headers.get('Host', address.netloc.decode())}/api/v1/models/generate/a:1?client_id=pc"
        )
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with websockets.connect(
                socket, host="127.0.0.1", port=address.port, additional_headers=others, proxy=None
            ):
                pass
        assert caught.value.response.status_code == status
        assert not agent.requests


async def test_without_a_token_nothing_is_open_unless_the_owner_opens_the_page(tmp_path: Path) -> None:
    async with site(tmp_path) as one:
        await closed_to(one, {"Origin": PAGE}, status=401)


async def test_an_api_token_opens_the_pages_paths(tmp_path: Path) -> None:
    async with site(tmp_path) as one, one.agent("pc"):
        bearer = {"Authorization": one.operator.headers["authorization"]}
        assert [client["id"] for client in (await one.page.get("models/clients", headers=bearer)).json()] == [
            "pc"
        ]
        assert (await one.page.get("benchmarks", headers=bearer)).status_code == 200
        async with one.generate("pc", **bearer):
            pass


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "rebound.example"}, 401),
        ({"Origin": "http://evil.example"}, 403),
        ({"X-Forwarded-For": "192.0.2.1"}, 401),
        ({"Forwarded": "for=192.0.2.1"}, 401),
        ({"Via": "1.1 proxy"}, 401),
    ],
)
async def test_the_local_page_is_no_other_site_no_other_name_and_behind_no_proxy(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async with site(tmp_path, local_page=True) as one:
        await closed_to(one, headers, status=status)


async def test_the_local_page_opens_nothing_of_the_rest(local: Site) -> None:
    async with local.agent("pc"):
        description = local.shape.app.openapi()["paths"]
        asked = 0
        for path, methods in description.items():
            if not path.startswith("/obt/"):
                continue
            for method in methods:
                filled = path.replace("{agent}", "pc").replace("{", "").replace("}", "")
                answer = await local.page.request(method, f"{local.url}{filled}")
                # Enrolment checks a secret of its own, once it has a body.
                expected = 422 if path.endswith("/agents/enroll") else 401
                assert answer.status_code == expected, (method, path, answer.text)
                asked += 1
    assert asked > 50


async def test_agents_are_told_to_come_back_when_obt_stops(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(site(tmp_path))
        agent = await stack.enter_async_context(one.agent("pc"))
        assert (await one.page.get(f"{one.url}/obt/api/v1/agents/connect")).status_code == 426
        assert agent.closed is None
    # The database was closed after the agents had left, and opens again.
    with contextlib.closing(Database.sqlite(tmp_path / "agents.sqlite3")) as database:
        assert await OperatorStore(database).names() == ["owner"]
