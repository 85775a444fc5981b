"""The configuration file: found, opened safely, and turned into settings or problems, each with its line."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from obt_agent.config import document
from obt_agent.config.document import MappingEntry, Node, Scalar, SequenceNode
from obt_agent.config.keys import AGENT, Key, Scheme
from obt_agent.config.origins import Origin, Setting, SourceReading
from obt_agent.config.problems import ConfigProblem, shown
from obt_agent.config.values import BOOLEANS, WrongValue, from_items, from_text
from obt_agent.spelling import nearest
from obt_agent.system import descriptors, owners
from obt_agent.system.places import has_system_configuration

SYSTEM_FILE: Final = AGENT.system_file


def find(flag: str | None, environ: Mapping[str, str], scheme: Scheme = AGENT) -> tuple[Path | None, bool]:
    """The file to read, and whether somebody asked for it by name.

    In order: the flag, ``$OBT_AGENT_CONFIG``, ``~/.config/obt-agent/agent.yaml``, the system's; of another
    scheme, its own.
    """
    named = flag or environ.get(scheme.file_variable)
    if named:
        return Path(named).expanduser().absolute(), True
    places = (user_file(environ, scheme), *([scheme.system_file] if has_system_configuration() else []))
    return next((path for path in places if _may_exist(path)), None), False


def user_file(environ: Mapping[str, str], scheme: Scheme = AGENT) -> Path:
    """Where a user's own configuration lies."""
    base = environ.get("XDG_CONFIG_HOME") or ""
    if base.startswith("/"):
        return Path(base) / scheme.file_name
    try:
        return Path(environ.get("HOME") or "~").expanduser() / ".config" / scheme.file_name
    except RuntimeError:
        # A user without a home, as containers have: such a one has no file but the system's.
        return scheme.system_file


