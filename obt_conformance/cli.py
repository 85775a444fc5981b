"""``obt-conformance server URL`` and ``obt-conformance agent``."""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from obt_agent import __version__
from obt_agent.argument_parser import JSON_OPTION, OptionTable, PlainArgumentParser, add_options
from obt_agent.text_output import replace_unencodable
from obt_conformance import report
from obt_conformance.agent_harness import AgentHarness, AgentTarget
from obt_conformance.agent_rules import CHECKS as AGENT_CHECKS
from obt_conformance.checks import CheckResult
from obt_conformance.deadlines import Deadlines
from obt_conformance.drivers import CommandDriver, RestDriver, run_command
from obt_conformance.identity import KitIdentity, NoIdentity, Pool, enrol, parse_credentials
from obt_conformance.listening import AgentListener
from obt_conformance.run import check_agent, check_server, select_checks
from obt_conformance.server_rules import CHECKS as SERVER_CHECKS

# Exit code of a command that was given wrongly, as argparse has it.
USAGE = 2
# Checks beside each other, where identities can be made.
IDENTITIES = 8
# Join tokens that the checks of enrolment use up.
KEPT_TOKENS = 4
_EPILOG: Final = """\
exit status:
  0  all rules that were tried are kept
  1  one is broken
  2  wrong arguments
  3  nothing could be tried
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run; the exit status is what the help says."""
    # Details quote what the other side sent, in any script.
    replace_unencodable()
    options = make_parser().parse_args(argv)
    # Checks break connections on purpose; the results say what happened.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    try:
        results = asyncio.run(options.run(options))
    except (NoIdentity, ValueError, OSError) as error:
        sys.stderr.write(f"obt-conformance: {error}\n")
        return USAGE
    except KeyboardInterrupt:
        return 130
    print(report.as_json(results) if options.json else report.as_text(results))
    return report.exit_code(results)


def make_parser() -> PlainArgumentParser:
    """The command line."""
    parser = PlainArgumentParser(
        prog="obt-conformance",
        description="Checks that a server or an agent speaks obt.v1 as documented.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"obt-conformance {__version__}")
    sides = parser.add_subparsers(required=True, metavar="server | agent", leading=_SHARED_OPTIONS)
    _server_options(sides.add_parser("server", help="play agents against a server"))
    _agent_options(sides.add_parser("agent", help="play a server against an agent that dials it"))
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))


_SHARED_OPTIONS: Final[OptionTable] = {
    "--only": {"type": _names, "default": (), "metavar": "RULE,...", "help": "these rules only"},
    "--quick": {"action": "store_true", "help": "leave out what takes more than a second by rule"},
    **JSON_OPTION,
}


def _server_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_server)
    parser.add_argument("url", help="http(s)://HOST[:PORT]")
    parser.add_argument("--token-file", type=Path, help="credentials, a line each: AGENT_ID SECRET")
    parser.add_argument("--agent-id", help="the id of a token file that holds one SECRET alone")
    parser.add_argument("--join-token-file", type=Path, help="unused join tokens, one a line")
    parser.add_argument(
        "--trigger",
        metavar="COMMAND",
        help="makes the server send {method} with {params} to agent {agent_id}; exits 0 when the server's "
        "caller got a whole answer; SIGTERM makes that caller go away",
    )
    parser.add_argument(
        "--query",
        metavar="COMMAND",
        help="prints as JSON what the server stored: {what} is models (a list of names) or job (an object "
        "with state and result), of agent {agent_id} and job {job_id}",
    )
    parser.add_argument(
        "--restart",
        metavar="COMMAND",
        help="stops the server and starts it again; exits 0 once begun",
    )
    parser.add_argument(
        "--obt-server-api-token-file",
        type=Path,
        help="an API token of obt-server: trigger, query and join tokens in one",
    )
    add_options(parser, _SHARED_OPTIONS)


def _agent_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_agent)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="where the agent dials")
    parser.add_argument("--model", default="standin-small:latest", help="a model that the agent's Ollama has")
    parser.add_argument("--embed-model", help="a model that embeds; --model when omitted")
    parser.add_argument("--redial", metavar="COMMAND", help="makes the agent dial at once: 'kill -HUP PID'")
    parser.add_argument(
        "--within", type=float, default=120.0, metavar="S", help="how long to wait for the agent"
    )
    add_options(parser, _SHARED_OPTIONS)


async def _server(options: argparse.Namespace) -> list[CheckResult]:
    checks = select_checks(SERVER_CHECKS, options.only)
    deadlines = Deadlines()
    rest = None
    join_tokens = _lines(options.join_token_file)
    if options.obt_server_api_token_file is not None:
        rest = RestDriver(options.url, _one(options.obt_server_api_token_file), within_s=deadlines.answer_s)
        # As many as identities are wanted, and those for the checks of enrolment.
        join_tokens += [await rest.join_token() for _ in range(IDENTITIES + KEPT_TOKENS)]
    identities = await _identities(options, join_tokens, deadlines)
    return await check_server(
        checks,
        Pool(identities),
        options.url,
        deadlines=deadlines,
        # Commands of the user's own may know more than the REST interface.
        driver=CommandDriver(options.trigger, options.query, options.restart, otherwise=rest),
        join_tokens=join_tokens,
        quick=options.quick,
    )


async def _identities(
    options: argparse.Namespace, join_tokens: list[str], deadlines: Deadlines
) -> list[KitIdentity]:
    """Those of the file, and enrolled ones; some join tokens stay for the rules of enrolment."""
    found = []
    if options.token_file is not None:
        found = parse_credentials(options.token_file.read_text(), options.agent_id)
    # One at least is needed for an identity, where there is no other.
    keep = KEPT_TOKENS if found else max(0, min(KEPT_TOKENS, len(join_tokens) - 1))
    # Each identity is a check that can run beside the others.
    while len(join_tokens) > keep and len(found) < IDENTITIES:
        found.append(await enrol(options.url, join_tokens.pop(), within_s=deadlines.answer_s))
    if not found:
        raise NoIdentity("Give --token-file, --join-token-file or --obt-server-api-token-file.")
    return found


def _lines(path: Path | None) -> list[str]:
    return [] if path is None else [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _one(path: Path) -> str:
    lines = _lines(path)
    if len(lines) != 1:
        raise ValueError(f"{path} must hold one line.")
    return lines[0]


async def _agent(options: argparse.Namespace) -> list[CheckResult]:
    checks = select_checks(AGENT_CHECKS, options.only)
    host, _, port = options.listen.rpartition(":")
    deadlines = Deadlines()
    listener = AgentListener(answer_within_s=deadlines.answer_s)
    target = AgentTarget(model=options.model, embed_model=options.embed_model or options.model)
    redial = functools.partial(run_command, *shlex.split(options.redial)) if options.redial else None
    async with listener.open(host or "127.0.0.1", int(port)):
        # To standard error: with --json, standard output is for the results alone.
        sys.stderr.write(f"obt-conformance listens on port {listener.port} of {host or '127.0.0.1'}\n")
        # Here and not in the first check: an agent that never dials broke no rule.
        await listener.first_dial(options.within)
        return await check_agent(
            checks, AgentHarness(target, listener, deadlines, redial), quick=options.quick
        )
