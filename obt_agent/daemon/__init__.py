"""The composition root: builds every package's service, wires them, keeps them running, ends them in order.

``components``     what is built, and from what
``facts``          what ``agent_info`` shows of the agent itself
``status_writer``  status file, systemd's status line, watchdog
``supervisor``     root tasks, signals, reload, shutdown
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from obt_agent.config.load import LoadedConfig
from obt_agent.daemon.components import build
from obt_agent.daemon.supervisor import Supervisor
from obt_agent.errors import AdmissionRefused, ConfigError
from obt_agent.hardware.provider import GpuProvider
from obt_agent.identity.provisioned import read_token, token_file
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_agent.log_setup.setup import set_agent_id
from obt_agent.system.event_loop import loop_factory

__all__ = ["run"]

log = structlog.get_logger(__name__)


def run(loaded: LoadedConfig, gpus: Iterable[GpuProvider] | None = None) -> int:
    """Serve until told to stop; the process's exit status.

    Args:
        loaded: the configuration in force.
        gpus: providers in place of this machine's. No setting leads here: the program that calls it decides,
            and ``obt-agent run`` gives none.

    Raises:
        IdentityInUse: another process holds the state folder.
        ConfigError: the configuration, the state folder or the credential cannot be used.
    """
    with StateDir.open(_state_path(loaded)) as state:
        set_agent_id(state.agent_id)
        if state.moved_from is not None:
            log.warning("identity.folder_was_copied", copied_from=state.moved_from, agent_id=state.agent_id)
        token = _provisioned(loaded)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            try:
                return runner.run(_serve(loaded, state, token, gpus))
            except AdmissionRefused as error:
                raise ConfigError(error.message) from error


async def _serve(
    loaded: LoadedConfig, state: StateDir, token: Secret | None, gpus: Iterable[GpuProvider] | None
) -> int:
    async with AsyncExitStack() as stack:
        components = await build(stack, loaded.config, state, token, gpus=gpus)
        return await Supervisor(components, loaded, state).run()


def _state_path(loaded: LoadedConfig) -> Path:
    return Path(loaded.config.agent.state_dir)


def _provisioned(loaded: LoadedConfig) -> Secret | None:
    path = token_file(loaded.config.server.token_file, os.environ)
    return None if path is None else read_token(path)
