"""A server that means harm: each attempt is refused or bounded, and the host goes on."""

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from obt_agent.protocol.envelope import Request
from obt_standin import StandIn
from obt_standin.script import Model
from tests.handlers.bench import Bench
from tests.waiting import until

TINY = "standin-small"
OPEN = {"allow_changes": ["pull_model", "create_model", "copy_model", "delete_model"]}


def asked(standin: StandIn, path: str) -> list[Any]:
    return [exchange for exchange in standin.requests if exchange.path == path]


@pytest.mark.parametrize("port", [9, 22, 11434])
async def test_pull_model_scans_no_ports(standin: StandIn, tmp_path: Path, port: int) -> None:
    async with Bench(standin, tmp_path, **OPEN) as bench:
        refused = await bench.refusal("pull_model", job_id="j", model=f"127.0.0.1:{port}/library/x")
        assert refused == ("not_permitted", "policy.registries")
        refused = await bench.refusal(
            "create_model", job_id="k", model="m", **{"from": f"10.0.0.1:{port}/a/b"}
        )
        assert refused == ("not_permitted", "policy.registries")
        assert not asked(standin, "/api/pull")
        assert not asked(standin, "/api/create")


@pytest.mark.parametrize("field", [{"insecure": True}, {"remote_host": "http://evil"}, {"INSECURE": True}])
async def test_fields_that_open_the_machine_are_refused(
    standin: StandIn, tmp_path: Path, field: dict[str, Any]
) -> None:
    async with Bench(standin, tmp_path, **OPEN) as bench:
        for method, params in (
            ("pull_model", {"job_id": "j", "model": "x"}),
            ("create_model", {"job_id": "j", "model": "x", "from": TINY}),
            ("copy_model", {"source": TINY, "destination": "y"}),
            ("generate", {"model": TINY}),
            ("load_model", {"model": TINY}),
        ):
            kind, _ = await bench.refusal(method, **params, **field)
            assert kind in ("not_permitted", "invalid_params"), method


async def test_cloud_models_are_neither_shown_nor_used(bench: Bench) -> None:
    listed = (await bench.result("list_models"))["models"]
    assert "standin-far:cloud" not in {model["name"] for model in listed}
    for method in ("generate", "chat", "embed", "show_model", "load_model"):
        refused = await bench.refusal(method, model="standin-far:cloud")
        assert refused == ("not_permitted", "policy.remote_models")


async def test_a_cloud_model_under_a_fresh_innocent_name_is_found_out(bench: Bench) -> None:
    await bench.ollama.copy("standin-far:cloud", "innocent")
    refused = await bench.refusal("generate", model="innocent", prompt="the host's secrets")
    assert refused == ("not_permitted", "policy.remote_models")
    assert not asked(bench.standin, "/api/generate")


async def test_a_denied_model_is_denied_under_other_names_and_cases(standin: StandIn, tmp_path: Path) -> None:
    async with Bench(standin, tmp_path, models={"deny": [TINY]}) as bench:
        await bench.ollama.copy(TINY, "alias")
        for name in (
            TINY,
            TINY.upper(),
            f"{TINY}:LATEST",
            f"library/{TINY}",
            f"registry.ollama.ai/library/{TINY}",
            "alias",
        ):
            refused = await bench.refusal("generate", model=name, prompt="x")
            assert refused == ("not_permitted", "policy.models.deny"), name
            plan = {"model_name": name}
            assert await bench.refusal("run_benchmark", job_id="j", plan=plan) == refused
        spoofed = Request(
            "s", "generate", msgspec.Raw(b'{"model":"standin-think:8b","MODEL":"standin-small"}')
        )
        bench.dispatcher.on_request(bench.session, spoofed)
        assert await bench.session.kind("s") == "invalid_params"
        assert not asked(standin, "/api/generate")


