"""The table of handlers is the protocol's."""

from pathlib import Path
from typing import get_type_hints

import msgspec
import pytest

import obt_agent.handlers
from obt_agent.handlers.table import commands
from obt_agent.protocol.methods import COMMANDS, METHODS, Method
from obt_agent.protocol.streams import LargeFinal
from tests.handlers.bench import Bench


async def test_the_table_of_handlers_is_the_table_of_commands(bench: Bench) -> None:
    assert tuple(command.method for command in commands(bench.services)) == COMMANDS


def test_each_command_has_a_file_of_its_name() -> None:
    folder = Path(obt_agent.handlers.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "table", "services", "relay", "memory"}
    assert files == {method.name for method in COMMANDS}


@pytest.mark.parametrize("method", COMMANDS, ids=lambda method: method.name)
async def test_each_handler_takes_and_returns_what_its_row_says(bench: Bench, method: Method) -> None:
    run = next(command.run for command in commands(bench.services) if command.method is method)
    _, params, _, result = get_type_hints(run.func).values()  # type: ignore[attr-defined]  # a partial
    assert params is method.params
    # A large embedding went before its result, in pieces.
    own = msgspec.Raw | LargeFinal if method.name == "embed" else msgspec.Raw
    assert result == (own if method.result is dict else method.result)


def test_only_what_frees_or_is_bounded_otherwise_is_exempt_from_limits() -> None:
    assert [method.name for method in METHODS.values() if method.exempt] == ["cancel", "blob.put"]
