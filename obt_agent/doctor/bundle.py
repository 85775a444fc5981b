"""A bundle for a bug report: text files in a tar.gz, every one of them masked before it gets in.

Secrets are cut out. Names of hosts and people, and network addresses, get stand-ins: others may read it too.
"""

from __future__ import annotations

import gzip
import io
import ipaddress
import os
import re
import tarfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from obt_agent.log_setup.redaction import MASK, masked_text
from obt_agent.system import descriptors

_SERIALS: Final = re.compile(r'("(?:serial|uuid|bios_serial|board_serial)[a-z_]*"\s*:\s*")[^"]+')
_KEYS: Final = re.compile(r"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)


_HOMES: Final = re.compile(r"(/home/|/Users/)[^/\s\"':]+")
# Neither inside a longer number with dots nor a version followed by more of it.
_IPV4: Final = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)")
_IPV6: Final = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(?![\w:])")
# Host names that identify nobody; replaced, they would make every line of a log unreadable.
_COMMON_NAMES: Final = frozenset({"localhost", "obt-agent", "ollama", "linux", "root", "debian", "ubuntu"})
_SHORTEST_NAME: Final = 3


class Pseudonymizer:
    """Gives what is private a stand-in, the same one wherever it comes in a bundle.

    Args:
        names: what is private here (host names, people), and its stand-in. Words that stand in every log, and
            names of less than three characters, stay.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        # By the name in lower case; host names ignore case.
        self._names = {
            name.lower(): stand_in
            for name, stand_in in names.items()
            if len(name) >= _SHORTEST_NAME and name.lower() not in _COMMON_NAMES and not _address(name)
        }
        # "box" must not cut "box.example.org" in two.
        longest_first = sorted(self._names, key=len, reverse=True)
        either = "|".join(map(re.escape, longest_first))
        self._known = re.compile(rf"(?<![\w-])(?:{either})(?![\w-])", re.IGNORECASE) if either else None
        # In the order in which they came, so that one address has one number throughout the bundle.
        self._addresses: dict[str, str] = {}

    def replace(self, text: str) -> str:
        """Return the text with stand-ins for private names, owners of homes, and addresses but loopback."""
        if self._known:
            text = self._known.sub(lambda found: self._names[found[0].lower()], text)
        text = _HOMES.sub(r"\1<user>", text)
        return _IPV6.sub(self._numbered, _IPV4.sub(self._numbered, text))

    def _numbered(self, found: re.Match[str]) -> str:
        address = _address(found[0].rstrip(":."))
        if address is None or address.is_loopback or address.is_unspecified:
            return found[0]
        rest = found[0][len(found[0].rstrip(":.")) :]
        return self._addresses.setdefault(str(address), f"<address-{len(self._addresses) + 1}>") + rest


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without secrets: known ones, whatever looks like one, keys in PEM, serial numbers."""
    # A secret may contain another one.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return masked_text(_SERIALS.sub(rf"\1{MASK}", _KEYS.sub(MASK, text)))


def write(
    path: Path, texts: Mapping[str, str], secrets: Iterable[str] = (), names: Mapping[str, str] | None = None
) -> None:
    """Write the bundle, mode 0600; a file that is there already is not replaced.

    Args:
        path: of the ``.tar.gz``.
        texts: name and content of each file.
        secrets: what is known to be secret and must not be in it, on top of what looks like it.
        names: what is private, and its stand-in; see ``Pseudonymizer``.

    Raises:
        OSError: it cannot be written, or exists.
    """
    known, pseudonymizer = tuple(secrets), Pseudonymizer(names or {})
    # All files in one folder, so that unpacking does not litter.
    folder = path.name.removesuffix(".tar.gz")
    with (
        open(path, "xb", opener=_private) as file,
        # Without a name in the header: it would be the path on this machine.
        gzip.GzipFile(fileobj=file, mode="wb", filename="") as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name, text in texts.items():
            _add(archive, f"{folder}/{name}", pseudonymizer.replace(redacted(text, known)))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | descriptors.NO_LINK, 0o600)


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), 0o644, int(time.time())
    archive.addfile(entry, io.BytesIO(data))
