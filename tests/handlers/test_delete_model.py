"""What a deletion frees, of what is loaded or shared, by any form of a name."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from obt_standin import Model, ModelBlob, StandIn
from tests.handlers.bench import Bench
from tests.handlers.test_jobs import CHANGES, PLAN, recorded

SMALL = ModelBlob("sha256:" + "5" * 64, 100)
LARGE = ModelBlob("sha256:" + "a" * 64, 10_000)


@pytest.fixture
async def bench(standin: StandIn, tmp_path: Path) -> AsyncIterator[Bench]:
    """An owner who allows changes."""
    async with Bench(standin, tmp_path, **CHANGES) as made:
        yield made


async def test_weights_that_two_models_share_are_freed_with_the_second(bench: Bench) -> None:
    store = bench.standin.store
    bench.standin.script.disk_bytes = 1 << 40
    store.add(Model(name="one:latest", size=10_100, blobs=(LARGE, SMALL)))
    store.add(Model(name="two:latest", size=10_000, blobs=(LARGE,)))
    before = store.free_bytes
    assert before is not None
    first = await bench.result("delete_model", model="one")
    second = await bench.result("delete_model", model="two")
    assert (first["freed_bytes"], second["freed_bytes"]) == (0, 10_000)
    assert store.free_bytes == before + 10_100


async def test_a_loaded_model_is_unloaded_and_deleted_by_any_form_of_its_name(bench: Bench) -> None:
    await bench.result("load_model", model="standin-small")
    model = bench.standin.store.find("standin-small")
    assert model is not None
    done = await bench.result("delete_model", model="Registry.Ollama.AI/library/Standin-Small:LATEST")
    # What is free is that of this very machine, if an Ollama runs on it.
    del done["free_bytes"]
    assert done == {"done": True, "was_loaded": True, "digest": model.digest, "freed_bytes": model.size}
    assert bench.standin.runners.ps()["models"] == []
    assert bench.standin.store.find("standin-small") is None


async def test_a_model_that_is_not_here_cannot_be_deleted(bench: Bench) -> None:
    assert (await bench.refusal("delete_model", model="nobody-has-this"))[0] == "model_not_found"


async def test_of_a_remote_stub_nothing_is_said_to_be_freed(standin: StandIn, tmp_path: Path) -> None:
    async with Bench(standin, tmp_path, remote_models=True, **CHANGES) as bench:
        done = await bench.result("delete_model", model="standin-far:cloud")
        assert (done["done"], done["freed_bytes"]) == (True, None)


async def test_the_model_that_is_measured_cannot_be_deleted(bench: Bench) -> None:
    bench.standin.script.decode_tps = 50.0
    await bench.result("run_benchmark", job_id="b1", plan=PLAN | {"num_iterations": 500})
    async with asyncio.timeout(30):
        await recorded(bench, 1)
    assert (await bench.refusal("delete_model", model="Standin-Small"))[0] == "busy"
    assert (await bench.result("delete_model", model="standin-embed"))["done"] is True
    await bench.result("cancel", job_id="b1")
    assert await bench.job("b1") == "cancelled"