def _may_exist(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # a folder that may not be searched: opening the file says so
        return True
    return True


def read_bytes(path: Path, limit: int) -> tuple[bytes, os.stat_result]:
    """At most ``limit`` + 1 bytes of a regular file. Opening never waits, as it would for a pipe.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    descriptor = os.open(path, descriptors.READ)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            # A device may give bytes without end.
            raise OSError(0, "it is not a regular file")
        # One more than is allowed, so that the caller sees that there are too many.
        return file.read(limit + 1), status


def read(path: Path, scheme: Scheme = AGENT) -> SourceReading:
    """The file's settings and problems. An unreadable file is one problem."""
    try:
        data, status = read_bytes(path, document.MAX_BYTES)
    except OSError as error:
        return SourceReading(problems=(ConfigProblem(where=str(path), key=None, text=_unreadable(error)),))
    reader = _Reader(path, scheme)
    reader.run(data)
    notices = _permissions(path, status)
    return SourceReading(tuple(reader.settings), tuple(reader.problems), notices)


def _unreadable(error: OSError) -> str:
    words = {
        FileNotFoundError: "there is no such file; name another with --config, or write this one",
        PermissionError: "may not be read by this user; run as its owner, or name another file with --config",
        IsADirectoryError: "is a folder, expected a YAML file",
    }
    return words.get(type(error), f"cannot be read: {error.strerror or error}")


def _permissions(path: Path, status: os.stat_result) -> tuple[str, ...]:
    if owners.granted(status, owners.WRITABLE):
        return (
            f"{path} can be changed by every user of this machine, and with it the policy: chmod o-w {path}",
        )
    return ()


@dataclass
class _Reader:
    path: Path
    scheme: Scheme
    settings: list[Setting] = field(default_factory=list)
    # All of them: whoever mends a file wants to do so once.
    problems: list[ConfigProblem] = field(default_factory=list)
    # Where each key and section was found first, to name it when it comes again.
    lines: dict[str, int] = field(default_factory=dict)

    def run(self, data: bytes) -> None:
        try:
            root = document.read(data)
        except document.WrongDocument as error:
            self._problem(error.line, None, str(error))
            return
        self._section("", root)

    def _section(self, prefix: str, section: document.Mapping) -> None:
        for entry in section.entries:
            name = prefix + entry.key
            if first := self.lines.get(name):
                self._problem(entry.line, name, f"is set a second time; the first is in line {first}")
                continue
            self.lines[name] = entry.line
            self._entry(name, entry)

    def _entry(self, name: str, entry: MappingEntry) -> None:
        if name in self.scheme.sections:
            self._subsection(name, entry)
        elif key := self.scheme.keys.get(name):
            self._setting(key, entry)
        else:
            self._problem(entry.line, name, unknown(name, self.scheme))

    def _subsection(self, name: str, entry: MappingEntry) -> None:
        value = entry.value
        if isinstance(value, document.Mapping):
            self._section(name + ".", value)
        elif not (isinstance(value, Scalar) and value.empty):
            keys = ", ".join(_children(name, self.scheme))
            self._problem(entry.line, name, f"found {_kind(value)}, expected a section with keys: {keys}")

    def _setting(self, key: Key, entry: MappingEntry) -> None:
        line = entry.value.line or entry.line
        try:
            value = _value(key, entry.value)
        except WrongValue as error:
            self._problem(line, key.name, str(error))
            return
        self.settings.append(Setting(key, value, Origin("file", f"{self.path}:{entry.line}")))

    def _problem(self, line: int, key: str | None, text: str) -> None:
        where = f"{self.path}:{line}" if line else str(self.path)
        self.problems.append(ConfigProblem(where=where, key=shown_key(key), text=text))


def shown_key(key: str | None) -> str | None:
    """Return a key that somebody made up so that it is safe to print."""
    return key if key is None or (key.isprintable() and len(key) < 80) else shown(key)  # noqa: PLR2004 - a line's width


def unknown(name: str, scheme: Scheme = AGENT) -> str:
    """Return the message for a key that does not exist."""
    if name in scheme.secret_keys:
        return scheme.keep_apart
    section, _, last = name.rpartition(".")
    known = (*scheme.keys, *scheme.sections)
    # A slip of the pen is looked for in the same section first, then the right key in a wrong section.
    beside = {one.rpartition(".")[2]: one for one in known if one.rpartition(".")[0] == section}
    if close := nearest(last, beside, full=beside):
        return "unknown key" + close
    elsewhere = [key for key in scheme.keys if key.rpartition(".")[2] == last]
    if elsewhere:
        return "unknown key; did you mean " + " or ".join(elsewhere[:2]) + "?"
    return "unknown key" + ("" if section in scheme.sections else nearest(name, known))


def _children(section: str, scheme: Scheme) -> Iterator[str]:
    depth = section.count(".") + 1
    under = (name for name in scheme.keys if name.startswith(section + "."))
    return iter(dict.fromkeys(name.split(".")[depth] for name in under))


def _value(key: Key, node: Node) -> object:
    if isinstance(node, SequenceNode):
        return from_items(key, [_item(key, item) for item in node.items])
    if not isinstance(node, Scalar):
        raise WrongValue(f"found {_kind(node)}, expected {key.expected}")
    if node.empty:
        return _nothing(key)
    if key.kind == "list":
        # Who wrote true meant something else by the key: [true] would be a list of one odd name.
        takes_list = not (node.plain and node.text.lower() in BOOLEANS)
        hint = f"; write [{node.text}]" if takes_list else ""
        raise WrongValue(f"found {_kind(node)}, expected {key.expected}{hint}")
    # "yes" in quotes is a text, in YAML and to whoever wrote it.
    if not node.plain and key.kind in {"bool", "int", "float"}:
        raise WrongValue(f"found the text {shown(node.text)}, expected {key.expected}, without quotes")
    return from_text(key, node.text)


def _item(key: Key, node: Node) -> str:
    if not isinstance(node, Scalar) or node.empty:
        raise WrongValue(f"found {_kind(node)} in the list, expected {key.expected}")
    return node.text


def _nothing(key: Key) -> object:
    if key.optional:
        return None
    raise WrongValue(f"found nothing, expected {key.expected}; leave the key out for its default")


def _kind(node: Node) -> str:
    if isinstance(node, Scalar):
        return "nothing" if node.empty else shown(node.text)
    return "a list" if isinstance(node, SequenceNode) else "a section"
