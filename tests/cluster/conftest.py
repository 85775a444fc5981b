"""PostgreSQL and NATS for the tests here; none of them is skipped where they are missing."""

import itertools
from collections.abc import Iterator

import pytest

from tests.cluster.nats import NatsServer
from tests.cluster.postgresql import PostgreSQL

_numbers = itertools.count()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgreSQL]:
    """One of the module's own, which its tests may stop."""
    with PostgreSQL() as one:
        yield one


@pytest.fixture
def database(postgres: PostgreSQL) -> str:
    """The address of an empty database."""
    return postgres.create(f"test_{next(_numbers)}")


@pytest.fixture
def nats() -> Iterator[NatsServer]:
    """A NATS of the test's own."""
    with NatsServer() as one:
        yield one
