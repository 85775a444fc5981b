"""Write single keys into a configuration file and leave everything else in it as it is, comments too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from obt_agent.config import document, file
from obt_agent.config.document import Mapping, MappingEntry, Scalar
from obt_agent.errors import ConfigError
from obt_agent.system.replace_file import replace_file

# What is written without quotes; anything else goes in JSON's, which are YAML's too.
_ADDRESS: Final = re.compile(r"[a-z]+://[\w./:\[\]-]*", re.ASCII)


class CannotEdit(ConfigError):
    """The file cannot be changed safely; the message says what to write by hand."""


def set_keys(path: Path, values: dict[str, str]) -> None:
    """Set keys such as ``server.url`` to texts.

    A file that is not there is made, readable by all, for it holds no secret.

    Raises:
        CannotEdit: the file is wrong, unusual in its layout, or cannot be written. It is as it was.
    """
    try:
        data = file.read_bytes(path, document.MAX_BYTES)[0] if path.exists() else b""
        for key, value in values.items():
            data = with_key(data, key, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.resolve()
        replace_file(whole, data, mode=0o644, like=whole.stat() if whole.exists() else None)
    except OSError as error:
        raise _by_hand(path, values, f"cannot be written: {error.strerror or error}") from error
    except document.WrongDocument as error:
        raise _by_hand(path, values, f"was not changed: {error}") from error


def with_key(data: bytes, key: str, value: str) -> bytes:
    """The document with one key of a section set.

    Raises:
        WrongDocument: it cannot be read, or the result would say something else than is wanted.
    """
    before = document.read(data)
    lines = data.decode("utf-8-sig").splitlines()
    name, _, last = key.partition(".")
    line = _line(last, value)
    section = _entry(before, name)
    if section is None:
        lines += [f"{name}:", f"  {line}"]
    elif isinstance(section.value, Mapping) and section.value.entries:
        _change_section(lines, section.value, last, line)
    else:
        lines.insert(section.line, f"  {line}")
    # Lines are put in without understanding YAML's every form: what came of it is read again and compared.
    after = ("\n".join(lines) + "\n").encode()
    _verify(before, document.read(after), key, value)
    return after


def _line(key: str, value: str) -> str:
    return f"{key}: {value if _ADDRESS.fullmatch(value) else json.dumps(value, ensure_ascii=False)}"


def _change_section(lines: list[str], section: Mapping, key: str, line: str) -> None:
    # A new key takes the indentation of its neighbours, whatever that is.
    first = section.entries[0].line - 1
    indent = " " * (len(lines[first]) - len(lines[first].lstrip()))
    if entry := _entry(section, key):
        lines[entry.line - 1] = indent + line
    else:
        lines.insert(first, indent + line)


def _entry(mapping: Mapping, key: str) -> MappingEntry | None:
    return next((entry for entry in mapping.entries if entry.key == key), None)


def _verify(before: Mapping, after: Mapping, key: str, value: str) -> None:
    old, new = dict(_flat(before, "")), dict(_flat(after, ""))
    written = new.pop(key, None)
    for known in (old, new):  # an empty section holds nothing that could be lost
        known.pop(key, None)
        known.pop(key.partition(".")[0], None)
    if written != value or old != new:
        raise document.WrongDocument(0, "its layout is unusual")


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


def _by_hand(path: Path, values: dict[str, str], why: str) -> CannotEdit:
    lines = [
        f"{key.partition('.')[0]}:\n  {_line(key.partition('.')[2], text)}" for key, text in values.items()
    ]
    return CannotEdit(f"{path} {why}. Write this into it:\n" + "\n".join(lines))
