"""PostgreSQL for the tests here; none of them is skipped where it is missing."""

import itertools
from collections.abc import Iterator

import pytest

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