async def test_num_ctx_of_ten_million_never_reaches_ollama(bench: Bench) -> None:
    huge = {"num_ctx": 10_000_000, "num_batch": 10_000_000, "num_predict": -1}
    await bench.result("generate", model=TINY, prompt="x", options=huge)
    await bench.result("load_model", model=TINY, options={"num_ctx": 10_000_000})
    for exchange in asked(bench.standin, "/api/generate"):
        options = json.loads(exchange.body)["options"]
        assert options["num_ctx"] == 131_072
        assert options.get("num_predict", 1) <= 16_384
    refused = await bench.refusal(
        "run_benchmark", job_id="j", plan={"model_name": TINY, "num_ctx": 10_000_000}
    )
    assert refused == ("not_permitted", "policy.options.num_ctx")


async def test_a_plan_that_multiplies_into_millions_is_refused_before_it_is_stored(bench: Bench) -> None:
    plan = {
        "model_name": TINY,
        "num_iterations": 100_000,
        "prompts": [{"prompt_tokens": 16, "completion_tokens": 1}] * 64,
        "sweep": {"num_ctx": list(range(4096, 4128)), "concurrency": [1, 2, 4, 8]},
    }
    refused = await bench.refusal("run_benchmark", job_id="j", plan=plan)
    assert refused == ("not_permitted", "policy.benchmark.max_iterations")
    assert await bench.outbox.get("j") is None


@pytest.mark.parametrize(
    "bomb",
    [b'{"model":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"model":{"a":' * 60 + b"1" + b"}}" * 60],
)
async def test_a_json_bomb_is_an_error_and_nothing_more(bench: Bench, bomb: bytes) -> None:
    bench.dispatcher.on_request(bench.session, Request("b", "generate", msgspec.Raw(bomb)))
    assert await bench.session.kind("b") == "invalid_params"
    assert (await bench.result("generate", model=TINY, prompt="x"))["final"]["done"] is True


async def test_a_thousand_requests_at_once_are_bounded(bench: Bench) -> None:
    bench.standin.script.tokens, bench.standin.script.ending = 5, "hang"
    numbers = [bench.send("generate", model=TINY, prompt="x") for _ in range(1000)]
    assert bench.dispatcher.streams == 16
    assert bench.dispatcher.in_flight == 16
    for number in numbers[16:]:
        assert await bench.session.kind(number) == "busy"
    for number in numbers[:16]:
        await bench.result("cancel", id=number)
        assert await bench.session.kind(number) == "cancelled"
    await until(lambda: bench.standin.open_streams == 0)


async def test_a_thousand_cancellations_of_unknown_jobs_fill_nothing(bench: Bench) -> None:
    numbers = [bench.send("cancel", job_id=f"nobody-{n}") for n in range(300)]
    for number in numbers:
        assert await bench.session.result(number) == {"state": "unknown"}
    assert bench.outbox.counts.open == bench.outbox.waiting_counts.entries == 0


async def test_blobs_never_used_stay_within_their_bound_and_go_with_the_session(bench: Bench) -> None:
    data = base64.b64encode(b"x" * 700_000).decode()
    kinds = set()
    for number in range(40):
        answer = await bench.session.answer(bench.send("blob.put", blob=f"b{number}", offset=0, data=data))
        kinds.add(getattr(answer, "code", 0))
    assert kinds == {0, -32008}
    assert bench.dispatcher.blob_bytes <= 16 << 20
    bench.dispatcher.session_ended(bench.session)
    assert bench.dispatcher.blob_bytes == 0


async def test_a_job_flood_is_bounded_by_the_owners_number(bench: Bench) -> None:
    bench.standin.script.ending = "hang"
    plan = {"model_name": TINY, "prompt_config": {"prompt_tokens": 16, "completion_tokens": 4}}
    numbers = [bench.send("run_benchmark", job_id=f"j{n}", plan=plan) for n in range(60)]
    answers = [await bench.session.answer(number) for number in numbers]
    assert sum(getattr(answer, "code", 0) == -32003 for answer in answers) == 60 - 32
    assert bench.outbox.counts.open == 32


async def test_a_model_that_does_not_exist_is_asked_for_once_and_no_more(bench: Bench) -> None:
    bench.standin.script.models.append(Model(name="other:latest"))
    for _ in range(3):
        assert (await bench.refusal("show_model", model="nobody"))[0] == "model_not_found"
