"""Write what a package installs beside the programs: ``python scripts/shell_files.py FOLDER [PROGRAM ...]``.

Below FOLDER, which stands for ``/usr/share``, each program has

- ``man/man1/PROGRAM.1``, its manual page with all of its commands,
- ``bash-completion/completions/PROGRAM`` and ``zsh/vendor-completions/_PROGRAM``.

All of them are made from the programs' parsers. ``SOURCE_DATE_EPOCH`` is the date of the pages, else today.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import shtab

from obt_agent import __version__
from obt_agent import cli as agent_cli
from obt_conformance import cli as conformance_cli
from obt_server import cli as server_cli

PROGRAMS: Final[dict[str, Callable[[], argparse.ArgumentParser]]] = {
    "obt-agent": lambda: agent_cli.make_parser()[0],
    "obt-server": server_cli.parser,
    "obt-conformance": conformance_cli.make_parser,
}
_COMPLETED: Final = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}
_WIDTH: Final = 79


def files(program: str) -> dict[str, str]:
    """Return the program's files: the text of each by its path below ``/usr/share``."""
    with _nobodys_environment():
        parser = PROGRAMS[program]()
        page = manual_page(parser)
        for _, command in commands_of(parser):
            for action in actions_of(command):
                # What stands for a file is completed as one.
                if action.metavar in _COMPLETED:
                    action.complete = _COMPLETED[str(action.metavar)]  # type: ignore[attr-defined]  # where shtab looks
        return {
            f"man/man1/{program}.1": page,
            f"bash-completion/completions/{program}": shtab.complete(parser, "bash"),
            f"zsh/vendor-completions/_{program}": shtab.complete(parser, "zsh"),
        }


@contextlib.contextmanager
def _nobodys_environment() -> Iterator[None]:
    """Parsers show defaults that the environment decides: the same everywhere while this holds."""
    before = os.environ.copy()
    for name in before:
        if name.startswith(("OBT_", "XDG_")):
            del os.environ[name]
    os.environ["XDG_DATA_HOME"] = "$HOME/.local/share"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return a parser's own arguments, without its commands and what help does not show."""
    return [
        action
        for action in parser._actions  # noqa: SLF001 - argparse has no other list of them
        if action.help != argparse.SUPPRESS and not isinstance(action.choices, dict)
    ]


def commands_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the parser and each command below it, by their whole names; groups before what is in them."""
    yield parser.prog, parser
    for action in parser._actions:  # noqa: SLF001 - the same
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from commands_of(command)


def manual_page(program: argparse.ArgumentParser) -> str:
    """Return the program's manual page, in the macros of man(7)."""
    at = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    date = time.strftime("%Y-%m-%d", time.gmtime(at))
    name, description = program.prog, _described(program)
    head, _, _ = description.partition("\n\n")
    title, version = name.upper(), f"{name} {__version__}"
    lines = [
        f'.TH {_escaped(title)} 1 {date} "{_escaped(version)}" "User Commands"',
        ".SH NAME",
        f"{_escaped(name)} \\- {_escaped(_shortened(head))}",
        *(".SH SYNOPSIS", *_synopsis(program)),
        *(".SH DESCRIPTION", *_paragraphs(description)),
        *(".SH OPTIONS", *_arguments(actions_of(program))),
        ".SH COMMANDS",
    ]
    shared = {option for action in actions_of(program) for option in action.option_strings}
    for command_name, command in commands_of(program):
        if command is not program:
            lines += [f'.SS "{_escaped(command_name)}"', *_command(command, shared)]
    if program.epilog:
        # Its first line is the section's heading.
        title, _, rest = program.epilog.partition("\n")
        lines += [f'.SH "{_escaped(title.rstrip(":").upper())}"', *_paragraphs(rest)]
    others = [other for other in PROGRAMS if other != name]
    lines += [".SH SEE ALSO", ",\n".join(f"\\fB{_escaped(other)}\\fR(1)" for other in others)]
    return "\n".join(lines) + "\n"


