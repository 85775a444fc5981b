"""What our code sees of Python when it runs on macOS or Windows, shown to it on Linux.

Nothing is taken from the standard library or from other people's packages: they chose their Linux parts when
they were imported, and need them. Our own modules alone get other views of ``os``, ``signal``, ``socket``,
``time`` and ``sys``, in which the names that the system lacks do not exist; importing a module that it lacks
fails; and files of ``/proc`` and ``/sys`` are not there when one of our functions asks for them. What psutil
reads is read.

This shows that nothing of ours needs what the other system lacks. It does not show what that system does: how
its files, sockets, processes and psutil behave. Of Windows, two modules that Linux lacks are imitated.
"""

from __future__ import annotations

import asyncio
import builtins
import errno
import fcntl
import os
import signal
import socket
import struct
import sys
import sysconfig
import time
from collections.abc import Mapping
from types import FrameType, ModuleType
from typing import Any, Final, NoReturn

OURS: Final = ("obt_agent", "obt_server", "obt_standin", "obt_conformance")
_HIDDEN_FOLDERS: Final = ("/proc/", "/sys/")
_IMITATED: Final = ("msvcrt", "winreg")

# What Linux alone has of what our code could come to name.
_LINUX: Final[dict[str, str]] = {
    "os": """
        MFD_ALLOW_SEALING MFD_CLOEXEC O_PATH O_TMPFILE eventfd memfd_create pidfd_open pipe2 posix_fadvise
        posix_fallocate sched_getaffinity sched_setaffinity splice
    """,
    "socket": "AF_NETLINK AF_PACKET SOCK_CLOEXEC SOCK_NONBLOCK SO_PASSCRED SO_PEERCRED TCP_USER_TIMEOUT",
    "time": "CLOCK_BOOTTIME",
    "signal": "pidfd_send_signal sigtimedwait",
    "fcntl": """
        F_ADD_SEALS F_GET_SEALS F_NOTIFY F_OFD_SETLK F_SEAL_GROW F_SEAL_SEAL F_SEAL_SHRINK F_SEAL_WRITE
        F_SETPIPE_SZ F_SETSIG
    """,
}
_POSIX: Final[dict[str, str]] = {
    "os": """
        O_CLOEXEC O_DIRECTORY O_NOCTTY O_NOFOLLOW O_NONBLOCK chown fchmod fchown fork forkpty fstatvfs getegid
        geteuid getgid getgroups getloadavg getpgid getsid getuid killpg lchown mkfifo mknod nice openpty
        posix_spawn pread preadv pwrite pwritev register_at_fork setegid seteuid setgid setpgid setsid setuid
        statvfs sync sysconf uname wait3 wait4 waitid
    """,
    "socket": "AF_UNIX SCM_RIGHTS SO_REUSEPORT",
    "time": "CLOCK_MONOTONIC clock_gettime clock_gettime_ns tzset",
    "signal": """
        SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGUSR1 SIGUSR2 alarm pause
        pthread_kill pthread_sigmask setitimer sigwait
    """,
}
NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "darwin": _LINUX,
    "win32": {module: f"{words} {_POSIX.get(module, '')}" for module, words in _LINUX.items()},
}
"""By system and module, the names that are not there."""

