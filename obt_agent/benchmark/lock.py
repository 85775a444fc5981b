"""One benchmark at a time for each Ollama, across processes and users: two would measure each other.

Each Ollama's address has a file (see ``obt_agent.file_lock``), in a folder that every user may write to and
that a reboot empties. A daemon under systemd with ``ProtectSystem=strict`` needs ``ReadWritePaths=`` of that
folder; ``PrivateTmp=`` does not matter, since the folder is not under /tmp.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from obt_agent.errors import Busy, ConfigError
from obt_agent.file_lock import Locked, LockHolder, command_line, current_holder, lock, write_note
from obt_agent.system import descriptors, owners

# World-writable with the sticky bit.
DEFAULT_DIR: Final = Path("/run/lock/obt-agent")

_FILE_MODE: Final = 0o666
_DIR_MODE: Final = 0o1777
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - names, not bound


class BenchmarkLock:
    """The lock of one Ollama; a context manager.

    Args:
        ollama_url: the Ollama; all names of this machine's loopback are one.
        directory: where locks lie, the same for all users.
        who: what holds it, for others to read; the command line when omitted.

    Raises (on entering):
        Busy: another process holds it; the message says who.
        ConfigError: the folder or the file cannot be used.
    """

    def __init__(self, ollama_url: str, directory: Path = DEFAULT_DIR, *, who: str | None = None) -> None:
        self.path = directory / f"ollama-{_key(ollama_url)}.lock"
        # Only the program and its command: further arguments might name something private, such as a prompt,
        # and every user can read the file.
        self._who = command_line(1) if who is None else who
        # The locked file; None while the lock is not held.
        self._fd: int | None = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock now. Raise ``Busy`` when another process holds it."""
        fd = self._open()
        try:
            lock(fd)
        except Locked as locked:
            os.close(fd)
            raise _busy(locked.holder) from locked
        except BaseException:
            os.close(fd)
            raise
        with suppress(OSError):  # a full disk costs the holder's name, not the benchmark
            write_note(fd, command=self._who, user=owners.user_name())
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; do nothing when it is not held."""
        fd, self._fd = self._fd, None
        if fd is not None:
            # The note goes first: between the two steps a reader finds the lock held by nobody named.
            with suppress(OSError):
                os.ftruncate(fd, 0)
            os.close(fd)

    def other_holder(self) -> str | None:
        """Return which other process holds the lock, in words; None when none does, or it cannot be told."""
        if self._fd is not None:
            return None
        try:
            fd = os.open(self.path, descriptors.READ | descriptors.NO_LINK)
        except OSError:
            return None
        try:
            # A holder's note goes with its lock: without one the lock need not be tried, which for a moment
            # would keep out whoever wants it.
            holder = current_holder(fd) if os.fstat(fd).st_size else None
        finally:
            os.close(fd)
        return None if holder is None else str(holder)

    def _open(self) -> int:
        """Return the lock file, made if need be; never a link, never another kind of file."""
        flags = descriptors.READ_AND_WRITE | descriptors.NO_LINK
        try:
            _make_dir(self.path.parent)
            try:
                # Without O_CREAT first: kernels refuse O_CREAT on another user's file in a sticky folder.
                fd = os.open(self.path, flags)
            except FileNotFoundError:
                fd = self._create(flags)
        except OSError as error:
            raise ConfigError(
                f"the benchmark lock {self.path} cannot be opened ({error.strerror}); "
                "set benchmark.lock_dir to a folder that every user of this Ollama may write to"
            ) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ConfigError(f"{self.path} is not a plain file; remove it")
        return fd

    def _create(self, flags: int) -> int:
        try:
            fd = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        except FileExistsError:  # another process made it meanwhile
            return os.open(self.path, flags)
        owners.set_mode(fd, _FILE_MODE)  # the umask took bits away
        return fd


def _key(url: str) -> str:
    """A file name for an address; loopback has many names and is one place."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    host = (parts.hostname or "localhost").lower()
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 80)
    name = "loopback" if host in _LOOPBACK else re.sub(r"[^a-z0-9.-]", "_", host)
    return f"{name}-{port}"


def _make_dir(path: Path) -> None:
    if path.is_symlink():
        raise ConfigError(
            f"{path} is a link; the folder of locks must be a folder of its own: remove the link."
        )
    if path.is_dir():
        return
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(_DIR_MODE)


def _busy(holder: LockHolder | None) -> Busy:
    who = str(holder) if holder else "another process"
    return Busy(
        f"a benchmark of this Ollama is already running: {who}. Wait for it, or stop it.",
        retry_after_ms=30_000,
        pid=holder.pid if holder else None,
    )
