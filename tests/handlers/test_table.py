"""The table of handlers is the protocol's."""

from pathlib import Path

import obt_agent.handlers
from obt_agent.protocol.methods import COMMANDS
from tests.handlers.bench import Bench


async def test_the_table_of_handlers_is_the_table_of_commands(bench: Bench) -> None:
    from obt_agent.handlers.table import Services, commands  # noqa: PLC0415 - the table under test

    services = Services(bench.ollama, bench.catalog, bench.hardware, bench.policy, bench.jobs, None)  # type: ignore[arg-type]  # facts are not looked at
    table = [(command.method, command.params, command.shape) for command in commands(services)]
    assert table == [(method.name, method.params, method.shape) for method in COMMANDS]


def test_each_command_has_a_file_of_its_name() -> None:
    files = {path.stem for path in Path(obt_agent.handlers.__file__).parent.glob("*.py")}
    assert files - {"__init__", "table", "relay", "memory"} == {method.name for method in COMMANDS}


async def test_only_cancel_is_exempt_from_limits(bench: Bench) -> None:
    from obt_agent.handlers.table import Services, commands  # noqa: PLC0415 - the table under test

    services = Services(bench.ollama, bench.catalog, bench.hardware, bench.policy, bench.jobs, None)  # type: ignore[arg-type]  # facts are not looked at
    assert [command.method for command in commands(services) if command.exempt] == ["cancel"]
