"""``obt-server``: run the reference application, and keep its tokens and operators.

Each command is a module with ``add_arguments(parser)``, which sets ``work``: a function of the arguments that
returns the exit status.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Final

import structlog

from obt_agent.argument_parser import JSON_OPTION, PlainArgumentParser
from obt_agent.config.problems import EXIT_CONFIG, WrongConfig
from obt_agent.errors import AgentError
from obt_agent.text_output import replace_unencodable
from obt_agent.version import VersionAction
from obt_server.cli.api import NoAnswer, api_options
from obt_server.cli.options import UsageError, database_option

# The one table of commands, in the order of ``--help``. The module of ``x`` is ``obt_server.cli.x``.
COMMANDS: Final = {
    "run": "run the server (the default)",
    "demo": "server and agents on this machine, to try",
    "tokens": "join tokens and credentials of agents",
    "operators": "who may sign in; tokens for programs",
    "prepare": "write a request that somebody signs",
    "models": "models of all machines",
    "rollouts": "do something with a model on many machines",
    "sets": "models that machines are to have",
    "campaigns": "measure the same on many machines, and say what got slower",
    "baselines": "results that later ones are compared with",
    "regressions": "what became slower, until somebody acknowledges it",
    "schedules": "campaigns that begin by themselves",
    "status": "whether the server of these settings is ready",
    "backup": "copy the database, also of a server that runs",
    "restore": "put a backup in place of the database of a server that is stopped",
    "migrate": "bring the database to the schema of this release",
    "copy": "copy the database from SQLite into an empty one on PostgreSQL",
    "check": "read the database whole, and say what is wrong with it",
    "config": "the settings, and where each comes from",
}
_EPILOG: Final = """\
exit status:
  0  done
  1  it was tried and failed
  2  wrong usage, or refused by the server
 78  the settings cannot be used
What else a command ends with, its own help says.
"""
_EXTRA_OF: Final = {"psycopg": "server,postgresql"}
"""Of modules that another extra brings than ``server``."""
_OF_THE_PROGRAM: Final = ("-h", "--help", "--version")


def parser(words: Sequence[str] | None = None) -> PlainArgumentParser:
    """The command line, with the arguments of the words' command; without words, with those of all."""
    root = PlainArgumentParser(
        prog="obt-server",
        description=__doc__.splitlines()[0],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action=VersionAction, help="print version and commit, and exit")
    # Only the module of the one that is asked for: FastAPI and SQLAlchemy take two seconds of a start, and a
    # command that asks a server over HTTP needs neither.
    root.add_modules(COMMANDS, _load, words, leading={**database_option(), **api_options(), **JSON_OPTION})
    return root


def _load(command: str) -> ModuleType:
    return import_module(f"obt_server.cli.{command}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; without one, ``run``.

    Returns the exit status: 0, 1 (it failed), 2 (wrong usage), and what else a command's own help says.
    """
    # A terminal without UTF-8 must not end a command in the middle of its output.
    replace_unencodable()
    # What a command prints is read by programs: events go elsewhere. Not a file: a test replaces the stream.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Without a command it is ``run``, so that "obt-server --port 80" does what its user means.
    rest = parser(()).behind_leading(given)
    if not rest or (rest[0].startswith("-") and rest[0] not in _OF_THE_PROGRAM):
        given.insert(0, "run")
    options = argparse.Namespace()
    try:
        options = parser(given).parse_args(given)
        status: int = options.work(options)
    except UsageError as error:
        print(f"obt-server: {error}", file=sys.stderr)
        return 2
    except NoAnswer as error:
        print(f"obt-server: {error}", file=sys.stderr)
        return int(getattr(options, "no_answer_status", 1))
    except WrongConfig as error:
        print(f"obt-server: {error}", file=sys.stderr)
        # Restarted, it would fail again: a service's unit knows this status.
        return EXIT_CONFIG
    except ModuleNotFoundError as error:
        return _without_extra(error)
    except (AgentError, OSError) as error:
        print(f"obt-server: {error}", file=sys.stderr)
        return 1
    return status


def _without_extra(error: ModuleNotFoundError) -> int:
    """Say that the server's libraries are missing: nothing but the agent's comes without the extra."""
    missing = (error.name or "").partition(".")[0]
    # One of the project's own is a fault of the program, and no installation mends it.
    if missing.startswith("obt_"):
        raise error
    extra = _EXTRA_OF.get(missing, "server")
    print(
        f'obt-server: {missing} is not installed: it comes with the extra "{extra}". Install that from the '
        f"checkout or wheel that obt-agent came from: {sys.executable} -m pip install 'PATH[{extra}]'",
        file=sys.stderr,
    )
    return 1
