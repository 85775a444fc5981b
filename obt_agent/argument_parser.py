"""The parser that the programs' command lines share, at every level of commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, NoReturn

from obt_agent.spelling import nearest

OptionTable = Mapping[str, Mapping[str, Any]]
"""Options by flag, each with what ``add_argument`` takes for it."""

JSON_OPTION: Final[OptionTable] = {"--json": {"action": "store_true", "help": "as JSON"}}
"""The option of whatever lists or shows something; ``text_output.print_json`` prints what it asks for."""

_WITH_VALUE: Final = ("store", "append")


class _Subcommands(argparse._SubParsersAction):  # type: ignore[type-arg]  # noqa: SLF001 - no public name, nor generic while the program runs
    """Subcommands, each of which has its line in the list as its description where it has no other."""

    def add_parser(self, name: str, **kwargs: Any) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().add_parser(
            name, **{"description": kwargs.get("help"), **kwargs}
        )
        return parser


class PlainArgumentParser(argparse.ArgumentParser):
    """An argument parser of which every subcommand is one too.

    Descriptions, which are docstrings, are shown without their marks of code. An option has one spelling: an
    abbreviation would fail as soon as another option begins in the same way. A misspelt command or option is
    answered by the nearest one of the same level.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        # Options of the subcommands that may stand before the subcommand's name.
        self._leading: OptionTable = {}
        # The subcommands, on a level that has some.
        self._commands: argparse._SubParsersAction[argparse.ArgumentParser] | None = None
        # What is parsed at the moment: an error is explained by the misspelt option in it.
        self._words: Sequence[str] = ()

    def format_help(self) -> str:  # noqa: D102 - argparse's contract
        return super().format_help().replace("``", "")

    def add_subparsers(self, *, leading: OptionTable | None = None, **kwargs: Any) -> Any:
        """Add subcommands.

        Args:
            leading: options of the subcommands that may stand before the subcommand's name too, and mean the
                same there. A subcommand that does not have such an option refuses it in both places.
            kwargs: what argparse takes.
        """
        self._commands = super().add_subparsers(action=_Subcommands, **kwargs)
        self._leading = leading or {}
        if leading:
            # For the help alone: before anything is parsed they are moved behind the name.
            add_options(self.add_argument_group("options of commands, before or after the name"), leading)
        return self._commands

    def add_modules(
        self,
        commands: Mapping[str, str],
        load: Callable[[str], ModuleType],
        words: Sequence[str] | None,
        *,
        leading: OptionTable,
    ) -> ModuleType | None:
        """Add subcommands that are modules, each with ``add_arguments(parser)`` and a describing docstring.

        Args:
            commands: each with its line in the list of commands.
            load: imports a command's module.
            words: the command line, of whose command the module is loaded; None: the modules of all.
            leading: as for ``add_subparsers``.

        Returns:
            The module of the command that the words name, if they name one.
        """
        parsers = self.add_subparsers(metavar="COMMAND", title="commands", leading=leading)
        chosen = None if words is None else self.command_of(words)
        found = None
        for name, summary in commands.items():
            parser = parsers.add_parser(name, help=summary)
            # All others take part with their line of help: importing them may take seconds.
            if words is None or name == chosen:
                module = load(name)
                parser.description = module.__doc__
                module.add_arguments(parser)
                found = module if name == chosen else None
        return found

    def command_of(self, words: Sequence[str]) -> str | None:
        """Return the subcommand that the words name behind leading options; None where there is none."""
        rest = self.behind_leading(words)
        return rest[0] if rest and not rest[0].startswith("-") else None

    def behind_leading(self, words: Sequence[str]) -> Sequence[str]:
        """Return the words without the leading options, and their values, that they begin with."""
        position = 0
        while position < len(words):
            flag, equals, _ = words[position].partition("=")
            if flag not in self._leading:
                break
            has_value = self._leading[flag].get("action", "store") in _WITH_VALUE
            position += 2 if has_value and not equals else 1
        return words[position:]

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse the words. What is unknown is an error of the level where it stands: nothing is left over."""
        self._words = words = list(sys.argv[1:] if args is None else args)
        if self._commands is not None:
            # Moved, not parsed here: the subcommand's defaults and lists would replace what was given.
            command, rest = self.command_of(words), self.behind_leading(words)
            if command is not None:
                self._words = words = [command, *words[: len(words) - len(rest)], *rest[1:]]
            self._check_command(command, self._commands.choices)
        namespace, left = super().parse_known_args(words, namespace)
        if left:
            # An option is told without its value, which may be a secret in the wrong place.
            unknown = self._unknown_option() is not None
            self.error("" if unknown else f"unrecognized arguments: {' '.join(left)}")
        return namespace, left

    def _check_command(self, command: str | None, names: Collection[str]) -> None:
        if command is not None and command not in names:
            self.error(f"there is no command {command!r}{nearest(command, names) or ': ' + ', '.join(names)}")
        # argparse would take the value of an option that it does not know for the command.
        if self._unknown_option() is not None:
            self.error("")

    def _unknown_option(self) -> str | None:
        """Return the first option in the words that is none of this level."""
        # Where there are subcommands, what follows their name is theirs.
        words = self._words if self._commands is None else self.behind_leading(self._words)[:1]
        for word in words:
            flag = word.partition("=")[0]
            if word == "--":
                break
            # argparse takes a word with a space for a value, whatever it begins with.
            if flag.startswith("--") and " " not in word and flag not in self._option_string_actions:
                return flag
        return None

    def error(self, message: str) -> NoReturn:
        """Print the message, and the option that was misspelt if one was; end the program with status 2."""
        # A required argument is often missing since its option was misspelt.
        if (unknown := self._unknown_option()) is not None:
            # Private, since Python 2.7: argparse has no other list of its options (tests/cli/test_parser.py).
            near = nearest(unknown, self._option_string_actions)
            message = "; ".join(filter(None, [message, f"there is no option {unknown} here{near}"]))
        super().error(message)


def add_options(parser: argparse._ActionsContainer, options: OptionTable) -> None:
    """Add the options of a table."""
    for flag, settings in options.items():
        parser.add_argument(flag, **settings)
