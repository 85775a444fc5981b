"""A bundle for a bug report: text files in a tar.gz, every one of them masked before it gets in."""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from obt_agent.log_setup.redaction import MASK, masked_text

_SERIALS: Final = re.compile(r'("(?:serial|uuid|bios_serial|board_serial)[a-z_]*"\s*:\s*")[^"]+')
_KEYS: Final = re.compile(r"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without secrets: known ones, whatever looks like one, keys in PEM, serial numbers."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return masked_text(_SERIALS.sub(rf"\1{MASK}", _KEYS.sub(MASK, text)))


def write(path: Path, texts: Mapping[str, str], secrets: Iterable[str] = ()) -> None:
    """Write the bundle, mode 0600; a file that is there already is not replaced.

    Args:
        path: of the ``.tar.gz``.
        texts: name and content of each file.
        secrets: what is known to be secret and must not be in it, on top of what looks like it.

    Raises:
        OSError: it cannot be written, or exists.
    """
    known = tuple(secrets)
    folder = path.name.removesuffix(".tar.gz")
    with (
        open(path, "xb", opener=_private) as file,
        gzip.GzipFile(fileobj=file, mode="wb", filename="") as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name, text in texts.items():
            _add(archive, f"{folder}/{name}", redacted(text, known))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), 0o644, int(time.time())
    archive.addfile(entry, io.BytesIO(data))
