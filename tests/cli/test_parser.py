"""The parser of all three programs: where options may stand, and what is said of a word that is none."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from obt_agent import cli as agent_cli
from obt_agent.argument_parser import JSON_OPTION, PlainArgumentParser, add_options
from obt_conformance import cli as conformance_cli
from obt_server import cli as server_cli

MAINS: dict[str, Callable[[list[str]], int]] = {
    "obt-agent": agent_cli.main,
    "obt-server": server_cli.main,
    "obt-conformance": conformance_cli.main,
}
PARSERS = (agent_cli.make_parser()[0], server_cli.parser(), conformance_cli.make_parser())


def commands(
    parser: argparse.ArgumentParser, above: tuple[argparse.ArgumentParser, ...] = ()
) -> Iterator[tuple[argparse.ArgumentParser, ...]]:
    """Each command that has no subcommands, behind the levels above it."""
    below = [one.choices for one in parser._actions if isinstance(one, argparse._SubParsersAction)]  # noqa: SLF001 - argparse has no other list
    if not below:
        yield (*above, parser)
    for command in (command for choices in below for command in choices.values()):
        yield from commands(command, (*above, parser))


COMMANDS = [levels for parser in PARSERS for levels in commands(parser)]


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return set(parser._option_string_actions) - {"-h", "--help", "--version"}  # noqa: SLF001 - the same


def refused(capsys: pytest.CaptureFixture[str], line: str) -> str:
    """What a command line that is refused prints last."""
    program, *words = line.split()
    with pytest.raises(SystemExit) as ended:
        MAINS[program](words)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    return err.splitlines()[-1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("obt-agent modles", "obt-agent: error: there is no command 'modles'; did you mean models?"),
        ("obt-agent results lst", "results: error: there is no command 'lst'; did you mean list?"),
        ("obt-server campain list", "there is no command 'campain'; did you mean campaigns?"),
        ("obt-server tokens jion", "tokens: error: there is no command 'jion'; did you mean join?"),
        ("obt-conformance servr x", "there is no command 'servr'; did you mean server?"),
        ("obt-conformance zzz", "there is no command 'zzz': server, agent"),
        ("obt-agent --confg x models", "t: error: there is no option --confg here; did you mean --config?"),
        ("obt-agent bench m --iteratons 3", "no option --iteratons here; did you mean --iterations?"),
        ("obt-server --prot 80", "run: error: there is no option --prot here; did you mean --port?"),
        ("obt-server run --tls-crt c", "there is no option --tls-crt here; did you mean --tls-cert?"),
        ("obt-server campaigns --ulr x list", "there is no option --ulr here; did you mean --url?"),
        ("obt-conformance server x --qick", "there is no option --qick here; did you mean --quick?"),
    ],
)  # fmt: skip
def test_what_is_misspelt_is_answered_by_the_nearest_of_its_level(
    capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    assert refused(capsys, line).endswith(said)


def test_a_required_option_that_was_misspelt_is_named_beside_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = refused(capsys, "obt-agent sign --keyy=k")
    assert "required: --key; there is no option --keyy here; did you mean --key?" in said


def test_an_option_has_one_spelling(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no option --iter here" in refused(capsys, "obt-agent bench m --iter 3")


@pytest.mark.parametrize(
    "line",
    [
        "obt-agent enroll https://x.example --tokn=canary",
        "obt-agent enroll https://x.example --tokn canary",
        "obt-server campaigns list --token canary",
    ],
)
def test_the_value_of_an_option_that_is_none_is_not_repeated(
    capsys: pytest.CaptureFixture[str], line: str
) -> None:
    said = refused(capsys, line)
    assert "did you mean --token" in said
    assert "canary" not in said


@pytest.mark.parametrize("levels", COMMANDS, ids=lambda levels: levels[-1].prog)
def test_an_option_that_may_stand_before_a_command_may_on_each_level_above(
    levels: tuple[argparse.ArgumentParser, ...],
) -> None:
    program, *groups, command = levels
    shared = options_of(program) & options_of(command)
    assert [(group.prog, shared - options_of(group)) for group in groups if shared - options_of(group)] == []


@pytest.mark.parametrize(
    "line",
    [
        "results list --config a --set b=1 --set c=2 --json",
        "--config a --set b=1 results --set c=2 list --json",
        "--config=a --set=b=1 --json results list --set c=2",
        "--config x --set b=1 results --set c=2 --json list --config a",
    ],
)
def test_options_mean_the_same_before_and_after_a_command(line: str) -> None:
    args = PARSERS[0].parse_args(line.split())
    assert (args.part, args.config, args.settings, args.json) == ("list", "a", [("b", "1"), ("c", "2")], True)


@pytest.mark.parametrize(
    "line",
    ["--url http://x --json rollouts list --running", "rollouts --url=http://x --json list --running"],
)
def test_the_server_s_options_may_stand_before_its_commands(line: str) -> None:
    options = PARSERS[1].parse_args(line.split())
    assert (options.url, options.json, options.running) == ("http://x", True, True)


def test_the_server_runs_with_options_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[argparse.Namespace] = []

    def run(options: argparse.Namespace) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr("obt_server.cli.run.run", run)
    assert server_cli.main(["--database", "d", "--port", "80"]) == 0
    assert (str(seen[0].database), seen[0].port) == ("d", 80)


def test_an_option_of_other_commands_is_refused_before_a_command_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "no option --url here" in refused(capsys, "obt-server --url http://x tokens list")
    assert "no option --config here" in refused(capsys, "obt-agent --config x version")


def test_a_leading_option_without_its_value_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert "argument --config: expected one argument" in refused(capsys, "obt-agent --config")


@pytest.mark.parametrize("levels", COMMANDS, ids=lambda levels: levels[-1].prog)
def test_whatever_lists_something_has_json(levels: tuple[argparse.ArgumentParser, ...]) -> None:
    name = levels[-1].prog.split()[-1]
    if (
        name in {"list", "status", "models", "hardware", "version", "check"}
        and "config" not in levels[-1].prog
    ):
        assert "--json" in options_of(levels[-1])


@pytest.mark.parametrize("levels", COMMANDS, ids=lambda levels: levels[-1].prog)
def test_every_command_says_what_it_does(levels: tuple[argparse.ArgumentParser, ...]) -> None:
    assert levels[-1].description


def test_a_word_too_many_is_said_by_the_command_that_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    parser = PlainArgumentParser(prog="p")
    add_options(parser.add_subparsers(leading=JSON_OPTION).add_parser("c"), JSON_OPTION)
    with pytest.raises(SystemExit):
        parser.parse_args(["--json", "c", "more"])
    assert capsys.readouterr().err.endswith("p c: error: unrecognized arguments: more\n")


def test_without_its_extra_the_server_says_so_whatever_the_command() -> None:
    program = """
import contextlib, io, sys
for name in ("cronsim", "fastapi", "prometheus_client", "sqlalchemy", "starlette", "uvicorn"):
    sys.modules[name] = None  # what importlib takes for "not there"
from obt_server.cli import COMMANDS, main
for name in COMMANDS:
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main([name, "--help"])
        except SystemExit as ended:
            status = ended.code
    print(name, status, error.getvalue().strip())
with contextlib.suppress(SystemExit):
    main(["--help"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100
    )
    lines = done.stdout.splitlines()[: len(server_cli.COMMANDS)]
    ended = {name: (status, said) for name, status, said in (line.split(" ", 2) for line in lines)}
    # What asks a running server needs nothing of it, nor does the list of commands.
    asking = ("models", "rollouts", "sets", "campaigns", "baselines", "regressions", "schedules", "status")
    for name in asking:
        assert ended.pop(name) == ("0", "")
    for status, said in ended.values():
        assert status == "1"
        assert 'is not installed: it comes with the extra "server". Install that from the checkout or' in said
        assert said.endswith(f"{sys.executable} -m pip install 'PATH[server]'")
    assert "usage: obt-server" in done.stdout
