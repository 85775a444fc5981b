"""Containers without Docker: an image's layers, user and command, as a service of a compose file says.

A container has processes, mounts and files of its own, a root that is read-only where the service says so, no
capabilities, and its volumes, temporary folders and secrets. Networks are not imitated: all have that of the
machine, where each service's name leads to this machine.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from typing import Any

from tests.install.dockerfile import Settings
from tests.install.images import PATH, BuildHost
from tests.systemd.machine import Result

_PLACE, _VOLUMES, _SECRETS = "/srv/containers", "/srv/volumes", "/srv/secrets"
_MOST_S = 60.0


@dataclass(frozen=True)
class Image:
    """An image: its layers as an overlay's lower folders, and what it says of containers."""

    lower: str
    settings: Settings


@dataclass
class Container:
    """A running one. ``pid`` is its first process, as the machine calls it."""

    host: BuildHost
    name: str
    pid: int
    runs: str
    """Words that run a command in it, as its user."""

    def exec(self, *command: str, text: str | None = None) -> Result:
        """Run a command in it, as ``docker exec`` does."""
        enter = f"nsenter --target {self.pid} --mount --pid --root --wd=/"
        return self.host.call(f"{enter} {self.runs} {shlex.join(command)}", text=text)

    @property
    def log(self) -> str:
        """What it printed."""
        return self.host.run(f"cat {_PLACE}/{self.name}.log")

    def ends(self, within_s: float = _MOST_S) -> int:
        """Wait until it has ended; gives its exit status."""
        status = f"{_PLACE}/{self.name}.status"
        tries = f"for _ in $(seq {within_s * 20:.0f}); do [ -s {status} ] && break; sleep 0.05; done"
        text = self.host.run(f"{tries}; cat {status} || true", timeout_s=within_s + 30).strip()
        assert text, f"{self.name} goes on after {within_s:g} s:\n{self.log}"
        return int(text)

    @property
    def running(self) -> bool:
        """Whether its first process is there."""
        return self.host.call(f"test -d /proc/{self.pid}").code == 0

    def until(self, *command: str, within_s: float = _MOST_S) -> None:
        """Wait until a command in it succeeds, such as its health check."""
        deadline = time.monotonic() + within_s
        while (done := self.exec(*command)).code != 0:
            assert self.running, f"{self.name} has ended:\n{self.log}"
            assert time.monotonic() < deadline, f"{self.name}: {command}\n{done}\n{self.log}"

    def stop(self, signal: str, within_s: float = 30) -> int:
        """Ask it to end, and wait; gives its exit status."""
        self.host.run(f"kill -{signal} {self.pid}")
        return self.ends(within_s)


class Containers:
    """Makes containers in a machine."""

    def __init__(self, host: BuildHost) -> None:
        self._host = host
        host.run(f"mkdir -p {_PLACE} {_VOLUMES} {_SECRETS}")

    def secret(self, name: str, text: str, mode: str) -> None:
        """Leave a file that a service names as a secret."""
        self._host.write(f"{_SECRETS}/{name}", text, mode)

    def start(
        self,
        name: str,
        image: Image,
        service: Any,
        *,
        command: tuple[str, ...] = (),
        user: tuple[int, int] | None = None,
        beside: Container | None = None,
    ) -> Container:
        """Start a service's container.

        Args:
            name: the service's.
            image: what it is made from.
            service: the service, as the compose file has it.
            command: in place of the image's entry point and command.
            user: in place of the image's.
            beside: the container whose process numbers it shares.
        """
        place, settings = f"{_PLACE}/{name}", image.settings
        runs = _runs(settings, service, user or settings.user)
        words = command or (*settings.entrypoint, *(service.get("command") or settings.command))
        lines = ("set -e", "mount --make-rprivate /", *_mounts(place, image, service))
        self._host.write(
            f"{place}.sh", "\n".join((*lines, f"exec chroot {place}/root {runs} {shlex.join(words)}"))
        )
        numbers = f"nsenter --target {beside.pid} --pid" if beside else ""
        own = "" if beside else "--pid --kill-child"
        own += " --net" if service.get("network_mode") == "none" else ""
        starter = (
            f"{numbers} unshare --mount --uts --ipc {own} --fork bash {place}.sh > {place}.log 2>&1; "
            f"echo $? > {place}.status"
        )
        # A session of its own: it goes on when the command that started it has ended.
        self._host.run(
            f"mkdir -p {place}; rm -f {place}.status; : > {place}.log; "
            f"setsid bash -c {shlex.quote(starter)} < /dev/null > /dev/null 2>&1 & echo $! > {place}.starter"
        )
        return Container(self._host, name, self._first_process(name), runs)

    def _first_process(self, name: str) -> int:
        """The process that became the container's command; 0 when it has ended already."""
        place = f"{_PLACE}/{name}"
        starter = self._host.run(f"cat {place}.starter").strip()
        look = (
            f'p={starter}; while c=$(cat /proc/$p/task/*/children 2>/dev/null) && [ -n "$c" ]; do '
            "p=${c%% *}; done; readlink /proc/$p/root; echo $p"
        )
        deadline = time.monotonic() + _MOST_S
        while True:
            root, _, pid = self._host.run(look).partition("\n")
            if root.startswith(_PLACE):
                return int(pid)
            status = self._host.call(f"cat {place}.status").out.strip()
            log = self._host.run(f"cat {place}.log")
            assert status in {"", "0"}, f"{name} did not start (status {status}):\n{log}"
            if status:
                return 0
            assert time.monotonic() < deadline, f"{name} does not start:\n{log}"


