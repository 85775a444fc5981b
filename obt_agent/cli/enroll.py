"""``obt-agent enroll``: register this machine with a server.

The one-time join token comes from a file, standard input or a prompt, never from the command line, which
every user of the machine can read. The machine makes a credential of its own, kept in the state folder.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any, Final

from obt_agent import __version__
from obt_agent.cli import exit_codes
from obt_agent.cli.common import given_options, load_config, to_stderr
from obt_agent.cli.options import add_config_options
from obt_agent.config.edit import CannotEdit, set_keys
from obt_agent.config.file import SYSTEM_FILE, user_file
from obt_agent.config.load import LoadedConfig
from obt_agent.config.urls import server_base
from obt_agent.identity.credentials import Credentials
from obt_agent.identity.provisioned import parse_token, read_token, token_file_seen
from obt_agent.identity.secret import Secret
from obt_agent.identity.state_dir import StateDir
from obt_agent.link.enroll import EnrolAgent, Enrolled, enroll
from obt_agent.printable import printable
from obt_agent.system import owners

# A file or pipe that was named by mistake is not read to its end.
_MAX_TOKEN_BYTES: Final = 4096
# Where the unit may be: the administrator's, a package's, and a package's on older systems.
_UNITS: Final = (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"), Path("/lib/systemd/system"))
_NOT_IN_ARGV: Final = (
    "what stands on the command line can be read by every user of this machine, and stays in the shell's "
    "history: a token does not belong there. If this was one, revoke it at the server, and give a new one "
    "with --token-file FILE, on standard input, or at the prompt"
)
# The server's own tokens, and whatever is as long and as random as one; no address looks so.
_LIKE_A_TOKEN: Final = re.compile(r"obt[a-z]*_.*|[A-Za-z0-9_+/=-]{24,}", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "url", nargs="?", type=_url, metavar="URL", help="the server, for example https://obt.example.org"
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="file that holds the join token, - for standard input; else standard input, or a prompt",
    )
    words = "write server.url (and the --name) into the configuration file"
    parser.add_argument("--write-config", action="store_true", help=words)
    # A token that somebody gives as a word, or by a flag that is not there, is refused and never repeated.
    parser.add_argument("misplaced", nargs="*", action=_Misplaced, help=argparse.SUPPRESS)
    parser.add_argument("--token", action=_Misplaced, help=argparse.SUPPRESS)
    add_config_options(parser)


def _url(text: str) -> str:
    if _LIKE_A_TOKEN.fullmatch(text):
        raise argparse.ArgumentTypeError(_NOT_IN_ARGV)
    return text


class _Misplaced(argparse.Action):
    """A token in the arguments: refused, and not repeated."""

    def __call__(self, parser: argparse.ArgumentParser, _namespace: Any, values: object, *_more: Any) -> None:
        # argparse gives an empty list where nothing is misplaced.
        if values:
            parser.error(_NOT_IN_ARGV)


def run(args: argparse.Namespace) -> int:
    """Enrol, store the credential, say what comes next."""
    # As if it had been given with --server-url, which checks it and says where it came from.
    if args.url:
        setattr(args, "key:server.url", args.url)
    loaded = load_config(args, need_server=True, may_be_missing=args.write_config)
    token = _token(args.token_file)
    enrolled, state_dir = asyncio.run(enroll_here(loaded, token))
    name = printable(enrolled.server.name or "the server")  # the server chose it
    print(f"Enrolled at {name} as {loaded.config.agent.name} ({enrolled.agent_id}).")
    print(f"The credential is kept in {state_dir}.")
    if enrolled.pins:
        print(f"Pinned: the server must show the key {' or '.join(enrolled.pins)}.")
    written = args.write_config and _write_config(args, loaded)
    print(f"Next: {_next_step(args, loaded, written=bool(written))}")
    return exit_codes.OK


async def enroll_here(loaded: LoadedConfig, token: Secret) -> tuple[Enrolled, Path]:
    """Enrol the agent of this configuration; return what came of it, and where its credential is.

    Raises:
        AgentError: it could not be enrolled; see ``link.enroll``.
    """
    config = loaded.config
    with StateDir.open(Path(config.agent.state_dir)) as state:
        given = token_file_seen(config.server.token_file, os.environ, state.path)
        credentials = Credentials(state.folder, read_token(given) if given else None)
        agent = EnrolAgent(id=state.agent_id, name=config.agent.name, version=__version__)
        enrolled = await enroll(config.server, token, agent=agent, credentials=credentials)
        return enrolled, state.path


def _token(named: str | None) -> Secret:
    if named and named != "-":
        return read_token(Path(named).expanduser())
    if named == "-" or not sys.stdin.isatty():
        return parse_token(sys.stdin.buffer.readline(_MAX_TOKEN_BYTES), "standard input")
    try:
        typed = getpass.getpass("Join token (not shown): ")
    except EOFError:
        typed = ""
    return parse_token(typed.encode(), "what was typed")


def _write_config(args: argparse.Namespace, loaded: LoadedConfig) -> bool:
    # Into the file that was read; a first one goes where the next start will look for it.
    path = loaded.path or (SYSTEM_FILE if owners.is_root() else user_file(os.environ))
    values = {"server.url": args.url or server_base(str(loaded.config.server.url))}
    if name := getattr(args, "key:agent.name"):
        values["agent.name"] = name
    try:
        set_keys(path, values)
    except CannotEdit as error:  # the enrolment itself is done: this must not look like its failure
        to_stderr(f"obt-agent: {error.message}")
        return False
    print(f"{' and '.join(values)} {'is' if len(values) == 1 else 'are'} written to {path}.")
    return True


def _next_step(args: argparse.Namespace, loaded: LoadedConfig, *, written: bool) -> str:
    # A restart takes root's rights; without them the advice would lead to a refusal.
    if any((folder / "obt-agent.service").exists() for folder in _UNITS) and owners.is_root():
        return "systemctl restart obt-agent"
    # With other values than this command had, the agent would be another one, or not find its credential.
    given = given_options(args, without={"server.url", "agent.name"} if written else {"server.url"})
    run = " ".join(["obt-agent run", *map(shlex.quote, given)])
    url = getattr(args, "key:server.url")
    if written or not url:
        return run
    if loaded.path:
        return f"write server.url: {url} into {loaded.path}, then {run}"
    return f"{run} --server-url {url}"
