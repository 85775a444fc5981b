"""Which commands there are, how long they may take, and what callers may give with one."""

from __future__ import annotations

from typing import Any

from obt_agent.errors import UnknownCommand
from obt_agent.protocol import codec, methods
from obt_server.hub.command_params import CommandParams, checked, json_object
from obt_server.hub.jobs import check_job_id, new_job_id
from obt_server.hub.settings import HubSettings

STREAMED = frozenset(method.name for method in methods.COMMANDS if method.shape in ("stream", "series"))
_COMMANDS = frozenset(method.name for method in methods.COMMANDS)
_CALL_TIMEOUT_S = {
    # Ollama loads a model before it answers these; the agent's own deadlines for Ollama are shorter.
    "load_model": 1800.0,
    "unload_model": 300.0,
    "embed": 1800.0,
    "copy_model": 600.0,
}


def call_timeout_s(method: str, asked_s: float | None, settings: HubSettings) -> float:
    """Return how long a plain command may take: what the caller asked for, else what is usual."""
    return asked_s or _CALL_TIMEOUT_S.get(method, settings.call_timeout_s)


def check_plain(method: str) -> None:
    """Raise UnknownCommand for what is no command with a single answer."""
    if method not in _COMMANDS or method in STREAMED:
        raise UnknownCommand(f"There is no command {method[:64]!r} with a single answer.")


def check_streamed(method: str) -> None:
    """Raise UnknownCommand for what is no streamed command."""
    if method not in STREAMED:
        raise UnknownCommand(f"{method[:64]!r} is no streamed command.")


def start_params(method: str, params: CommandParams) -> dict[str, Any]:
    """Return a job's parameters with the id that it has, or gets here. Raises InvalidParams."""
    body = codec.convert(json_object(params), dict[str, Any])
    # Here, and not by the agent: a start that is repeated must name the job that the first one named.
    body.setdefault("job_id", new_job_id())
    checked(method, body)
    check_job_id(body["job_id"], "params.job_id")
    return body
