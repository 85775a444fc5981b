"""This machine as a client of an OBT server that knows nothing of agents."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from obt_agent.cli.legacy import stay_listed
from obt_agent.config.schema import (
    AgentConfig,
    Config,
    ModelsPolicy,
    OllamaConfig,
    PolicyConfig,
    ServerConfig,
)
from obt_agent.errors import ConfigError
from obt_standin import Model, Script, StandIn
from tests.obt.application import obt_shape
from tests.ports import free_port
from tests.server.plain_uvicorn import plain_uvicorn
from tests.waiting import until

SCRIPT = Script(models=[Model(name="shown:1"), Model(name="denied:1")])


def config(server: str, ollama: str) -> Config:
    return Config(
        server=ServerConfig(url=server),
        ollama=OllamaConfig(url=ollama),
        agent=AgentConfig(name="Grandma's PC"),
        policy=PolicyConfig(models=ModelsPolicy(deny=("denied:*",))),
    )


@contextlib.asynccontextmanager
async def client(server: str, ollama: str) -> AsyncIterator[None]:
    task = asyncio.create_task(stay_listed(config(server, ollama), beat_s=0.01), name="legacy client")
    try:
        yield
        assert not task.done(), "it goes on until it is interrupted"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_unmodified_server_lists_the_machine_with_the_models_that_its_owner_shows() -> None:
    shape = obt_shape()
    async with plain_uvicorn(shape.app) as url:
        async with StandIn(SCRIPT) as ollama, client(url, ollama.url):
            await until(lambda: listed(shape.clients).get("available", False))
            shown = listed(shape.clients)
            assert [model.name for model in shown["models"]] == ["shown:1"]
            assert shown["hardware"]["cpu"]["threads"] > 0
        async with client(url, "http://127.0.0.1:1"):
            await until(lambda: listed(shape.clients).get("available") is False)


def listed(clients: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return clients.get("Grandma's PC", {})


class Said:
    """What the command wrote on standard error so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.text = ""

    def last(self, words: str) -> bool:
        """Whether the newest line has these words."""
        self.text += self._capsys.readouterr().err
        return words in self.text[self.text.rstrip("\n").rfind("\n") + 1 :]


async def test_a_server_that_was_away_is_registered_with_again(capsys: pytest.CaptureFixture[str]) -> None:
    shape, said = obt_shape(), Said(capsys)
    port = free_port()
    async with client(f"http://127.0.0.1:{port}", "http://127.0.0.1:1"):
        for _ in range(2):
            async with plain_uvicorn(shape.app, port=port):
                await until(lambda: listed(shape.clients).get("hardware"))
                await until(lambda: said.last("lists this machine"))
            await until(lambda: said.last("cannot be reached"))
            # It holds its clients in memory alone.
            shape.clients.clear()


async def test_it_says_once_what_is_wrong_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    shape, said = obt_shape(), Said(capsys)
    async with plain_uvicorn(shape.app) as url, client(url, "http://127.0.0.1:1"):
        line = "lists this machine as Grandma's PC; its Ollama does not answer."
        await until(lambda: said.last(line))
        shape.clients.clear()
        await until(lambda: shape.clients)
        assert said.last(line)
    assert said.text.count("lists this machine") == 1


async def test_clear_text_to_another_machine_needs_the_owners_word() -> None:
    with pytest.raises(ConfigError, match="allow_insecure"):
        await stay_listed(config("http://192.0.2.1:8881", "http://127.0.0.1:1"))
