"""What the documents say exists: links, anchors, commands, options, make targets, configuration keys."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from obt_agent import cli as agent_cli
from obt_agent.config.keys import PREFIX, SHORT_NAMES, all_keys
from obt_agent.protocol.methods import METHODS
from obt_conformance import cli as conformance_cli
from obt_server import cli as server_cli
from obt_server.cli import campaign_file
from obt_server.config.load import SERVER
from tests.doctor.paths import check_names
from tests.project.paths import ROOT

pytestmark = pytest.mark.lint

DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
)
OTHER_VARIABLES = {"OBT_AGENT_CONFIG", "OBT_AGENT_ID"}
"""The file's place, and a field of the journal: no keys."""
KEYS = {**all_keys(), **SERVER.keys}
SECTIONS = {name.rsplit(".", count)[0] for name in KEYS for count in range(1, name.count(".") + 1)}
"""Of both programs: a page may speak of either."""
HELLO_FIELDS = {"agent.id"}
"""Of the protocol, in the form of a key."""


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=names(DOCUMENTS))

# Parts of a document.


def fences(text: str) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block."""
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Of the headings, as code hosts make them: lower case, spaces to hyphens, punctuation gone."""
    headings = re.findall(r"^#+ (.+)$", prose(path.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Links.


@every_document
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (path.parent / place).resolve() if place else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


@every_document
def test_every_file_that_is_named_in_the_text_exists(path: Path) -> None:
    """Paths of the repository in backquotes, such as ``docs/reference/protocol.md``."""
    tops = "|".join(re.escape(entry.name) for entry in ROOT.iterdir() if not entry.name.startswith("."))
    named = re.findall(rf"`((?:{tops})/[\w./-]*)`", prose(path.read_text()))
    made = {"dist/", "docs/", "site/", "docs/golden/other.jsonl"}
    assert [
        name for name in named if name not in made and "NAME" not in name and not (ROOT / name).exists()
    ] == []


# Commands.


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command line of ours in the ``sh`` blocks, and in backquotes in the text."""
    lines = [line for language, block in fences(text) if language == "sh" for line in joined(block)]
    lines += re.findall(r"`([^`\n]+)`", prose(text))
    for line in lines:
        for words in pieces(line):
            while words and (words[0] in {"sudo", "timeout", "exec"} or "=" in words[0]):
                words.pop(0)
            if words:
                yield [words[0].rsplit("/", 1)[-1], *words[1:]]


def joined(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


def pieces(line: str) -> Iterator[list[str]]:
    """Commands of one line, which ``&&``, ``;`` and pipes separate; a comment ends it."""
    try:
        words = shlex.split(re.sub(r"(&&|[|;])", r" \1 ", line), comments=True)
    except ValueError:  # prose with an apostrophe
        return
    piece: list[str] = []
    for word in [*words, ";"]:
        if word in {"&&", "|", ";"}:
            yield piece
            piece = []
        elif word not in {">", "<"}:
            piece.append(word)


PARSERS: dict[str, Callable[[list[str]], argparse.ArgumentParser]] = {
    "obt-agent": lambda words: agent_cli.make_parser(words)[0],
    "obt-server": lambda _: server_cli.parser(),
    "obt-conformance": lambda _: conformance_cli.make_parser(),
}


def unknown_words(program: str, words: list[str]) -> list[str]:
    """What the program's own parser does not know of a command line: subcommands and options.

    Values are not judged, for a document may write them as ``FILE`` or ``…``.
    """
    parser: argparse.ArgumentParser | None = PARSERS[program](words)
    wrong, skip = [], 0
    if program == "obt-server" and "--version" not in words:
        rest = server_cli.parser(()).behind_leading(words)
        words = ["run", *words] if not rest or rest[0].startswith("-") else words
    for word in (word.strip("[],") for word in words):
        assert parser is not None
        options = parser._option_string_actions  # noqa: SLF001 - argparse has no other list of them
        subcommands = next(
            (
                action.choices
                for action in parser._actions  # noqa: SLF001 - the same
                if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001 - the type has no public name
            ),
            None,
        )
        if skip:
            skip -= 1
        elif word.startswith("--"):
            option, equals, _ = word.partition("=")
            if option not in options:
                wrong.append(option)
            elif not equals and options[option].nargs is None:
                skip = 1
        elif subcommands is not None and re.fullmatch(r"[a-z][a-z-]*", word):
            if word not in subcommands:
                wrong.append(word)
                break
            parser = subcommands[word]
    return wrong


@every_document
def test_every_command_and_option_in_the_documents_exists(path: Path) -> None:
    wrong = [
        (program, words, unknown)
        for program, *words in commands(path.read_text())
        if program in PARSERS and (unknown := unknown_words(program, words))
    ]
    assert wrong == []


@every_document
def test_every_target_of_make_in_the_documents_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    asked = [
        word
        for program, *words in commands(path.read_text())
        if program == "make"
        for word in words
        if "=" not in word and not word.startswith("-")
    ]
    elsewhere = {"altinstall"}  # Python's own Makefile
    assert set(asked) - targets - elsewhere == set()


@pytest.fixture(scope="module")
def defined() -> set[str]:
    """The names of all tests."""
    pattern = re.compile(r"^\s*(?:async )?def (test_\w+)\(", flags=re.MULTILINE)
    return {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in pattern.findall(file.read_text())
    }


@every_document
def test_every_test_that_is_named_in_the_documents_exists(path: Path, defined: set[str]) -> None:
    assert set(re.findall(r"`(test_\w+)`", prose(path.read_text()))) - defined == set()


def test_every_row_of_what_an_attacker_cannot_do_names_a_test() -> None:
    _, _, threats = (ROOT / "docs/explanation/security.md").read_text().partition("## Threat model")
    tables = re.findall(r"^\| It cannot .*\n\|[-|]+\n((?:\|.*\n)+)", threats, flags=re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()]
    # server, server against signers, network, local user, Ollama, token of inference
    assert len(tables) == 6
    assert [row for row in rows if "`test_" not in row.split("|")[-2]] == []


def test_a_command_that_does_not_exist_is_found() -> None:
    """The check itself: one wrong word of each kind."""
    block = "sudo x/bin/obt-agent bench m --colour red && obt-server tokens bake"
    text = f"```sh\n{block}\n```\n`obt-agent fly --set a=b`"
    found = {
        word
        for program, *words in commands(text)
        if program in PARSERS
        for word in unknown_words(program, words)
    }
    assert found == {"--colour", "bake", "fly"}


# Configuration.


def keys_in_yaml(block: str) -> Iterator[str]:
    def walk(value: object, name: str) -> Iterator[str]:
        if isinstance(value, dict) and name not in KEYS:
            for key, inner in value.items():
                yield from walk(inner, f"{name}.{key}" if name else str(key))
        else:
            yield name

    yield from walk(yaml.safe_load(block), "")


def is_campaign(block: str) -> bool:
    return re.search(r"^plans:", block, flags=re.MULTILINE) is not None


@every_document
def test_every_campaign_file_in_the_documents_can_be_run(path: Path, tmp_path: Path) -> None:
    for language, block in fences(path.read_text()):
        if language == "yaml" and is_campaign(block):
            file = tmp_path / "campaign.yaml"
            file.write_text(block)
            assert campaign_file.read(file).models


@every_document
def test_every_configuration_key_in_the_documents_exists(path: Path) -> None:
    text = path.read_text()
    sections = {name.split(".")[0] for name in KEYS}
    named = {
        name
        for name in re.findall(r"`([a-z]+(?:\.[a-z_]+)+)(?:: [^`]*)?`", prose(text))
        if name.split(".")[0] in sections and not name.endswith((".example", ".service", ".yaml"))
    }
    for language, block in fences(text):
        if language == "yaml" and not is_campaign(block):
            named |= set(keys_in_yaml(block))
    no_keys = check_names() | events_in_the_log() | set(METHODS) | HELLO_FIELDS
    assert {name for name in named if not is_module(name)} - set(KEYS) - SECTIONS - no_keys == set()


def events_in_the_log() -> set[str]:
    """They look like keys: the first column of the table of events."""
    text = (ROOT / "docs/reference/logs.md").read_text()
    of_server = (ROOT / "docs/how-to/operate-the-server.md").read_text()
    rows = re.findall(
        r"^\| `([a-z]+\.[a-z_]+)`(?: \||, `([a-z]+\.[a-z_]+)` \|)", text + of_server, flags=re.MULTILINE
    )
    return {name for row in rows for name in row if name}


def is_module(name: str) -> bool:
    return (ROOT / "obt_agent" / name.replace(".", "/")).with_suffix(".py").exists()


@every_document
def test_every_variable_in_the_documents_sets_a_key(path: Path) -> None:
    variables = {key.variable for key in KEYS.values()} | set(SHORT_NAMES) | OTHER_VARIABLES
    variables |= set(SERVER.short_names) | SERVER.own_names
    named = set(re.findall(rf"\b(?:{PREFIX}|{SERVER.prefix})[A-Z_]+\b", path.read_text()))
    assert named - variables == set()
