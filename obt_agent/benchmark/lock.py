"""One benchmark at a time for each Ollama, across processes and users: two would measure each other.

A file for each Ollama's address, locked with ``flock``: the kernel drops the lock when its holder dies,
however that happens. The file says who holds it. It lies in a folder that every user may write to
and which a reboot empties. A daemon under systemd with ``ProtectSystem=strict`` needs ``ReadWritePaths=`` of
that folder; ``PrivateTmp=`` does not matter, since the folder is not under /tmp.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shlex
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import msgspec

from obt_agent.errors import Busy, ConfigError

DEFAULT_DIR: Final = Path("/run/lock/obt-agent")
"""World-writable with the sticky bit."""

_FILE_MODE: Final = 0o666
_DIR_MODE: Final = 0o1777
_MOST_BYTES: Final = 4096
_MOST_COMMAND_CHARS: Final = 200
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104 - names, not bound


class LockHolder(msgspec.Struct, frozen=True):
    """Who holds a lock: process, user, command line, and since when (Unix seconds)."""

    pid: int
    user: str
    command: str
    since: float

    def __str__(self) -> str:
        minutes = max(time.time() - self.since, 0) / 60
        return f"process {self.pid} of {self.user} ({self.command}), for {minutes:.0f} min"


class BenchmarkLock:
    """The lock of one Ollama; a context manager, or ``acquired`` to wait for it.

    Args:
        ollama_url: the Ollama; all names of this machine's loopback are one.
        directory: where locks lie, the same for all users.
        who: what holds it, for others to read; the command line when omitted.

    Raises (on entering):
        Busy: another process holds it; the message says who.
        ConfigError: the folder or the file cannot be used.
    """

    def __init__(self, ollama_url: str, directory: Path = DEFAULT_DIR, *, who: str | None = None) -> None:
        self._who = who
        self._path = directory / f"ollama-{_key(ollama_url)}.lock"
        self._fd: int | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock now, or say who holds it."""
        fd = self._open()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _read_holder(fd)
            os.close(fd)
            raise _busy(holder) from error
        except BaseException:
            os.close(fd)
            raise
        _write_holder(fd, self._who)
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):
                os.ftruncate(fd, 0)
            os.close(fd)

    def _open(self) -> int:
        """The lock file, made if need be; never a link, never another kind of file.

        Opened first without O_CREAT: kernels refuse O_CREAT on another user's file in a sticky folder.
        """
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            _make_dir(self._path.parent)
            try:
                fd = os.open(self._path, flags)
            except FileNotFoundError:
                fd = self._create(flags)
        except OSError as error:
            raise ConfigError(
                f"the benchmark lock {self._path} cannot be opened ({error.strerror}); "
                "set benchmark.lock_dir to a folder that every user of this Ollama may write to"
            ) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ConfigError(f"{self._path} is not a plain file; remove it")
        return fd

    def _create(self, flags: int) -> int:
        try:
            fd = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        except FileExistsError:
            return os.open(self._path, flags)
        os.fchmod(fd, _FILE_MODE)
        return fd


@asynccontextmanager
async def acquired(
    lock: BenchmarkLock, *, poll_s: float = 1.0, on_wait: Callable[[Busy], None] | None = None
) -> AsyncIterator[None]:
    """Hold the lock within the context; wait for it while another process has it.

    ``on_wait`` is called at each look that finds it taken, with the error that says who has it.

    Raises:
        ConfigError: the folder or the file cannot be used.
    """
    while True:
        try:
            lock.acquire()
        except Busy as busy:
            if on_wait is not None:
                on_wait(busy)
            await asyncio.sleep(poll_s)
        else:
            break
    try:
        yield
    finally:
        lock.release()


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


def _read_holder(fd: int) -> LockHolder | None:
    """What the file says. Any user may have written it, so it is bounded and made printable."""
    try:
        found = msgspec.json.decode(os.pread(fd, _MOST_BYTES, 0), type=LockHolder)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return msgspec.structs.replace(found, user=_printable(found.user), command=_printable(found.command))


def _printable(text: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown[:_MOST_COMMAND_CHARS]


def _write_holder(fd: int, who: str | None) -> None:
    command = _command() if who is None else _printable(who)
    holder = LockHolder(pid=os.getpid(), user=_user(), command=command, since=time.time())
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, msgspec.json.encode(holder), 0)


def _command() -> str:
    """The program and its command, without arguments that might name anything private."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:2]]
    return _printable(shlex.join(word for word in words if word))


def _user() -> str:
    import getpass  # noqa: PLC0415 - brings the terminal's modules: only for whoever benchmarks

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