def _command(command: argparse.ArgumentParser, shared: set[str]) -> Iterator[str]:
    yield from _synopsis(command)
    yield ".PP"
    yield from _paragraphs(_described(command))
    actions = actions_of(command)
    yield from _arguments([action for action in actions if not shared & set(action.option_strings)])
    # Told once, above: most commands have the same ten.
    more = [action.option_strings[-1] for action in actions if shared & set(action.option_strings)]
    if more := [option for option in more if option != "--help"]:
        yield ".PP"
        yield from _wrapped(f"Of the options above: {', '.join(more)}.")
    if command.epilog:
        yield ".PP"
        yield from _paragraphs(command.epilog)


def _synopsis(parser: argparse.ArgumentParser) -> Iterator[str]:
    # Wide enough for argparse to break no line: the reader's terminal decides.
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=1 << 20)
    usage = parser.format_usage().removeprefix("usage: ").strip()
    rest = usage.removeprefix(parser.prog).strip()
    yield f".B {_escaped(parser.prog)}"
    yield from _wrapped(rest)


def _described(parser: argparse.ArgumentParser) -> str:
    """Return the description, which is a docstring, without the program's name at its beginning."""
    text = re.sub(r"\A``[^`]+``:\s+", "", parser.description or "").strip()
    return text[:1].upper() + text[1:]


def _shortened(text: str) -> str:
    """Return a sentence as the line of a list: apropos(1) shows it behind the name."""
    text = " ".join(text.split()).rstrip(".").replace("``", "")
    return text[:1].lower() + text[1:]


def _arguments(actions: Sequence[argparse.Action]) -> Iterator[str]:
    for action in actions:
        value = _value(action)
        names = [f"\\fB{_escaped(option)}\\fR" for option in action.option_strings]
        yield ".TP"
        yield (
            ", ".join(names) + (f" \\fI{_escaped(value)}\\fR" if value else "")
            if names
            else f"\\fI{_escaped(value)}\\fR"
        )
        # As argparse does it: a help text names the default and the choices.
        yield from _wrapped((action.help or "") % {**vars(action), "prog": ""}) if action.help else ["\\&"]


def _value(action: argparse.Action) -> str:
    """Return what stands for the argument's value, as in the usage."""
    if action.nargs == 0:
        return ""
    name: Any = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    if action.metavar is None and action.choices is not None:
        name = "{" + ",".join(map(str, action.choices)) + "}"
    return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}.get(str(action.nargs), str(name))


def _paragraphs(text: str) -> Iterator[str]:
    """Set a text: a paragraph with an indented line is a table, and stays as it is."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip("\n"))):
        if number:
            yield ".PP"
        lines = paragraph.splitlines()
        if any(line.startswith("  ") for line in lines):
            yield from (".nf", *(_guarded(_marked(line)) for line in lines), ".fi")
        else:
            yield from _wrapped(paragraph)


def _wrapped(text: str) -> Iterator[str]:
    marked = _marked(" ".join(text.split()))
    for line in textwrap.wrap(marked, _WIDTH, break_long_words=False, break_on_hyphens=False):
        yield _guarded(line)


def _guarded(line: str) -> str:
    # A dot or an apostrophe at the beginning would make it a request.
    return "\\&" + line if line.startswith((".", "'")) else line


def _marked(text: str) -> str:
    """Return text for roff, with the docstrings' marks of code as bold type."""
    return re.sub(r"``([^`]+)``", r"\\fB\1\\fR", _escaped(text))


def _escaped(text: str) -> str:
    """Return text in which roff finds no escape, in ASCII."""
    # Hyphens as minus signs: options are copied from a page.
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in text)


def main(arguments: Sequence[str]) -> int:
    """Write the files of the programs that are named, or of all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="stands for /usr/share")
    parser.add_argument("programs", metavar="PROGRAM", nargs="*", help=f"of {', '.join(PROGRAMS)}")
    options = parser.parse_args(arguments)
    for program in options.programs or PROGRAMS:
        if program not in PROGRAMS:
            parser.error(f"there is no program {program}")
        for name, text in files(program).items():
            path = options.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
