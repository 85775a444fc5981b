"""``obt-server``: run the reference application, and keep its tokens and operators.

Each subcommand is a module with ``register(subparsers)``, named in ``_COMMANDS``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from obt_agent import __version__
from obt_agent.argument_parser import PlainArgumentParser
from obt_agent.errors import AgentError
from obt_agent.text_output import replace_unencodable
from obt_server.cli.api import NoAnswer
from obt_server.cli.options import UsageError

_COMMANDS = (
    *("run", "demo", "tokens", "operators", "prepare", "models", "rollouts", "sets"),
    *("campaigns", "schedules"),
)


def parser(commands: Sequence[str] = _COMMANDS) -> argparse.ArgumentParser:
    """The command line, of these commands."""
    root = PlainArgumentParser(prog="obt-server", description=__doc__.splitlines()[0])
    root.add_argument("--version", action="version", version=f"obt-server {__version__}")
    subparsers = root.add_subparsers(title="commands", metavar="COMMAND")
    # By name, so that a new command is one module and one word above.
    for name in commands:
        import_module(f"obt_server.cli.{name}").register(subparsers)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; without one, ``run``.

    Returns the exit status: 0, 1 (it failed), 2 (wrong usage), and what else a command's own help says.
    """
    # A terminal without UTF-8 must not end a command in the middle of its output.
    replace_unencodable()
    # Without a command it is ``run``, so that "obt-server --port 80" does what its user means.
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help", "--version")):
        given.insert(0, "run")
    # Only the one that is asked for: FastAPI and SQLAlchemy take two seconds of a start, and a command that
    # asks a server over HTTP needs neither.
    options = parser(given[:1] if given[0] in _COMMANDS else _COMMANDS).parse_args(given)
    if not hasattr(options, "command"):
        parser().print_help()
        return 2
    try:
        status: int = options.command(options)
    except UsageError as error:
        print(f"obt-server: {error}", file=sys.stderr)
        return 2
    except NoAnswer as error:
        print(f"obt-server: {error}", file=sys.stderr)
        return int(getattr(options, "no_answer_status", 1))
    except (AgentError, OSError) as error:
        print(f"obt-server: {error}", file=sys.stderr)
        return 1
    return status
