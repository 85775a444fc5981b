"""What every test shares."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from obt_standin import StandIn
from tests.effort import examples

# A busy machine is slow at drawing examples; that says nothing of the code.
settings.register_profile(
    "obt", max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("obt")

if os.environ.get("OBT_TEST_LOOP") == "uvloop":
    # As programs run where it is installed; make test-cluster has the server's suites run so.
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: full collections of garbage need not walk through them."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start whole programs may take 600 s each: at load 15 some need 110 s."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """Programs set up the process's log; the next test in this process finds it as if none had run."""
    yield
    structlog.reset_defaults()


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    """A stand-in for Ollama that answers as fast as it can; a test changes its script while it runs."""
    async with StandIn() as ollama:
        yield ollama
