"""Write ``server.url`` into a configuration file and leave everything else in it as it is, comments too."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from obt_agent.config import document, file
from obt_agent.config.document import Entry, Mapping, Scalar
from obt_agent.errors import ConfigError


class CannotEdit(ConfigError):
    """The file cannot be changed safely; the message says what to write by hand."""


def set_server_url(path: Path, url: str) -> None:
    """Set the key in the file, which is made (readable by all, for it holds no secret) where there is none.

    Raises:
        CannotEdit: the file is wrong, unusual in its layout, or cannot be written. It is as it was.
    """
    try:
        before = file.read_bytes(path, document.MAX_BYTES)[0] if path.exists() else b""
        after = with_server_url(before, url)
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path.resolve(), after)
    except OSError as error:
        raise _by_hand(path, url, f"cannot be written: {error.strerror or error}") from error
    except document.WrongDocument as error:
        raise _by_hand(path, url, f"was not changed: {error}") from error


def with_server_url(data: bytes, url: str) -> bytes:
    """The document with ``server.url`` set.

    Raises:
        WrongDocument: it cannot be read, or the result would say something else than is wanted.
    """
    before = document.read(data)
    lines = data.decode("utf-8-sig").splitlines()
    section = _entry(before, "server")
    if section is None:
        lines += ["server:", f"  url: {url}"]
    elif isinstance(section.value, Mapping) and section.value.entries:
        _change_section(lines, section.value, url)
    else:
        lines.insert(section.line, f"  url: {url}")
    after = ("\n".join(lines) + "\n").encode()
    _verify(before, document.read(after), url)
    return after


def _change_section(lines: list[str], section: Mapping, url: str) -> None:
    first = section.entries[0].line - 1
    indent = " " * (len(lines[first]) - len(lines[first].lstrip()))
    if entry := _entry(section, "url"):
        lines[entry.line - 1] = f"{indent}url: {url}"
    else:
        lines.insert(first, f"{indent}url: {url}")


def _entry(mapping: Mapping, key: str) -> Entry | None:
    return next((entry for entry in mapping.entries if entry.key == key), None)


def _verify(before: Mapping, after: Mapping, url: str) -> None:
    old, new = dict(_flat(before, "")), dict(_flat(after, ""))
    if new.pop("server.url", None) != url or _meaning(old) != _meaning(new):
        raise document.WrongDocument(0, "its layout is unusual")


def _meaning(values: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if key not in {"server", "server.url"}}


def _flat(node: document.Node, name: str) -> list[tuple[str, object]]:
    if isinstance(node, Mapping):
        return [
            pair
            for entry in node.entries
            for pair in _flat(entry.value, f"{name}.{entry.key}" if name else entry.key)
        ]
    if isinstance(node, Scalar):
        return [(name, node.text)]
    return [(name, [_flat(item, "") for item in node.items])]


def _by_hand(path: Path, url: str, why: str) -> CannotEdit:
    return CannotEdit(f"{path} {why}. Write this into it:\nserver:\n  url: {url}")


def _replace(path: Path, data: bytes) -> None:
    """As a whole, with the owner and mode that it had."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as new:
            if path.exists():
                status = path.stat()
                os.fchown(descriptor, status.st_uid, status.st_gid)
                os.fchmod(descriptor, status.st_mode & 0o7777)
            new.write(data)
            new.flush()
            os.fsync(descriptor)
        temporary.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
