"""``obt-agent run``: the daemon, in the foreground."""

from __future__ import annotations

import argparse

from obt_agent import daemon
from obt_agent.cli.common import load_config
from obt_agent.cli.options import add_config_options
from obt_agent.errors import AgentError
from obt_agent.log_setup.setup import LogSettings, configure
from obt_agent.sdnotify import Notifier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--join-token-file",
        metavar="FILE",
        help="for containers: enrol with the join token in FILE when there is no credential, and wait for "
        "what is missing instead of ending with status 78",
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Read the configuration, set the log up, and serve until a signal ends it."""
    if args.join_token_file is not None:
        from obt_agent.cli.unattended import UnattendedRun  # noqa: PLC0415 - a service never enrols, and needs none of it

        return UnattendedRun(args).run()
    # The log is set up below, for a daemon and not for a person at a terminal.
    loaded = load_config(args, need_server=True, log=False)
    log = loaded.config.log
    output = configure(LogSettings(level=log.level, format=log.format, prompts=log.prompts))
    try:
        return daemon.run(loaded)
    except AgentError as error:
        # systemd keeps the line, for whoever wants to know why there is no agent.
        Notifier().status(error.message)
        raise
    finally:
        output.close()
