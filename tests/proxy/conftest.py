"""The replicas that proxies stand before: started once for each module."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.cluster.nats import NatsServer
from tests.cluster.postgresql import PostgreSQL
from tests.proxy.replicas import Replicas, ended


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    folder = tmp_path_factory.mktemp("replicas")
    with PostgreSQL() as postgres, NatsServer() as nats:
        made = asyncio.run(Replicas.make(folder, postgres.create("obt"), "--bus", nats.address))
        with ended(made):
            yield made


@pytest.fixture
async def replicas(prepared: Replicas) -> Replicas:
    """All of them, ready."""
    await prepared.start()
    return prepared
