"""The first operator, made at the very first start: with the password of a file, or with a random one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from obt_agent.identity.secret_file import SecretFileError, read_secret_file
from obt_server.auth.operators import Operators
from obt_server.auth.secrets import MAX_PASSWORD_CHARS, password_problem
from obt_server.cli.options import UsageError

FIRST_OPERATOR: Final = "admin"
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
    password = await operators.create_first(FIRST_OPERATOR, given)
    if password is None:
        return
    if given is not None:
        where, kept = f"the password in {file}", "That file is not read again."
    # systemd names the state folder of a service, whose output goes to the journal: that is kept, and read by
    # more people than this password is for.
    elif (folder := os.environ.get("STATE_DIRECTORY")) is not None:
        where = f"the password in {_keep(Path(folder), password)}"
        kept = "Remove the file when you have read it."
    else:
        where, kept = f"the password {password}", "It is shown this once."
    print(
        f"First start: sign in as {FIRST_OPERATOR} with {where}\n"
        f"{kept} To change it: obt-server operators password {FIRST_OPERATOR}",
        flush=True,
    )


def _keep(folder: Path, password: str) -> Path:
    """Write it into a file that is its owner's alone."""
    file = folder / "first-password"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(password + "\n")
    return file
