"""The first operator, made at the very first start: with the password of a file, or with a random one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from pathlib import Path
from typing import Final

from obt_agent.identity.secret_file import SecretFileError, read_secret_file
from obt_server.auth.operators import Operators
from obt_server.auth.secrets import MAX_PASSWORD_CHARS, check_password, new_password, password_problem
from obt_server.cli.options import UsageError
from obt_server.store import copies

FIRST_OPERATOR: Final = "admin"
_FILE: Final = "first-password"
_NEW: Final = ".new"
# A character takes four bytes at most.
_MAX_BYTES: Final = MAX_PASSWORD_CHARS * 4 + 2


async def given_first_password(operators: Operators, file: Path | None) -> str | None:
    """Return the password that the first operator is to get.

    None for a random one, and where there are operators: the file is read at the first start alone, and may
    be gone afterwards.

    Raises:
        UsageError: it holds no password, or others can read it.
    """
    if file is None or await operators.store.names():
        return None
    try:
        data = read_secret_file(file, of="first password", max_bytes=_MAX_BYTES)
        password = data.decode("utf-8").rstrip("\r\n")
    except SecretFileError as error:
        raise UsageError(error.message) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no text in UTF-8, expected a password on one line") from error
    if "\n" in password:
        raise UsageError(f"{file} has several lines, expected a password on one")
    if problem := password_problem(password):
        raise UsageError(f"{file} cannot be used: {problem}")
    return password


async def make_first_operator(operators: Operators, given: str | None, file: Path | None) -> None:
    """Make the first operator where there is none, and say how to sign in.

    Args:
        operators: where it is made.
        given: its password; None for a random one.
        file: where the password came from.
    """
    folder = os.environ.get("STATE_DIRECTORY")
    # systemd names the state folder of a service, whose output goes to the journal: that is kept, and read by
    # more people than this password is for.
    if given is None and folder is not None:
        kept = await _made_with_file(operators, Path(folder))
        if kept is not None:
            _say(f"the password in {kept}", "Remove the file when you have read it.")
        return
    password = await operators.create_first(FIRST_OPERATOR, given)
    if password is None:
        return
    if given is not None:
        _say(f"the password in {file}", "That file is not read again.")
    else:
        _say(f"the password {password}", "It is shown this once.")


def _say(where: str, kept: str) -> None:
    print(
        f"First start: sign in as {FIRST_OPERATOR} with {where}\n"
        f"{kept} To change it: obt-server operators password {FIRST_OPERATOR}",
        flush=True,
    )


async def _made_with_file(operators: Operators, folder: Path) -> Path | None:
    """Make the first operator with a random password, and return its file; None where it is there already.

    The password is on the disk before the operator is: a start that ends in between loses none. Its file gets
    its name when the operator is there, by this start or the next one. Of two that start at once, one makes
    the operator, and the other's file goes.
    """
    if not await operators.store.names():
        password = new_password()
        _write(folder / f"{_FILE}.{secrets.token_hex(4)}{_NEW}", password)
        copies.sync(folder)
        await operators.create_first(FIRST_OPERATOR, password)
    made = None
    for file, password in await asyncio.to_thread(_written, folder):
        right = await _opens(operators, password)
        # There are operators now: whoever is about to make one makes none, and needs no file.
        if await asyncio.to_thread(_settled, file, right=right):
            made = folder / _FILE
    return made


def _written(folder: Path) -> list[tuple[Path, str]]:
    """Files of this start and of others, with their passwords."""
    found = []
    for file in folder.glob(f"{_FILE}.*{_NEW}"):
        # Another process may be at it as well.
        with contextlib.suppress(FileNotFoundError):
            found.append((file, file.read_text(encoding="utf-8").rstrip("\n")))
    return found


def _settled(file: Path, *, right: bool) -> bool:
    """Give the right file its name, and remove another; return whether this did the former."""
    with contextlib.suppress(FileNotFoundError):
        if right:
            file.replace(file.with_name(_FILE))
            return True
        file.unlink()
    return False


async def _opens(operators: Operators, password: str) -> bool:
    stored = await operators.store.password(FIRST_OPERATOR)
    return stored is not None and await asyncio.to_thread(check_password, password, stored)


def _write(file: Path, password: str) -> None:
    """Write it into a file that is its owner's alone, and have it on the disk."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(password + "\n")
        stream.flush()
        os.fsync(stream.fileno())
