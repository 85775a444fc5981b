"""Acting as the owner of the state folder: what root makes there the service could not use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from obt_agent.identity.folder import FolderError
from obt_agent.system.owners import acting_as_owner


@contextlib.contextmanager
def as_owner(folder: Path) -> Iterator[None]:
    """Take the rights of the folder's owner while the context lasts, if this is root; else change nothing.

    Raises:
        FolderError: the folder is not there, or may not be entered.
    """
    try:
        status = folder.stat()
        os.listdir(folder)  # noqa: PTH208 - only whether it may be read
    except FileNotFoundError as error:
        raise FolderError(f"There is no state folder {folder}: no agent has run here yet.") from error
    except OSError as error:
        raise FolderError(
            f"The state folder {folder} may not be read by this user: put sudo before the command, or name "
            "another folder with --state-dir."
        ) from error
    with acting_as_owner(status):
        yield