MODULES: Final = {
    "darwin": frozenset({"uvloop"}),
    "win32": frozenset(
        {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty", "uvloop"}
    ),
}
"""By system, the modules that are not there; uvloop is installed on Linux alone."""


class PartOfModule(ModuleType):
    """A module as our code sees it: all of another one, but some names."""

    def __init__(self, whole: ModuleType, without: frozenset[str], instead: Mapping[str, Any]) -> None:
        super().__init__(whole.__name__)
        self.__dict__.update(_whole=whole, _without=without, _instead=instead)

    def __getattr__(self, name: str) -> Any:
        """The module's own, unless it is not there or another on that system."""
        if name in self._instead:
            return self._instead[name]
        if name in self._without:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on this system")
        return getattr(self._whole, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set it for everybody, as the real module would."""
        setattr(self._whole, name, value)


def _imitated_msvcrt() -> ModuleType:
    """Locks of bytes by Linux's own of an open file (fcntl(2)); of the module our code uses nothing else."""
    module = ModuleType("msvcrt")

    def locking(descriptor: int, mode: int, count: int) -> None:
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        # Linux wants the right to write for it; without it a lock against writers tells as much.
        readable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        kind = fcntl.F_RDLCK if readable and mode == fcntl.F_WRLCK else mode
        try:
            fcntl.fcntl(
                descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, at, count, 0)
            )
        except BlockingIOError as error:
            # What Windows' C library gives for a byte that somebody else has.
            raise PermissionError(errno.EACCES, "another process has locked a portion of the file") from error

    module.__dict__.update(LK_NBLCK=fcntl.F_WRLCK, LK_UNLCK=fcntl.F_UNLCK, locking=locking)
    return module


def _imitated_winreg() -> ModuleType:
    """A registry in which nothing is to be found."""
    module = ModuleType("winreg")

    def open_key(*_: object) -> NoReturn:
        raise FileNotFoundError(errno.ENOENT, "the system cannot find the file specified")

    module.__dict__.update(HKEY_LOCAL_MACHINE=0, OpenKey=open_key, QueryValueEx=open_key)
    return module


def lack(system: str) -> None:
    """Have our code see that system from now on. Our code must not have been imported yet."""
    assert not [name for name in sys.modules if _is_ours(name)]
    parts = _parts(system)
    imported, hidden = builtins.__import__, MODULES[system]

    def import_for(name: str, *rest: Any, **more: Any) -> Any:
        # Who imports is told by the globals of the statement; importlib itself never comes here.
        globals_ = rest[0] if rest else more.get("globals")
        if not _is_ours((globals_ or {}).get("__name__", "")):
            return imported(name, *rest, **more)
        if _first(name) in hidden:
            raise ModuleNotFoundError(f"No module named {name!r} on {system}", name=name)
        found = parts[name] if name in _IMITATED and name in parts else imported(name, *rest, **more)
        # "import os.path" gives "os", too.
        return parts.get(found.__name__, found)

    builtins.__import__ = import_for
    sys.addaudithook(_no_such_file)
    # Our code alone uses these methods: asyncio's own signals and processes do without.
    if system == "win32":

        def cannot(*_: object) -> NoReturn:
            raise NotImplementedError

        loop: Any = asyncio.SelectorEventLoop
        loop.add_signal_handler = loop.remove_signal_handler = cannot
        loop.create_unix_server = loop.create_unix_connection = cannot


def _parts(system: str) -> dict[str, ModuleType]:
    instead: dict[str, dict[str, Any]] = {"sys": {"platform": system}}
    if system == "win32":
        instead["os"] = {"supports_dir_fd": frozenset()}
    wholes: dict[str, ModuleType] = {
        "os": os,
        "signal": signal,
        "socket": socket,
        "time": time,
        "sys": sys,
        "fcntl": fcntl,
    }
    parts: dict[str, ModuleType] = {
        name: PartOfModule(whole, frozenset(NAMES[system].get(name, "").split()), instead.get(name, {}))
        for name, whole in wholes.items()
    }
    if system == "win32":
        parts |= {"msvcrt": _imitated_msvcrt(), "winreg": _imitated_winreg()}
    return parts


def _is_ours(name: str) -> bool:
    return _first(name) in OURS


def _first(name: str) -> str:
    return name.partition(".")[0]


def _no_such_file(event: str, arguments: tuple[Any, ...]) -> None:
    """Have /proc and /sys not be there for our code; an audit hook, which no way around leads past."""
    # Whether a file is there is not audited: our readers open what they want, and take the error.
    if event not in {"open", "os.listdir", "os.scandir"} or not arguments:
        return
    path = arguments[0]
    if not isinstance(path, str | os.PathLike):
        return
    if f"{os.fspath(path)}/".startswith(_HIDDEN_FOLDERS) and _ours_asks():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _ours_asks() -> bool:
    """Whether one of our functions asks, itself or through the standard library, and not through psutil."""
    library = sysconfig.get_path("stdlib")
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - the one way to know who asks
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        file = frame.f_code.co_filename
        if _is_ours(name):
            return True
        # The library asks on behalf of whoever called it; another package asks for itself.
        if not file.startswith(("<", library)) or "site-packages" in file:
            return False
        frame = frame.f_back
    return False
