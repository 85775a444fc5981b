"""A token that the owner put into a file: for the agent to show, or to enrol with."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from obt_agent.errors import ConfigError
from obt_agent.identity.secret import Secret
from obt_agent.identity.secret_file import SecretFileError, read_secret_file

# Name of the credential in ``LoadCredential=obt-token:…``.
SYSTEMD_NAME: Final = "obt-token"

_SERVICE_STATE: Final = "var/lib/obt-agent"
# Where ``LoadCredential=obt-token`` without a path looks, in its order (systemd.exec(5)).
_CREDSTORES: Final = ("etc/credstore", "run/credstore", "usr/lib/credstore")

# More than the longest token, with room for white space.
_MAX_BYTES: Final = 4096
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{8,1024}", re.ASCII)


class TokenError(ConfigError):
    """The file holds no usable token; the message names the file and what to do, never its content."""


def token_file(configured: str | None, environ: Mapping[str, str]) -> Path | None:
    """The file that holds the provisioned token, if there is one.

    ``server.token_file`` where it is set, else systemd's credential; a file that is not there is None, since
    an enrolled credential makes it unnecessary.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    candidates = [Path(configured)] if configured else [Path(folder) / SYSTEMD_NAME] if folder else []
    return next((path for path in candidates if os.path.lexists(path)), None)


def token_file_seen(
    configured: str | None, environ: Mapping[str, str], state_dir: Path, root: Path = Path("/")
) -> Path | None:
    """``token_file`` for a command that looks at an agent from outside.

    For the system's service, known by its state folder, it is the file that systemd gives it at its start, as
    far as this user may see it.
    """
    # A command's own environment is not the service's: there is no CREDENTIALS_DIRECTORY in it.
    file = token_file(configured, environ)
    if file or configured or state_dir != root / _SERVICE_STATE:
        return file
    candidates = [root / folder / SYSTEMD_NAME for folder in _CREDSTORES]
    return next((path for path in candidates if os.path.lexists(path)), None)


def read_token(path: Path, root: Path = Path("/")) -> Secret:
    """The token in a file: one line of visible ASCII, white space around it ignored.

    Below ``/run/secrets`` everybody may read it, as ``read_secret_file`` says.

    Raises:
        TokenError: it cannot be read, others can read it, or it holds no token.
    """
    try:
        data = read_secret_file(path, of="token", max_bytes=_MAX_BYTES, root=root)
    except SecretFileError as error:
        raise TokenError(error.message) from error
    return parse_token(data, str(path))


def parse_token(data: bytes, where: str) -> Secret:
    """A token out of bytes that ``where`` gave.

    Raises:
        TokenError: it is none.
    """
    text = data.decode("ascii", "replace").strip()
    if not text:
        raise TokenError(f"{where} is empty, expected a token on one line.")
    if not _TOKEN.fullmatch(text):
        raise TokenError(
            f"{where} holds no token: expected one line of 8 to 1024 letters, digits and ._~+/=-"
        )
    return Secret(text)
