"""Run every check of the project: ``.ci/run``; ``.ci/run 'make lint' 'make site'`` runs these alone.

The steps of a phase run side by side, as many as ``AT_ONCE``, and begin in the order of the list: the long
ones first, so that the short ones fill what is left. The output of a step comes when it has ended. The first
that fails ends all; nothing is retried. The table at the end says what each step took: the time that passed,
and the processors' time.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, NoReturn

ROOT: Final = Path(__file__).parents[1]
AT_ONCE: Final = 3
PHASES: Final = (
    # Every other target would make it, too.
    ("make venv",),
    # The first writes the page's files anew, and everything else reads them; the second installs into .venv.
    ("make console-current", "make site"),
    (
        "make test-faults",
        "make test-cluster",
        "make test-systemd",
        "make test-install",
        # Without COVERAGE=1, which doubles the processors' time on Python 3.11. The workflow's job "coverage"
        # measures it on a machine of its own.
        "make test",
        "make test-proxy",
        "make test-browser",
        "make lint",
        "make test-typescript",
        "make test-clients",
        "make test-console",
    ),
)
GRACE_S: Final = 5.0
"""What a step that is ended early gets to end by itself."""
PR_SET_PDEATHSIG: Final = 1
"""prctl(2): the signal that this process gets when its parent ends."""
PR_SET_CHILD_SUBREAPER: Final = 36
"""prctl(2): processes below this one whose parent has ended become its children."""


@dataclass
class Step:
    """One command, from its start on."""

    command: str
    output: IO[bytes]
    pid: int
    began: float = field(default_factory=time.monotonic)
    took_s: float = 0.0
    processor_s: float = 0.0
    status: int | None = None
    """Its exit status, or None while it runs."""

    def ended(self, status: int, usage: resource.struct_rusage) -> None:
        """Keep what the system says of it."""
        self.took_s = time.monotonic() - self.began
        self.processor_s = usage.ru_utime + usage.ru_stime
        self.status = os.waitstatus_to_exitcode(status)

    def show(self, result: str) -> None:
        """Print its output whole, with how it ended below."""
        say(f"== {self.command}: what it printed")
        self.output.seek(0)
        shutil.copyfileobj(self.output, sys.stdout.buffer)
        say(f"== {self.command}: {result}, {self.took_s:.0f} s")


def say(line: str) -> None:
    """Print a line after an empty one, at once."""
    sys.stdout.write(f"\n{line}\n")
    sys.stdout.flush()


def start(command: str) -> Step:
    """Start a step in a session of its own."""
    say(f"== {command}: started")
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the step
    pid = os.fork()
    if pid == 0:
        attend(command, output)
    return Step(command, output, pid)


def attend(command: str, output: IO[bytes]) -> NoReturn:
    """In a child: run the command to its end, and leave nothing of it behind.

    What it started and left to itself (a machine of test-systemd, a browser's helpers) becomes a child of
    this process, so that it is counted, and ends with the step.
    """
    status = 1
    try:
        os.setsid()
        end_on_signals()
        if sys.platform == "linux":
            prctl = ctypes.CDLL(None).prctl
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        started = subprocess.Popen(  # noqa: S603 - a command of PHASES
            shlex.split(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        pid = 0
        while pid != started.pid:
            pid, ended = os.waitpid(-1, 0)
            status = os.waitstatus_to_exitcode(ended)
        end_children(signal.SIGKILL)
    except OSError as error:
        output.write(f"{error}\n".encode())
    except SystemExit as stopped:
        status = int(stopped.code or 0)
        end_children(signal.SIGTERM)
        end_children(signal.SIGKILL)
    finally:
        output.flush()
        # A shell's way to tell of a signal.
        os._exit(status if status >= 0 else 128 - status)


def end_children(number: signal.Signals) -> None:
    """Send a signal to each child, and to those that become children meanwhile; return when none is left."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    deadline = time.monotonic() + GRACE_S
    signalled: set[int] = set()
    while time.monotonic() < deadline:
        ours = {int(pid) for pid in children.read_text().split()}
        for pid in ours - signalled:
            os.kill(pid, number)
        signalled |= ours
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.02)


def end_on_signals() -> None:
    """Whoever ends this process gets the exit status that a shell would give."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def run_phase(commands: Sequence[str], steps: list[Step]) -> None:
    """Run these commands, and add each to the steps when it starts.

    Raises:
        SystemExit: a step failed.
    """
    waiting = list(commands)
    running: dict[int, Step] = {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            step = start(waiting.pop(0))
            steps.append(step)
            running[step.pid] = step
        pid, status, usage = os.wait4(-1, 0)
        step = running.pop(pid)
        step.ended(status, usage)
        if step.status != 0:
            raise SystemExit(step.status)
        step.show("passed")
        step.output.close()


def end(steps: list[Step]) -> None:
    """End what still runs, and show what it printed, then what failed printed."""
    left = [step for step in steps if step.status is None]
    for step in left:
        os.kill(step.pid, signal.SIGTERM)
    for step in left:
        _, status, usage = os.wait4(step.pid, 0)
        step.ended(status, usage)
        step.show("ENDED early")
    for step in steps:
        if step.status != 0 and step not in left:
            step.show(f"FAILED with status {step.status}")


def table(steps: list[Step], took_s: float) -> str:
    """What each step took; the last line is all of them, and how busy they kept the processors."""
    used_s, processors = sum(step.processor_s for step in steps), len(os.sched_getaffinity(0))
    busy = used_s / took_s / processors
    rows = [(step.command, step.took_s, step.processor_s) for step in steps]
    lines = [f"   {'step':<24}{'seconds':>9}{'of processors':>16}"]
    lines += [f"   {command:<24}{took:>9,.0f}{used:>16,.0f}" for command, took, used in rows]
    lines += [f"   {'all':<24}{took_s:>9,.0f}{used_s:>16,.0f}   {busy:.0%} of {processors}"]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Run these commands, or all phases; return the status of the step that failed, or 0."""
    os.chdir(ROOT)
    end_on_signals()
    phases = [arguments] if arguments else PHASES
    began, steps = time.monotonic(), list[Step]()
    status = 0
    try:
        for commands in phases:
            run_phase(commands, steps)
    except SystemExit as ended:
        status = int(ended.code or 0)
        end(steps)
    took_s = time.monotonic() - began
    say(table(steps, took_s))
    say(f"== FAILED after {took_s:.0f} s" if status else f"== all passed, {took_s:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
