"""The handlers, found by the names of the protocol's table: a new command needs no row here."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from obt_agent.command import Command
from obt_agent.handlers.services import Services
from obt_agent.protocol.methods import COMMANDS


def commands(services: Services) -> tuple[Command, ...]:
    """Return every command, in the order of the protocol's table."""
    return tuple(
        Command(method, functools.partial(_handler(method.name).run, services)) for method in COMMANDS
    )


def _handler(name: str) -> Any:
    return importlib.import_module(f"obt_agent.handlers.{name}")
