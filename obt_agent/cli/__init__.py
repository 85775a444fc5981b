"""The command line. Each command is a module with ``register(subparsers)`` and ``run(args) -> int``.

Only the module of the command that is asked for is imported, so that ``obt-agent --version`` does not wait
for libraries that it does not use.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from obt_agent.argument_parser import PlainArgumentParser
from obt_agent.cli import exit_codes
from obt_agent.errors import AgentError
from obt_agent.log_setup.redaction import masked_text
from obt_agent.text_output import replace_unencodable

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - the type has no public name

COMMANDS: Final = {
    "run": "serve the OBT server (what the systemd service starts)",
    "enroll": "register this machine with a server, with a one-time token",
    "check": "look for what is wrong, and say what to do about it",
    "status": "what the running agent is doing",
    "models": "the models that Ollama has",
    "hardware": "what this machine is made of, and its readings",
    "bench": "benchmark models, without a server",
    "results": "results that wait for the server",
    "config": "show, find or check the configuration",
    "service": "install, remove or show the systemd service",
    "diag": "pack a redacted bundle for a bug report",
    "version": "version, commit, Python and libraries",
}
"""The one table of commands, in the order of ``--help``. The module of ``x`` is ``obt_agent.cli.x``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The process's exit status, as ``obt_agent.cli.exit_codes`` lists it.
    """
    replace_unencodable()
    try:
        module, args = _asked(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # importing takes long enough for an impatient hand
        return exit_codes.INTERRUPTED
    return exit_codes.USAGE if module is None else _guarded(module, args)


def _asked(words: list[str]) -> tuple[ModuleType | None, argparse.Namespace]:
    """The command and its arguments; help where none is named. The parser is gone before the command runs."""
    parser, modules = _parser(words)
    args = parser.parse_args(words)
    if args.command is None:
        parser.print_help()
        return None, args
    return modules[args.command], args


def _guarded(module: ModuleType, args: argparse.Namespace) -> int:
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


def _parser(words: Sequence[str]) -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    parser = PlainArgumentParser(
        prog="obt-agent",
        description="Serves the Ollama models here to an OBT server, over a socket that it opens itself.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action=_VersionAction, nargs=0, help="print version and commit, and exit"
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    asked = next((word for word in words if not word.startswith("-")), None)
    modules = {}
    for name, words_of in COMMANDS.items():
        if name == asked:
            modules[name] = importlib.import_module(f"obt_agent.cli.{name}")
            modules[name].register(subparsers)
        else:
            subparsers.add_parser(name, help=words_of)
    return parser, modules


_EPILOG: Final = "exit status:\n" + "\n".join(
    f"  {code:>3}  {meaning}" for code, meaning in exit_codes.MEANINGS.items()
)


class _VersionAction(argparse.Action):
    def __call__(self, *_args: Any, **_more: Any) -> None:
        from obt_agent.version import full_version  # noqa: PLC0415 - git may have to be asked for the commit

        print(f"obt-agent {full_version()}")
        sys.exit(exit_codes.OK)
