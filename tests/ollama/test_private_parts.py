"""What is used of aiohttp that is not public: a change of it fails here; pyproject.toml bounds it."""

import inspect
import tomllib
from pathlib import Path

import aiohttp
from aiohttp.client_proto import ResponseHandler

from obt_agent.ollama.timestamps import StampingConnector


async def test_the_parts_of_aiohttp_that_are_used_are_there() -> None:
    async with aiohttp.ClientSession() as session:
        assert session._retry_connection is True  # noqa: SLF001 - named here for its use in client.py
    connector = StampingConnector()
    made = connector._factory()  # noqa: SLF001 - a connection is made by it
    await connector.close()
    assert isinstance(made, ResponseHandler)
    assert made._reading_paused is False  # noqa: SLF001 - read at each chunk
    # The second parameter came with aiohttp 3.14.
    resumes = list(inspect.signature(ResponseHandler.resume_reading).parameters)
    assert resumes in (["self"], ["self", "resume_parser"])
    assert list(inspect.signature(ResponseHandler.data_received).parameters) == ["self", "data"]
    assert "_retry_connection and method in IDEMPOTENT_METHODS" in inspect.getsource(aiohttp.client)


def test_the_version_of_aiohttp_is_bounded_above() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (bound,) = [line for line in project["project"]["dependencies"] if line.startswith("aiohttp>")]
    assert "<" in bound
