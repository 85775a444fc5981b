"""A token that the owner put into a file: for the agent to show, or to enrol with."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from obt_agent.errors import ConfigError
from obt_agent.identity.secret import Secret
from obt_agent.system import descriptors, owners

# Name of the credential in ``LoadCredential=obt-token:…``.
SYSTEMD_NAME: Final = "obt-token"

_SERVICE_STATE: Final = "var/lib/obt-agent"
# Where ``LoadCredential=obt-token`` without a path looks, in its order (systemd.exec(5)).
_CREDSTORES: Final = ("etc/credstore", "run/credstore", "usr/lib/credstore")

# A link of /var/run leads there as well.
_CONTAINER_SECRETS: Final = "run/secrets"

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

    Below ``/run/secrets`` everybody may read it: there Docker and Kubernetes put the secrets of a container,
    which has no other users.

    Raises:
        TokenError: it cannot be read, others can read it, or it holds no token.
    """
    try:
        descriptor = os.open(path, descriptors.READ)
        with os.fdopen(descriptor, "rb") as file:
            _check(path, os.fstat(descriptor), root / _CONTAINER_SECRETS)
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise TokenError(f"The token's file {path} cannot be read: {error.strerror}.") from error
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


def _check(path: Path, status: os.stat_result, container_secrets: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise TokenError(f"The token's file {path} is not a regular file.")
    # The group may read it: that is how owners give a service user a file of root's.
    readable = stat.S_IROTH if path.resolve().is_relative_to(container_secrets) else 0
    if owners.granted(status, owners.OTHERS & ~readable):
        raise TokenError(
            f"The token's file {path} can be read by every user of this machine: chmod o= {path}"
        )
