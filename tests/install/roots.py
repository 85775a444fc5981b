"""Clean Debian machines with a way to the package index, as a newcomer has them.

The tree of each release is made once, by ``tests/systemd/lab``, and kept outside the checkout. A machine is
a throw-away overlay of it in namespaces of its own, with systemd (or another program) as PID 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.install.host import HostSettings
from tests.systemd.machine import LAB, Machine
from tests.systemd.payload import CACHE as LAB_CACHE
from tests.systemd.payload import ROOT

CACHE = LAB_CACHE.with_name("install")
PACKAGES = "systemd,systemd-sysv,dbus,libpam-systemd,sudo,python3,make,git,ca-certificates,openssl"
"""What a machine has before anybody walks: Python, make and git, but neither python3-venv nor a compiler."""
SYSTEMD = "/lib/systemd/systemd"
CHECKOUT = "/srv/obt-agent.bundle"
"""In a machine with ``checkout=True``: this checkout as one file that git clones from."""
USER, USER_ID, USER_CACHE = "somebody", 1000, "/srv/pip-cache"
"""Who works on a machine, and where pip keeps what that user downloaded, for the next machine."""
NAMESERVER = "10.0.2.3"
"""slirp4netns's own, which asks the host's."""


@dataclass(frozen=True)
class Release:
    """A release of Debian, its number, and the minor version of its Python."""

    name: str
    number: int
    python: str

    def __str__(self) -> str:
        return f"Debian {self.number}"


BOOKWORM, TRIXIE = Release("bookworm", 12, "3.11"), Release("trixie", 13, "3.13")
RELEASES = (BOOKWORM, TRIXIE)


class Root(Machine):
    """A machine of a release: ``with Root(TRIXIE, "a name") as root``. Names must differ while machines run.

    ``init`` is PID 1 where it is not to be systemd: words for a shell, such as ``sleep infinity``. ``binds``
    are folders of the host: ``PATH`` (read-only, at the same place), or ``FROM:TO``, writable.
    """

    def __init__(
        self,
        release: Release,
        name: str,
        *,
        init: str = SYSTEMD,
        checkout: bool = True,
        binds: Sequence[str | Path] = (),
    ) -> None:
        self.release = release
        self._checkout = checkout
        self._host = HostSettings.read()
        self._network: subprocess.Popen[bytes] | None = None
        self._end_network = -1
        """Its way out while it runs, and what ends that when it is closed."""
        super().__init__(CACHE / release.name, name=f"{name}{os.environ.get('PYTEST_XDIST_WORKER', '')}")
        caches = [_cache("pip", 0, "/root/.cache/pip"), _cache("pip-user", USER_ID, USER_CACHE)]
        self.environ |= {
            "LAB_SUITE": release.name,
            "LAB_PKGS": PACKAGES,
            "LAB_INIT": init,
            "LAB_BINDS": "\n".join(map(str, (*self._host.folders, *caches, *binds))),
        }

    def __enter__(self) -> Self:
        self.prepare()
        try:
            self.boot()
            self._connect()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def prepare(self) -> None:
        """Lay out what the machine is given: the host's way to the packages, and the checkout."""
        shutil.rmtree(self._payload, ignore_errors=True)
        self._payload.mkdir(parents=True)
        self._host.lay_out(self._payload)
        (self._payload / "etc/resolv.conf").write_text(f"nameserver {NAMESERVER}\n")
        (self._payload / "etc/hostname").write_text(f"{self.name}\n")
        (self._payload / "etc/hosts").write_text(f"127.0.0.1 localhost {self.name}\n::1 localhost\n")
        if self._checkout:
            file = self._payload / CHECKOUT.removeprefix("/")
            file.parent.mkdir(exist_ok=True)
            bundle(file)

    def add_user(self) -> str:
        """A user who may call sudo, as the first of an installation; gives the name."""
        self.run(
            f"useradd --create-home --shell /bin/bash --uid {USER_ID} --groups sudo {USER} && "
            f"echo '{USER} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{USER} && "
            f"install -d -o {USER} -g {USER} /home/{USER}/.config /home/{USER}/.config/pip"
        )
        self.write(f"/home/{USER}/.config/pip/pip.conf", f"[global]\ncache-dir = {USER_CACHE}\n")
        return USER

    def down(self) -> None:
        """End it at once, with its network."""
        super().down()
        if self._network is not None:
            os.close(self._end_network)
            self._network.wait(60)
            self._network = None

    @property
    def pid(self) -> int:
        """The process that is PID 1 of the machine, as it is called here."""
        done = subprocess.run(
            ["bash", "-c", f". {LAB}/lib/common.sh && leader"],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return int(done.stdout)

    def _connect(self) -> None:
        """Give the machine a way out: user-mode networking, which leaves the host's own as it is."""
        ready, signal_ready = os.pipe()
        # It ends when nobody holds the other end any more: also where this process is killed.
        ended, self._end_network = os.pipe()
        command = [
            "slirp4netns",
            "--configure",
            "--mtu=65520",
            "--disable-host-loopback",
            "--netns-type=path",
        ]
        log = self.folder / "run" / self.name / "network.log"
        with log.open("wb") as output:
            self._network = subprocess.Popen(
                [
                    *command,
                    f"--ready-fd={signal_ready}",
                    f"--exit-fd={ended}",
                    f"/proc/{self.pid}/ns/net",
                    "tap0",
                ],
                pass_fds=[signal_ready, ended],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        os.close(signal_ready)
        os.close(ended)
        with os.fdopen(ready, "rb") as pipe:
            if not pipe.read(1):  # it ended without a word there
                raise RuntimeError(f"no network for the machine:\n{log.read_text()}")


def cable(first: Root, second: Root) -> tuple[str, str]:
    """Connect two machines with each other; gives their addresses on the cable."""
    addresses = "198.51.100.1", "198.51.100.2"
    pids = first.pid, second.pid
    _run(
        "ip",
        "link",
        "add",
        "lan0",
        "netns",
        str(pids[0]),
        "type",
        "veth",
        "peer",
        "lan0",
        "netns",
        str(pids[1]),
    )
    for pid, address in zip(pids, addresses, strict=True):
        enter = ("nsenter", f"--net=/proc/{pid}/ns/net", "ip")
        _run(*enter, "address", "add", f"{address}/24", "dev", "lan0")
        _run(*enter, "link", "set", "lan0", "up")
    return addresses


def bundle(file: Path) -> None:
    """What git clones from: the checkout as it lies here, with what is not yet committed, as one commit."""
    paths = ("rev-parse", "--path-format=absolute", "--git-path")
    index, objects = (_run("git", "-C", str(ROOT), *paths, name).strip() for name in ("index", "objects"))
    with tempfile.TemporaryDirectory() as folder:
        # Beside the real repository, which stays as it is; what its index knows need not be read again.
        _run("git", "init", "--quiet", "--bare", "--initial-branch=main", folder)
        Path(folder, "objects/info/alternates").write_text(f"{objects}\n")
        shutil.copyfile(index, Path(folder, "index"))
        git = ("git", f"--git-dir={folder}", f"--work-tree={ROOT}")
        _run(*git, "add", "--all")
        who = ("-c", "user.name=A newcomer", "-c", "user.email=newcomer@example.org")
        _run(*git, *who, "commit", "--quiet", "--no-verify", "--message", "The checkout as it is")
        _run(*git, "bundle", "create", "--quiet", str(file), "HEAD", "main")


def _cache(name: str, owner: int, place: str) -> str:
    """A folder that outlives the machines, for pip as one of their users."""
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, owner, owner)
    return f"{folder}:{place}"


def _run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:6])} … failed: {done.stderr.strip()[-2000:]}")
    return done.stdout
