"""Read a file that holds a secret: small, regular, and for nobody but its owner and group."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from obt_agent.errors import ConfigError
from obt_agent.system import descriptors, owners

# A link of /var/run leads there as well.
_CONTAINER_SECRETS: Final = "run/secrets"


class SecretFileError(ConfigError):
    """The file cannot be used; the message names it and what to do, never its content."""


def read_secret_file(path: Path, *, of: str, max_bytes: int, root: Path = Path("/")) -> bytes:
    """Return what a file holds, and one byte more than ``max_bytes`` of a longer one.

    Below ``/run/secrets`` everybody may read it: there Docker and Kubernetes put the secrets of a container,
    which has no other users.

    Args:
        path: the file.
        of: whose it is, as messages say it: ``token`` for "the token's file".
        max_bytes: more than any such secret has.
        root: where ``/run/secrets`` is looked for.

    Raises:
        SecretFileError: it cannot be read, or others can read it.
    """
    try:
        descriptor = os.open(path, descriptors.READ)
        with os.fdopen(descriptor, "rb") as file:
            _check(path, of, os.fstat(descriptor), root / _CONTAINER_SECRETS)
            return file.read(max_bytes + 1)
    except OSError as error:
        raise SecretFileError(f"The {of}'s file {path} cannot be read: {error.strerror}.") from error


def _check(path: Path, of: str, status: os.stat_result, container_secrets: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SecretFileError(f"The {of}'s file {path} is not a regular file.")
    # The group may read it: that is how owners give a service user a file of root's.
    readable = stat.S_IROTH if path.resolve().is_relative_to(container_secrets) else 0
    if owners.granted(status, owners.OTHERS & ~readable):
        raise SecretFileError(
            f"The {of}'s file {path} can be read by every user of this machine: chmod o= {path}"
        )
