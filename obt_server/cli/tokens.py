"""``obt-server tokens``: join tokens and credentials of agents."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from obt_agent.argument_parser import PlainArgumentParser
from obt_agent.identity.provisioned import TokenError, read_token
from obt_agent.protocol.server_key import split_join_token, with_pins
from obt_agent.system.replace_file import replace_file
from obt_agent.text_output import print_json
from obt_server.auth import secrets
from obt_server.cli.options import UsageError, duration_up_to, when
from obt_server.cli.stored import OpenStorage, add_stored_command, add_stored_group, add_stored_list
from obt_server.storage import JoinToken

# Days: a join token that waits for longer than a month is forgotten, and not used.
duration = duration_up_to(30)


def add_arguments(parser: PlainArgumentParser) -> None:
    """Add the commands."""
    commands = add_stored_group(parser)
    join = add_stored_command(commands, "join", "make a one-time join token", _join)
    join.add_argument("--note", metavar="TEXT", default="", help="what it is for")
    join.add_argument(
        "--agent",
        metavar="AGENT",
        help="only for this enrolled agent, which may replace its credential with it",
    )
    join.add_argument(
        "--valid-for", metavar="TIME", type=duration, default=3600.0, help="like 30m, 1h, 7d (default: 1h)"
    )
    join.add_argument(
        "--ensure-file",
        type=Path,
        metavar="FILE",
        help="print no token, but see that FILE, which no other user may read, holds one: it gets a new one "
        "where there is none, or one that lets nobody in. One that a machine has used stays: remove the file "
        "for another machine",
    )
    add_stored_list(commands, "show join tokens and credentials", _list)
    cancel = add_stored_command(commands, "cancel", "make a join token useless", _cancel)
    cancel.add_argument("id", metavar="ID", type=int, help="its number in the list")
    for name, text, work in (
        ("revoke", "revoke an agent's credential; its session ends within seconds", _revoke),
        ("rotate", "let an agent make its next credential, when it is there", _rotate),
    ):
        add_stored_command(commands, name, text, work).add_argument(
            "agent", metavar="AGENT", help="id or unique name"
        )


async def _join(stored: OpenStorage, options: argparse.Namespace) -> int:
    file: Path | None = options.ensure_file
    if file is None:
        print(await _new_token(stored, options))
    elif (kept := await _reason_to_keep(stored, file)) is not None:
        print(f"{file} stays as it is: its join token {kept}")
    else:
        replace_file(file, (await _new_token(stored, options) + "\n").encode(), mode=0o600)
        print(f"{file} has a new join token")
    return 0


async def _reason_to_keep(stored: OpenStorage, file: Path) -> str | None:
    """Why the token in a file is left there; None where there is none, or where it lets nobody in.

    Raises:
        UsageError: the file cannot be read, or others can.
    """
    text = _token_in(file)
    if text is None:
        return None
    secret, pins = split_join_token(text)
    found = await stored.storage.join_token(secrets.sha256(secret))
    if found is None or found.revoked_at is not None:
        return None
    # Another one would let another machine in, which nobody asked for.
    if found.used_at is not None:
        return f"was used by {found.used_by}"
    # It must name the keys that the server has now.
    good = found.expires_at > time.time() and pins == await stored.storage.join_pins()
    return f"is valid until {when(found.expires_at)}" if good else None


def _token_in(file: Path) -> str | None:
    if not os.path.lexists(file):
        return None
    try:
        return read_token(file).reveal()
    except TokenError as error:
        raise UsageError(error.message) from error


async def _new_token(stored: OpenStorage, options: argparse.Namespace) -> str:
    agent_id = None if options.agent is None else await stored.agent_id(options.agent)
    secret, at = secrets.new_secret("obtj"), time.time()
    expires_at = at + options.valid_for
    # The hash alone is stored: this is the only time that anybody sees the token.
    await stored.storage.create_join_token(
        secrets.sha256(secret), note=options.note, agent_id=agent_id, at=at, expires_at=expires_at
    )
    return with_pins(secret, await stored.storage.join_pins())


async def _list(stored: OpenStorage, options: argparse.Namespace) -> int:
    tokens, credentials = await stored.storage.join_tokens(), await stored.storage.credentials()
    if options.json:
        print_json({"join_tokens": tokens, "credentials": credentials})
        return 0
    print("JOIN TOKENS")
    for token in tokens:
        state = _state(token, time.time())
        print(f"  {token.id:>4}  {when(token.created_at)}  {state}  {token.note}".rstrip())
    print("CREDENTIALS")
    names = {agent.id: agent.name for agent in await stored.storage.agents()}
    for credential in credentials:
        note = "  rotation asked for" if credential.rotation_requested else ""
        print(f"  {credential.agent_id}  {credential.state:<9}  {names[credential.agent_id]}{note}")
    return 0


def _state(token: JoinToken, now: float) -> str:
    # The first that holds: a used token expires too, and nobody cares.
    if token.used_at is not None:
        return f"used by {token.used_by}"
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at <= now else f"valid until {when(token.expires_at)}"


async def _cancel(stored: OpenStorage, options: argparse.Namespace) -> int:
    await stored.storage.revoke_join_token(options.id, time.time())
    return 0


async def _revoke(stored: OpenStorage, options: argparse.Namespace) -> int:
    agent_id = await stored.agent_id(options.agent)
    # A running server notices by itself, and ends the agent's session.
    count = await stored.storage.revoke_credentials(agent_id, time.time())
    if not count:
        raise UsageError(f"{options.agent} has no valid credential")
    print(f"Revoked. To let it in again: obt-server tokens join --agent {agent_id}")
    return 0


async def _rotate(stored: OpenStorage, options: argparse.Namespace) -> int:
    await stored.storage.request_rotation(await stored.agent_id(options.agent), time.time())
    print(
        "Asked for: a running server starts it when the agent is connected; it takes effect at its next dial."
    )
    return 0
