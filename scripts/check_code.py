"""Check what no linter checks: ``python scripts/check_code.py [--report]`` (part of ``make lint``).

- A class name stands for one thing: it is defined once in all packages.
- No function is longer than 60 lines, and no file longer than 400. A file of tests may be longer: it mirrors
  its module, and a reader looks for one test in it.
- What one system alone has (fcntl, a user's number, SIGHUP, /proc) is named in ``SEAM`` and nowhere else: so
  everything else imports on every system. A line that must name it says why: ``# one system: REASON``.

Prints each place that is over. Exits 1 if there is one, or 0 with ``--report``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("obt_agent", "obt_server", "obt_standin", "obt_conformance")
MAX_FUNCTION_LINES: Final = 60
MAX_FILE_LINES: Final = 400

SEAM: Final = {
    "obt_agent/system/": "the seam itself",
    "obt_agent/hardware/host/linux/": "readers of Linux's own files; the readers beside it choose the system",
    "obt_agent/service/": "systemd's service, and launchd's; both are there on one system alone",
    "obt_standin/": "knows none of the other packages, and asks by itself what the system has",
}
"""Where a system's own names may stand, and why."""
_WORDS: Final = {
    "": """
        crypt fcntl grp msvcrt nis posix pty pwd resource spwd syslog termios tty winreg
    """,
    "os": """
        O_CLOEXEC O_DIRECTORY O_NOCTTY O_NOFOLLOW O_NONBLOCK O_PATH O_TMPFILE chown confstr fchmod fchown fork
        forkpty fstatvfs getegid geteuid getgid getgroups getloadavg getpgid getpriority getsid getuid killpg
        lchown memfd_create mkfifo mknod nice openpty pidfd_open pipe2 posix_fadvise posix_fallocate
        posix_spawn pread preadv pwrite pwritev sched_getaffinity sched_setaffinity sendfile setegid seteuid
        setgid setpgid setpriority setsid setuid statvfs sync sysconf uname wait3 wait4 waitid
    """,
    "signal": """
        SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGUSR1 SIGUSR2 alarm pause
        pidfd_send_signal pthread_kill pthread_sigmask setitimer sigtimedwait sigwait
    """,
    "socket": """
        AF_NETLINK AF_PACKET AF_UNIX SCM_RIGHTS SOCK_CLOEXEC SOCK_NONBLOCK SO_PASSCRED SO_PEERCRED
        SO_REUSEPORT TCP_USER_TIMEOUT
    """,
    "time": """
        CLOCK_BOOTTIME CLOCK_MONOTONIC clock_gettime clock_gettime_ns tzset
    """,
    "method": """
        add_signal_handler create_unix_connection create_unix_server remove_signal_handler st_gid st_uid
    """,
    "keyword": """
        dir_fd dst_dir_fd pass_fds preexec_fn process_group src_dir_fd
    """,
}
NAMES: Final = {kind: frozenset(words.split()) for kind, words in _WORDS.items()}
"""What is not on Linux, macOS and Windows alike: names of modules by "", else by the module that has them."""
PLACES: Final = ("/proc/", "/sys/")
EXCUSE: Final = "# one system: "
# Most files hold none of all this, and need not be walked through.
_ANY: Final = re.compile(
    "|".join([*PLACES, r"st_mode &", rf"\b(?:{'|'.join(set().union(*NAMES.values()))})\b"])
)


def problems(files: Sequence[Path], packaged: Sequence[Path]) -> Iterator[str]:
    """Yield a line for each thing that is not as it must be.

    Args:
        files: those whose functions and lengths are checked.
        packaged: those whose classes need names of their own; a double in a test may repeat one.
    """
    trees = {path: ast.parse(path.read_text()) for path in {*files, *packaged}}
    ours = {path for path in packaged if not path.as_posix().startswith(tuple(SEAM))}
    for path in files:
        lines = len(path.read_text().splitlines())
        if lines > MAX_FILE_LINES and path.parts[0] != "tests":
            yield f"{path}: {lines} lines, and {MAX_FILE_LINES} is the most"
        yield from _long_functions(path, trees[path])
        if path in ours:
            yield from system_names(path, trees[path])
    classes: dict[str, list[Path]] = defaultdict(list)
    for path in packaged:
        for node in ast.walk(trees[path]):
            if isinstance(node, ast.ClassDef):
                classes[node.name.lstrip("_")].append(path)
    for name, places in sorted(classes.items()):
        if len(places) > 1:
            yield f"class {name}: {len(places)} of that name, in {', '.join(map(str, places))}"


def _long_functions(path: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                most = MAX_FUNCTION_LINES
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines, and {most} is the most"


def system_names(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield a line for each name that one system alone has, unless its own line gives a reason."""
    text = path.read_text()
    lines = text.splitlines()
    for node in ast.walk(tree) if _ANY.search(text) else ():
        for name in _own_names(node):
            # Every node that names something has a place.
            number = getattr(node, "lineno", 1)
            if EXCUSE not in lines[number - 1]:
                yield f"{path}:{number}: {name} is not on every system; ask obt_agent.system for it"


def _own_names(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (one.name for one in names if one.name in NAMES[""])
        case ast.ImportFrom(module=str(module), names=names):
            known = NAMES.get(module, frozenset())
            yield from (one.name for one in names if module in NAMES[""] or one.name in known)
        case ast.Attribute(value=ast.Name(id=module), attr=name) if name in NAMES.get(module, ()):
            yield f"{module}.{name}"
        case ast.Attribute(attr=name) if name in NAMES["method"]:
            yield name
        case ast.keyword(arg=str(name)) if name in NAMES["keyword"]:
            yield name
        # Windows makes up the bits of a file's mode.
        case ast.BinOp(left=ast.Attribute(attr="st_mode"), op=ast.BitAnd()):
            yield "st_mode &"
        case ast.Constant(value=str(text)) if text.startswith(PLACES):
            yield text.splitlines()[0]


def python_files(*folders: str) -> list[Path]:
    """Return the Python files below these folders of the repository, relative to it."""
    return sorted(path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def main(arguments: list[str]) -> int:
    """Print what is found; return 1 if anything is, unless only a report is wanted."""
    packaged = python_files(*PACKAGES)
    found = list(problems([*packaged, *python_files("benchmarks", "docs", "scripts", "tests")], packaged))
    for line in found:
        sys.stdout.write(line + "\n")
    return 1 if found and "--report" not in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
