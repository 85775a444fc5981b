"""Write a masked snapshot of this machine, which replays in tests and can be sent in.

Everything is read once through a root that takes note of what is read; then just those files are written,
masked. Of processes, Ollama's alone are kept.
"""

from __future__ import annotations

import errno
import os
import platform
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import msgspec

from obt_agent.hardware.field_reader import optional
from obt_agent.hardware.gpu.registry import VENDORS
from obt_agent.hardware.host.linux import dmi
from obt_agent.hardware.host.linux.system import ARCH_FILE
from obt_agent.hardware.provider import GpuProvider
from obt_agent.hardware.read_once import MachineReading, read_once
from obt_agent.hardware.snapshot.masking import Masker, people, udev_record
from obt_agent.hardware.snapshot.root import FileSystemSize, Manifest, Root

_PROCESS = re.compile(r"/proc/(\d+)(/|$)")  # one system: snapshots are of Linux
_INTERFACE = re.compile(r"/sys/class/net/([^/]+)")  # one system: as above
# Its control group tells a container from a machine.
_INIT = 1
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, None)
# Of a process's open files only those of GPUs are kept: the others' names are its user's.
_DEVICES = "/dev/dri/"


class RecordingRoot(Root):
    """A root that takes note of every path that is asked for."""

    recorded = True

    def __init__(self, inner: Root) -> None:
        self._inner = inner
        self.real = inner.real
        # What was read, as it was asked for: files, folders and links alike.
        self.paths: set[str] = set()
        self.sizes: dict[str, FileSystemSize] = {}
        # What devices answered, in hexadecimal, by node and question, and which nodes refused.
        self.answers: dict[str, str] = {}
        self.refusals: dict[str, str] = {}

    def ask(self, node: str, name: str, question: Callable[[int], bytes]) -> bytes:
        """As the inner root. A device's node is not noted among the paths, for nobody may read from it."""
        try:
            answer = self._inner.ask(node, name, question)
        except OSError as error:
            if error.errno not in _NOTHING_THERE:
                self.refusals[node] = errno.errorcode[error.errno]
            raise
        self.answers[f"{node} {name}"] = answer.hex()
        return answer

    def open(self, path: str) -> int:
        """As the inner root."""
        self.paths.add(path)
        return self._inner.open(path)

    def names(self, path: str) -> list[str]:
        """As the inner root."""
        self.paths.add(path)
        return self._inner.names(path)

    def link(self, path: str) -> str:
        """As the inner root."""
        self.paths.add(path)
        return self._inner.link(path)

    def resolve(self, path: str) -> str:
        """As the inner root."""
        self.paths.add(path)
        return self._inner.resolve(path)

    def exists(self, path: str) -> bool:
        """As the inner root."""
        self.paths.add(path)
        return self._inner.exists(path)

    def library_answers(self, file: str) -> str | None:
        """As the inner root."""
        return self._inner.library_answers(file)

    def size(self, path: str) -> FileSystemSize:
        """As the inner root."""
        self.sizes[path] = self._inner.size(path)
        return self.sizes[path]


def capture(
    folder: Path, root: Root, providers: Sequence[GpuProvider], recorder: RecordingRoot, *, source: str
) -> MachineReading:
    """Write the snapshot; ``providers`` read through ``recorder``, which records ``root``.

    Returns:
        What was read while capturing, unmasked.

    Raises:
        OSError: the folder is there already, or cannot be written.
    """
    folder.mkdir(parents=True)
    reading = read_once(recorder, providers)
    kept = {process.pid for process in reading.sample.ollama} | {_INIT}
    paths = sorted(path for path in recorder.paths if _may_keep(path, kept))
    masker = Masker(people=people(), devices=_device_ids(root, paths), interfaces=_interfaces(paths))
    writer = _Writer(folder, root, masker)
    for path in paths:
        writer.add(path)
    # In place of firmware's table, which holds serial numbers.
    writer.put(dmi.UDEV, udev_record(reading.inventory.memory.modules))
    # Kernels before 6.1 lack this file, and a replay cannot ask this machine.
    writer.put(ARCH_FILE, (reading.inventory.host.arch or platform.machine()).encode())
    for vendor in VENDORS:
        if vendor.library_answers is not None:
            writer.library(vendor.answers_file, vendor.library_answers(reading.inventory, reading.sample))
    writer.finish(recorder, source)
    return reading


def _may_keep(path: str, pids: set[int]) -> bool:
    process = _PROCESS.match(path)
    return path not in ("/proc", dmi.TABLE, dmi.UDEV) and (process is None or int(process[1]) in pids)


def _device_ids(root: Root, paths: list[str]) -> frozenset[str]:
    texts = (optional(partial(root.text, path)) for path in paths if path.endswith("/device"))
    return frozenset(text.removeprefix("0x").lower() for text in texts if text)


def _interfaces(paths: list[str]) -> frozenset[str]:
    return frozenset(found[1] for path in paths if (found := _INTERFACE.match(path)))


class _Writer:
    """Puts files, links and errors into a snapshot's folder."""

    def __init__(self, folder: Path, root: Root, masker: Masker) -> None:
        self._folder = folder
        self._root = root
        self._masker = masker
        # For the manifest, masked: links by path, and by path the error that reading it gave.
        self._links: dict[str, str] = {}
        self._errors: dict[str, str] = {}

    def add(self, path: str) -> None:
        """Take up what is at a path: its links, and its content or its error."""
        self._add_links(path)
        resolved = self._root.resolve(path)
        try:
            content = self._root.data(resolved)
        except IsADirectoryError:
            self._place(resolved).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._add_error(resolved, error)
        else:
            self.put(resolved, self._masker.file(resolved, content))

    def put(self, path: str, content: bytes) -> None:
        """Write a file, if there is anything to write."""
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)

    def library(self, name: str, answers: str | None) -> None:
        """Write what a vendor's library answered, where there is one."""
        if answers is not None:
            (self._folder / name).write_text(self._masker.text(answers))

    def finish(self, recorder: RecordingRoot, source: str) -> None:
        """Write the manifest."""
        manifest = Manifest(
            origin="captured",
            source=source,
            errors=self._errors | recorder.refusals,
            links=self._links,
            sizes={self._masker.text(path): size for path, size in recorder.sizes.items()},
            answers=recorder.answers,
        )
        document = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        (self._folder / "manifest.json").write_bytes(document + b"\n")

    def _place(self, path: str) -> Path:
        return self._folder / "tree" / self._masker.text(path).lstrip("/")

    def _add_links(self, path: str) -> None:
        parts = PurePosixPath(path).parts
        for end in range(2, len(parts) + 1):
            head = str(PurePosixPath(*parts[:end]))
            target = optional(partial(self._root.link, head))
            if target is not None and ("/fd/" not in head or target.startswith(_DEVICES)):
                self._links[self._masker.text(head)] = self._masker.text(target)
                self._add_links(
                    os.path.normpath(str(PurePosixPath(head).parent.joinpath(target, *parts[end:])))
                )
                return

    def _add_error(self, path: str, error: OSError) -> None:
        """What is not there needs no note."""
        if error.errno not in _NOTHING_THERE and "/fd/" not in path:
            self._errors[self._masker.text(path)] = errno.errorcode[error.errno]
