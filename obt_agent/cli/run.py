"""``obt-agent run``: the daemon, in the foreground."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from obt_agent.cli import COMMANDS
from obt_agent.cli.common import add_config_options, load_config
from obt_agent.errors import AgentError
from obt_agent.sdnotify import Notifier

if TYPE_CHECKING:
    from obt_agent.cli import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser("run", help=COMMANDS["run"], description=__doc__)
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Read the configuration, set the log up, and serve until told to stop."""
    loaded = load_config(args, need_server=True, log=False)
    _keep_lean()
    from obt_agent import daemon  # noqa: PLC0415 - a wrong configuration is told without waiting for libraries
    from obt_agent.log_setup.setup import LogSettings, configure  # noqa: PLC0415 - the same

    log = loaded.config.log
    output = configure(LogSettings(level=log.level, format=log.format, prompts=log.prompts))
    try:
        return daemon.run(loaded)
    except AgentError as error:
        Notifier().status(error.message)  # systemd keeps the line, for whoever looks why there is no agent
        raise
    finally:
        output.close()


def _keep_lean() -> None:
    """Import structlog without two libraries that it would load where they are installed.

    rich is for tracebacks in colour that a daemon never prints: sixty modules, 4 MB for as long as the
    machine runs. greenlet is the server's. A command that uses rich is not this one.
    """
    if "structlog" in sys.modules:
        return
    kept_out = [name for name in ("rich", "greenlet") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(kept_out))  # type: ignore[arg-type]  # None: what importlib takes for "not there"
    import structlog  # noqa: F401, PLC0415 - for what it remembers of that

    for name in kept_out:
        del sys.modules[name]
