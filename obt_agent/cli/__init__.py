"""The command line. Each command is a module with ``add_arguments(parser)`` and ``run(args) -> int``.

Only the module of the chosen command is imported: ``obt-agent --version`` does not wait for libraries that it
does not use, and a command's module imports what it needs at its top.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Final

from obt_agent.argument_parser import JSON_OPTION, PlainArgumentParser
from obt_agent.cli import exit_codes
from obt_agent.cli.options import CONFIG_OPTIONS
from obt_agent.cli.small_imports import import_structlog_alone
from obt_agent.errors import AgentError
from obt_agent.log_setup.redaction import masked_text
from obt_agent.text_output import replace_unencodable
from obt_agent.version import VersionAction

# The one table of commands, in the order of ``--help``. The module of ``x`` is ``obt_agent.cli.x``.
COMMANDS: Final = {
    "run": "serve the OBT server (what the systemd service starts)",
    "enroll": "register this machine with a server, with a one-time token",
    "check": "find what is wrong, and how to fix it",
    "status": "show what the running agent is doing",
    "models": "list the models that Ollama has",
    "hardware": "show this machine's hardware and its readings",
    "bench": "benchmark models, without a server",
    "results": "list, show, drop or deliver results that wait for the server",
    "config": "show, find or check the configuration",
    "service": "install, remove or show the systemd service",
    "legacy": "appear in the lists of an OBT server that knows nothing of agents",
    "sign": "sign a request for an agent whose owner lists signers",
    "diag": "pack a redacted bundle for a bug report",
    "version": "show version, commit, Python and libraries",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The process's exit status, as ``obt_agent.cli.exit_codes`` lists it.
    """
    # Before anything is printed: a terminal that knows only ASCII must not end the command.
    replace_unencodable()
    try:
        module, args = _parse(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # importing takes long enough for somebody to press Ctrl-C
        return exit_codes.INTERRUPTED
    return exit_codes.USAGE if module is None else _run(module, args)


def _parse(words: list[str]) -> tuple[ModuleType | None, argparse.Namespace]:
    """Return the command's module and its arguments; print help and return None where no command is named."""
    # The parser is local: its memory is free again while the command runs, and the daemon runs for months.
    parser, module = make_parser(words)
    args = parser.parse_args(words)
    if module is None:
        parser.print_help()
    return module, args


def make_parser(words: Sequence[str] | None = None) -> tuple[argparse.ArgumentParser, ModuleType | None]:
    """Return the parser and the module of the command that the words name.

    Only that command has its arguments; without words, every command has them.
    """
    parser = PlainArgumentParser(
        prog="obt-agent",
        description="Serves the Ollama models here to an OBT server, over a socket that it opens itself.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=VersionAction, help="print version and commit, and exit")
    return parser, parser.add_modules(COMMANDS, _load, words, leading={**CONFIG_OPTIONS, **JSON_OPTION})


def _load(command: str) -> ModuleType:
    import_structlog_alone()
    return importlib.import_module(f"obt_agent.cli.{command}")


def _run(module: ModuleType, args: argparse.Namespace) -> int:
    try:
        code = module.run(args)
        sys.stdout.flush()
    except AgentError as error:
        print(f"obt-agent: {error.message}", file=sys.stderr)
        return exit_codes.of(error)
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has had enough; Python must not complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.OK
    except Exception:  # noqa: BLE001 - the last place where a fault of the program can be told with its secrets masked
        print(masked_text(traceback.format_exc()), file=sys.stderr)
        print(
            "obt-agent: this is a fault of the program; please report it with the lines above",
            file=sys.stderr,
        )
        return exit_codes.SOFTWARE
    return int(code or exit_codes.OK)


_EPILOG: Final = "exit status:\n" + "\n".join(
    f"  {code:>3}  {meaning}" for code, meaning in exit_codes.MEANINGS.items()
)
