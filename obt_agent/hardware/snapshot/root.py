"""Where files are read from: this machine's ``/``, or a snapshot of another machine.

A snapshot is a folder with ``tree/`` (files as they were) and ``manifest.json``, which holds what plain files
cannot: errors that reading gave, links, sizes of file systems, and where the snapshot came from.
"""
# ruff: noqa: PTH110, PTH115, PTH118, PTH120, PTH208 -- paths of /sys are strings; pathlib is slow

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

import msgspec

from obt_agent.hardware.field_reader import Unreadable, optional
from obt_agent.system import descriptors

# No file that is read is larger; what claims to be is cut.
_MOST_BYTES = 1 << 20
_NUMBERS = re.compile(r"([0-9]+)")


class FileSystemSize(msgspec.Struct, frozen=True, kw_only=True):
    """A file system's size, and what an unprivileged user may still fill."""

    total_bytes: int
    free_bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a snapshot holds beside files.

    ``origin`` is "captured", "rebuilt" (from the public ``source``) or "synthetic". ``errors`` maps paths to
    errno names (EACCES ...), for opening, listing and reading alike. ``links`` maps links to their targets as
    they stood. ``answers`` holds what devices said when asked, in hexadecimal, by "node question".
    """

    origin: str
    source: str
    notes: str = ""
    machine: str = ""
    errors: dict[str, str] = {}
    links: dict[str, str] = {}
    sizes: dict[str, FileSystemSize] = {}
    answers: dict[str, str] = {}


class Root:
    """This machine's files. Paths are absolute; everything raises OSError as the kernel does."""

    real = True
    recorded = False
    """Whether what is read through it becomes a snapshot, so that everything must be read through it."""

    def open(self, path: str) -> int:
        """A descriptor for reading."""
        # Without waiting: a path may turn out to be a FIFO or a device.
        return os.open(path, descriptors.READ)

    def data(self, path: str, limit: int = _MOST_BYTES) -> bytes:
        """A file's first ``limit`` bytes."""
        descriptor = self.open(path)
        try:
            return _read(descriptor, limit)
        finally:
            os.close(descriptor)

    def text(self, path: str, limit: int = _MOST_BYTES) -> str:
        """A file's text, stripped of space and NUL; what is not UTF-8 is replaced."""
        return self.data(path, limit).decode(errors="replace").strip(" \t\r\n\0")

    def integer(self, path: str) -> int:
        """A file that holds one integer, decimal or with 0x. Raises ValueError too."""
        return int(self.text(path, 64), 0)

    def names(self, path: str) -> list[str]:
        """A folder's entries, sorted as a person would: card2 before card10."""
        return sorted(os.listdir(path), key=_by_numbers)

    def below(self, folder: str, prefix: str = "") -> list[str]:
        """Return the paths of a folder's entries whose names begin so; none where it cannot be read."""
        names = optional(partial(self.names, folder)) or []
        return [f"{folder}/{name}" for name in names if name.startswith(prefix)]

    def known_text(self, path: str) -> str:
        """Return a file's text; "" where it cannot be read, for a file that need not be there."""
        return optional(partial(self.text, path)) or ""

    def link(self, path: str) -> str:
        """A link's target as it stands."""
        return os.readlink(path)

    def resolve(self, path: str) -> str:
        """The path with every link followed."""
        return os.path.realpath(path)

    def exists(self, path: str) -> bool:
        """Whether there is such a file, folder or link that leads to one."""
        return os.path.exists(path)

    def size(self, path: str) -> FileSystemSize:
        """The file system that the path lies on."""
        usage = shutil.disk_usage(path)
        return FileSystemSize(total_bytes=usage.total, free_bytes=usage.free)

    def ask(self, node: str, name: str, question: Callable[[int], bytes]) -> bytes:  # noqa: ARG002 -- snapshots go by the name
        """What a device answers to a question that is put to its open descriptor; ``name`` tells which."""
        descriptor = self.open(node)
        try:
            return question(descriptor)
        finally:
            os.close(descriptor)

    def library_answers(self, file: str) -> str | None:  # noqa: ARG002 -- a running machine's library is asked itself
        """What a vendor's library answered when a snapshot was taken; None where that is not known."""
        return None


