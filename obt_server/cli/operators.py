"""``obt-server operators``: who may sign in, and tokens for programs."""

from __future__ import annotations

import argparse
import getpass
import sys
import time
from typing import get_args

from obt_agent.argument_parser import PlainArgumentParser
from obt_agent.text_output import print_json
from obt_server.auth.secrets import password_problem
from obt_server.cli.options import UsageError, duration_up_to, when
from obt_server.cli.stored import OpenStorage, add_stored_command, add_stored_group, add_stored_list
from obt_server.store.operators import ApiToken, Scope

# Days: ten years at most; one that lasts until it is revoked has no end.
duration = duration_up_to(3650)


def add_arguments(parser: PlainArgumentParser) -> None:
    """Add the commands."""
    commands = add_stored_group(parser)
    add_stored_list(commands, "show operators and API tokens", _list)
    password = add_stored_command(
        commands, "password", "make an operator, or change a password (asked for, or on stdin)", _password
    )
    password.add_argument("name", metavar="NAME", help="the operator")
    remove = add_stored_command(
        commands, "remove", "forget an operator, with sign-ins and API tokens", _remove
    )
    remove.add_argument("name", metavar="NAME", help="the operator")
    token = add_stored_command(commands, "token", "make an API token; printed once", _token)
    token.add_argument("operator", metavar="OPERATOR", help="for whom it acts")
    token.add_argument("--name", metavar="TEXT", required=True, help="what it is for")
    token.add_argument(
        "--valid-for", metavar="TIME", type=duration, help="like 1h, 7d, 365d (default: until it is revoked)"
    )
    token.add_argument(
        "--scope",
        choices=get_args(Scope),
        help="what it opens: all that OPERATOR may do (the default), the gateway alone (inference, with "
        "--machine), or /metrics alone",
    )
    token.add_argument(
        "--machine",
        metavar="MACHINE",
        action="append",
        default=[],
        help="makes it one of scope inference, for the gateway alone, at this machine (id or name), at "
        "those with a label (@LABEL) or at all (*); may be repeated",
    )
    token.add_argument(
        "--model",
        metavar="PATTERN",
        action="append",
        default=[],
        help="with --machine: only models like this, such as 'llama3.2:*'; may be repeated (default: all)",
    )
    revoke = add_stored_command(commands, "revoke-token", "revoke an API token", _revoke)
    revoke.add_argument("id", metavar="ID", type=int, help="its number in the list")


async def _list(stored: OpenStorage, options: argparse.Namespace) -> int:
    names, tokens = await stored.operators.store.names(), await stored.operators.store.tokens()
    if options.json:
        print_json({"operators": names, "api_tokens": tokens})
        return 0
    print("OPERATORS")
    for name in names:
        print(f"  {name}")
    print("API TOKENS")
    for token in tokens:
        print(f"  {token.id:>4}  {token.operator}  {token.name}  ({_use(token)}){_limits(token)}")
    return 0


def _use(token: ApiToken) -> str:
    """When it was used last, and how long it lasts, so that forgotten ones are seen and revoked."""
    used = "never used" if token.last_used_at is None else f"last used {when(token.last_used_at)}"
    if token.expires_at is None:
        return used
    state = "expired" if token.expires_at <= time.time() else "valid until"
    return f"{used}, {state} {when(token.expires_at)}"


def _limits(token: ApiToken) -> str:
    if token.scope != "inference":
        return "" if token.scope == "operator" else "  reads /metrics alone"
    return f"  inference at {', '.join(token.machines)} with {', '.join(token.models)}"


def read_password() -> str:
    """From the terminal, twice; else one line of standard input. Never from an argument.

    Raises:
        UsageError: too short, too long, or not the same twice.
    """
    # An argument would be seen by everybody on the machine, and stay in the shell's history.
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise UsageError("the two differ")
    else:
        password = sys.stdin.readline().rstrip("\n")
    if problem := password_problem(password):
        raise UsageError(problem)
    return password


async def _password(stored: OpenStorage, options: argparse.Namespace) -> int:
    await stored.operators.set_password(options.name, read_password())
    return 0


async def _remove(stored: OpenStorage, options: argparse.Namespace) -> int:
    names = await stored.operators.store.names()
    if names == [options.name]:
        raise UsageError("this is the only operator: nobody could sign in any more")
    await stored.operators.store.remove(options.name)
    return 0


async def _token(stored: OpenStorage, options: argparse.Namespace) -> int:
    expires_at = None if options.valid_for is None else time.time() + options.valid_for
    if options.model and not options.machine:
        raise UsageError("--model limits a token of scope inference: give --machine too")
    scope: Scope = options.scope or ("inference" if options.machine else "operator")
    if (scope == "inference") != bool(options.machine):
        raise UsageError("--machine and --scope inference go together")
    grant: tuple[list[str], list[str]] | None = None
    if options.machine:
        # By id: another machine that takes the name later gets nothing by that.
        machines = [
            one if one == "*" or one.startswith("@") else await stored.agent_id(one)
            for one in options.machine
        ]
        grant = machines, options.model or ["*"]
    # Its hash alone is stored: this is the only time that anybody sees it.
    secret, _ = await stored.operators.new_token(
        options.operator, options.name, expires_at, scope=scope, grant=grant
    )
    print(secret)
    return 0


async def _revoke(stored: OpenStorage, options: argparse.Namespace) -> int:
    await stored.operators.store.revoke_token(options.id)
    return 0
