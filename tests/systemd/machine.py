"""A Debian with a real systemd, booted in namespaces of its own, and commands run in it."""

import fcntl
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.systemd.payload import CACHE, lay_out

LAB = Path(__file__).with_name("lab")


@dataclass(frozen=True)
class Result:
    """How a command in the machine ended."""

    code: int
    out: str
    err: str


@dataclass
class Machine:
    """One machine; ``boot`` gives a fresh one, whatever was done to the last.

    ``controllers`` of cgroups that the next boot asks the host for: limits hold only with them. Machines of
    other names stand beside it, one for each process that runs tests.
    """

    folder: Path = CACHE
    controllers: str = ""
    name: str = f"obtlab{os.environ.get('PYTEST_XDIST_WORKER', '')}"
    environ: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environ = {
            **os.environ,
            "LAB_DIR": str(self.folder),
            "LAB_NAME": self.name,
            "LAB_PAYLOAD": str(self._payload),
            "LAB_CONTROLLERS": self.controllers,
        }

    @property
    def _payload(self) -> Path:
        return self.folder / "payload" / self.name

    def prepare(self) -> None:
        """Make what is laid over the machine's root, and the tree below it meanwhile.

        Each is made by one process after the other. The tree is there from the first time on a host on: a
        minute's work that needs the Debian mirror.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(1) as beside, (self.folder / ".prepare.lock").open("w") as lock:
            tree = beside.submit(self._script, "boot.sh", "--tree", timeout_s=900)
            fcntl.flock(lock, fcntl.LOCK_EX)
            lay_out(self._payload)
        if (made := tree.result()).code != 0:
            raise RuntimeError(f"the lab's tree cannot be built:\n{made.out}{made.err}")

    def boot(self) -> None:
        """Boot; gives a tree that is not there yet the time to be built."""
        self.down()
        done = self._script("boot.sh", timeout_s=900)
        if done.code != 0:
            raise RuntimeError(f"the lab does not boot:\n{done.out}{done.err}")

    def down(self) -> None:
        """End it at once. One process may have to wait until another has built the tree."""
        self._script("down.sh", "-f", timeout_s=900)

    def call(self, command: str, *, text: str | None = None, timeout_s: float = 60) -> Result:
        """Run a bash command as root."""
        words = ["-i", command] if text is not None else [command]
        return self._script("run-in.sh", *words, text=text, timeout_s=timeout_s)

    def run(self, command: str, *, text: str | None = None, timeout_s: float = 60) -> str:
        """Run a bash command that has to succeed; gives its output."""
        done = self.call(command, text=text, timeout_s=timeout_s)
        assert done.code == 0, f"{command}\nstatus {done.code}\n{done.out}\n{done.err}"
        return done.out

    def write(self, path: str, text: str, mode: str = "644") -> None:
        """Write a file in the machine."""
        self.run(f"mkdir -p $(dirname {path}) && cat > {path} && chmod {mode} {path}", text=text)

    def put(self, file: Path, path: str) -> None:
        """Copy a file into the machine."""
        words = [str(LAB / "run-in.sh"), "-i", f"cat > {path}"]
        with file.open("rb") as data:
            subprocess.run(words, stdin=data, env=self.environ, timeout=120, check=True)

    def until(self, command: str, *, timeout_s: float = 60) -> str:
        """Run a command again and again until it succeeds; gives its last output."""
        loop = f'until out=$({command}); do sleep 0.1; done; echo "$out"'
        done = self.call(loop, timeout_s=timeout_s)
        if done.code != 0:
            more = self.call("systemctl status --no-pager -n 40 obt-agent; systemctl --failed").out
            raise AssertionError(f"never came true: {command}\n{more}")
        return done.out

    def unit(self, name: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        output = self.run(f"systemctl show {name} --property {','.join(properties)}")
        return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)

    def journal(self, *matches: str) -> list[dict[str, Any]]:
        """Entries of the journal, with all their fields."""
        output = self.run(f"journalctl --output json --no-pager {' '.join(matches)}")
        return [json.loads(line) for line in output.splitlines()]

    def _script(self, name: str, *words: str, text: str | None = None, timeout_s: float) -> Result:
        done = subprocess.run(
            [str(LAB / name), *words],
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env={**self.environ, "LAB_TIMEOUT": str(timeout_s)},
            timeout=timeout_s + 30,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)