def _runs(settings: Settings, service: Any, user: tuple[int, int]) -> str:
    """Words that give a command the container's user, rights, folder and variables."""
    number, group = user
    drop = "--bounding-set=-all --inh-caps=-all" if service.get("cap_drop") == ["ALL"] else ""
    more = "--no-new-privs" if "no-new-privileges:true" in service.get("security_opt", ()) else ""
    environ = {"PATH": PATH, "HOME": "/nonexistent" if number else "/root"}
    environ |= settings.environ | service.get("environment", {})
    pairs = shlex.join(f"{name}={value}" for name, value in environ.items())
    return (
        f"/usr/bin/setpriv --reuid={number} --regid={group} --clear-groups {drop} {more} "
        f"/usr/bin/env -i --chdir={settings.folder} {pairs}"
    )


def _mounts(place: str, image: Image, service: Any) -> list[str]:
    """Lines of a script that lays out the container's files, the writable ones first."""
    root, over = f"{place}/root", f"{place}/over"
    lines = [
        f"mkdir -p {over} {root} && mount -t tmpfs over {over} && mkdir {over}/up {over}/spare",
        f"mount -t overlay overlay -o lowerdir={image.lower},upperdir={over}/up,workdir={over}/spare {root}",
        f"mount -t proc proc {root}/proc; mount --rbind /dev {root}/dev; mount --rbind /sys {root}/sys",
        f"echo '127.0.0.1 localhost server' > {root}/etc/hosts",
    ]
    for one in service.get("volumes", ()):
        name, target, copied = (
            (one["source"], one["target"], not one["volume"]["nocopy"])
            if isinstance(one, dict)
            else (*one.split(":"), True)
        )
        volume = f"{_VOLUMES}/{name}"
        # A volume begins as a copy of what the image has there, its owner included.
        if copied:
            lines.append(f"[ -e {volume} ] || cp -a {root}{target} {volume}")
        lines += [f"mkdir -p {root}{target}", f"mount --bind {volume} {root}{target}"]
        if isinstance(one, dict) and one.get("read_only"):
            lines.append(f"mount -o remount,bind,ro {root}{target}")
    for one in service.get("tmpfs", ()):
        target, _, given = one.partition(":")
        option = ",".join(("nosuid,nodev,noexec", given or "mode=1777"))
        lines += [f"mkdir -p {root}{target}", f"mount -t tmpfs -o {option} tmpfs {root}{target}"]
    for name in service.get("secrets", ()):
        target = f"{root}/run/secrets/{name}"
        lines += [
            f"mkdir -p {root}/run/secrets && : > {target}",
            f"mount --bind -o ro {_SECRETS}/{name} {target}",
        ]
    if service.get("read_only"):
        lines.append(f"mount -o remount,bind,ro {root}")
    return lines
