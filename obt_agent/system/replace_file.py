"""Write a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from obt_agent.system import descriptors, owners


def replace_file(file: Path, data: bytes, *, mode: int, like: os.stat_result | None = None) -> None:
    """Write a file under a name of its own, then give it this one: half of it never stands there.

    With ``like`` it has that one's owner, group and mode.

    Raises:
        OSError: it cannot be written; what stood there is as it was.
    """
    fresh = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, descriptors.MAKE, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            if like is not None:
                owners.take_over(descriptor, like)
            stream.write(data)
            stream.flush()
            # Else a power cut after the rename may leave an empty file under the name.
            os.fsync(descriptor)
        fresh.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