class SnapshotRoot(Root):
    """A snapshot's files. Links out of the tree are not followed."""

    real = False

    def __init__(self, folder: Path) -> None:
        self.manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
        self._folder = folder
        self._tree = folder / "tree"
        # Every path that was opened or listed, in order, for tests of what is not touched.
        self.opened: list[str] = []

    def resolve(self, path: str) -> str:
        """The path with every link of the manifest followed."""
        # The kernel's own limit: links of a snapshot may lead in a circle.
        for _ in range(40):
            followed = self._follow_first(path)
            if followed == path:
                return path
            path = followed
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    def _follow_first(self, path: str) -> str:
        parts = PurePosixPath(path).parts
        for end in range(2, len(parts) + 1):
            head = str(PurePosixPath(*parts[:end]))
            target = self.manifest.links.get(head)
            if target is not None:
                joined = os.path.join(os.path.dirname(head), target, *parts[end:])
                return os.path.normpath(joined)
        return os.path.normpath(path)

    def _place(self, path: str) -> Path:
        resolved = self.resolve(path)
        self.opened.append(resolved)
        for named in (path, resolved):
            name = self.manifest.errors.get(named)
            if name is not None:
                number = getattr(errno, name)
                raise OSError(number, os.strerror(number), named)
        return self._tree / resolved.lstrip("/")

    def open(self, path: str) -> int:
        """A descriptor for reading."""
        return super().open(str(self._place(path)))

    def names(self, path: str) -> list[str]:
        """A folder's entries, sorted as a person would: card2 before card10."""
        place = self._place(path)
        inside = self.resolve(path).rstrip("/") + "/"
        # Links and files that gave errors are in the manifest alone.
        linked = {
            name.removeprefix(inside).split("/", 1)[0]
            for name in (*self.manifest.links, *self.manifest.errors)
            if name.startswith(inside)
        }
        listed = os.listdir(place) if place.is_dir() or not linked else []
        return sorted(linked.union(listed), key=_by_numbers)

    def link(self, path: str) -> str:
        """A link's target as the manifest has it."""
        parent, _, name = path.rstrip("/").rpartition("/")
        target = self.manifest.links.get(f"{self.resolve(parent or '/').rstrip('/')}/{name}")
        if target is None:
            number = errno.EINVAL if self.exists(path) else errno.ENOENT
            raise OSError(number, os.strerror(number), path)
        return target

    def exists(self, path: str) -> bool:
        """Whether the snapshot has it, if only as an error."""
        resolved = self.resolve(path)
        inside = resolved.rstrip("/") + "/"
        return (
            (self._tree / resolved.lstrip("/")).exists()
            or resolved in self.manifest.errors
            or any(name.startswith(inside) for name in self.manifest.links)
        )

    def ask(self, node: str, name: str, question: Callable[[int], bytes]) -> bytes:  # noqa: ARG002 -- nobody is there to be asked
        """The answer that the manifest has."""
        self._place(node)
        answer = self.manifest.answers.get(f"{node} {name}")
        if answer is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), node)
        return bytes.fromhex(answer)

    def library_answers(self, file: str) -> str | None:
        """The answers that lie in the snapshot's folder."""
        place = self._folder / file
        return place.read_text(errors="replace") if place.is_file() else None

    def size(self, path: str) -> FileSystemSize:
        """The size that the manifest has."""
        try:
            return self.manifest.sizes[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None


class CachedFile:
    """A file that is kept open: pread at 0 is answered afresh, in 11 us where opening anew costs 121 us."""

    def __init__(self, root: Root, path: str) -> None:
        self._root = root
        self._path = path
        # -1 while it is not open: before the first reading, and after one that failed.
        self._descriptor = -1
        # Bytes to ask for. It grows to what the file needed, so that the next reading takes one call.
        self._size = 4096

    def text(self) -> str:
        """Return the whole of it now, stripped. Raises OSError."""
        if self._descriptor < 0:
            self._descriptor = self._root.open(self._path)
        try:
            data = descriptors.read_at(self._descriptor, self._size, 0)
            while len(data) == self._size and self._size < _MOST_BYTES:
                self._size *= 4
                data = descriptors.read_at(self._descriptor, self._size, 0)
        except OSError:
            # The device may be gone, and another one of its name be there at the next reading.
            self.close()
            raise
        return data.decode(errors="replace").strip(" \t\r\n\0")

    def close(self) -> None:
        """Close it; the next reading opens it again."""
        # Forgotten before it is closed: a number that is closed twice may be somebody else's by then.
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class FileCache:
    """Hot files by path, let go together."""

    def __init__(self, root: Root) -> None:
        self._root = root
        # By path, opened when they are first read.
        self._files: dict[str, CachedFile] = {}

    def text(self, path: str) -> str:
        """The file's text. Raises OSError."""
        hot = self._files.get(path)
        if hot is None:
            hot = self._files[path] = CachedFile(self._root, path)
        return hot.text()

    def integer(self, path: str) -> int:
        """The file's one integer. Raises OSError and ValueError."""
        return int(self.text(path), 0)

    def word(self, path: str) -> str:
        """The file's text, which must not be empty. Raises Unreadable too."""
        text = self.text(path)
        if not text:
            raise Unreadable("not_reported")
        return text

    def close(self) -> None:
        """Let go of every file."""
        for hot in self._files.values():
            hot.close()
        self._files.clear()


def _by_numbers(name: str) -> list[str | int]:
    """A key for sorting. Words and numbers alternate in it, so that like is compared with like."""
    # Processes: /proc may list a thousand of them.
    if name.isascii() and name.isdecimal():
        return ["", int(name), ""]
    return [int(part) if number % 2 else part for number, part in enumerate(_NUMBERS.split(name))]


def _read(descriptor: int, limit: int) -> bytes:
    parts: list[bytes] = []
    left = limit
    while left > 0:
        part = os.read(descriptor, min(left, 1 << 16))
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def open_root(path: Path) -> Root:
    """The real root for "/", else the snapshot in that folder.

    Raises:
        OSError, msgspec.DecodeError: there is no manifest, or it cannot be read.
    """
    return Root() if path == Path("/") else SnapshotRoot(path)
