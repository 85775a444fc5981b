"""A network of its own: a namespace for each server, at a bridge; links between any two can be cut.

A cut link loses every packet and says so to nobody, as a cable that is pulled somewhere on the way does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Final, Self

INSIDE: Final = "OBT_HISTORIES_INSIDE"
"""Set in the environment of a process whose network is its own."""
HERE: Final = "here"
"""The name of where agents, operators and the proxy are: the namespace of this process."""
_NUMBER_OF_HERE: Final = 1
_FIRST_NUMBER: Final = 11
# Nobody has it: what is sent there reaches no one.
_NOWHERE: Final = "02:00:00:00:de:ad"
_WITHIN_S: Final = 10.0


def why_not() -> str:
    """Why this machine lets nobody make networks; empty where it does."""
    if os.geteuid() != 0:
        return "network namespaces are made by root alone"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else tried.stderr.decode().strip()


def enter() -> None:
    """Begin this program anew in a network and a process namespace of its own, which end with it."""
    if os.environ.get(INSIDE):
        return
    # Whatever is started there ends when the first process does: no server is left behind.
    apart = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
    words = [*apart, sys.executable, "-m", "tests.cluster.histories", *sys.argv[1:]]
    os.execvpe(words[0], words, os.environ | {INSIDE: "1"})  # noqa: S606 - this program's own words


class Network:
    """Namespaces by name, from the beginning to the end of a ``with``.

    Args:
        names: one namespace each.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._numbers = {name: _FIRST_NUMBER + index for index, name in enumerate(names)}
        # each holds its namespace for as long as it lives
        self._holders: dict[str, subprocess.Popen[bytes]] = {}
        # how many faults keep a link cut: it is whole when the last of them ends
        self._cuts: Counter[frozenset[str]] = Counter()

    async def __aenter__(self) -> Self:
        bridge = f"{self.address(HERE)}/24"
        await _ip("link", "set", "lo", "up")
        with contextlib.suppress(AssertionError):  # of a setting before this one, in the same process
            await _ip("link", "add", "histories", "type", "bridge")
            await _ip("addr", "add", bridge, "dev", "histories")
        await _ip("link", "set", "histories", "up")
        for name, number in self._numbers.items():
            # Its own process writes a byte once its namespace is there: until then it has that of this one.
            self._holders[name] = holder = subprocess.Popen(
                ["unshare", "--net", "--", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE
            )
            assert holder.stdout is not None
            await asyncio.to_thread(holder.stdout.readline)
            wire = f"to-{name}"
            await _ip(
                *("link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            )
            await _ip("link", "set", wire, "master", "histories", "up")
            await _ip("link", "set", "lo", "up", before=self.inside(name))
            await _ip("addr", "add", f"{self.address(name)}/24", "dev", "eth0", before=self.inside(name))
            await _ip("link", "set", "eth0", "up", before=self.inside(name))
            assert number < 255
        return self

    async def __aexit__(self, *_: object) -> None:
        for name, holder in self._holders.items():
            # Its other end would go with its namespace, at some time after its last process.
            await _ip("link", "del", f"to-{name}")
            holder.kill()
            await asyncio.to_thread(holder.wait)
            if holder.stdout is not None:
                holder.stdout.close()

    def address(self, name: str) -> str:
        """The address of a namespace in this network."""
        return f"10.77.0.{self._numbers.get(name, _NUMBER_OF_HERE)}"

    def inside(self, name: str) -> tuple[str, ...]:
        """The words before a command that run it there; none for this process's own."""
        if name == HERE:
            return ()
        return ("nsenter", f"--net=/proc/{self._holders[name].pid}/ns/net", "--")

    async def cut(self, one: str, other: str) -> None:
        """Lose whatever goes between the two, either way."""
        self._cuts[frozenset((one, other))] += 1
        for place, peer in ((one, other), (other, one)):
            words = ("neigh", "replace", self.address(peer), "lladdr", _NOWHERE, "nud", "permanent")
            await _ip(*words, "dev", _device(place), before=self.inside(place))

    async def mend(self, one: str, other: str) -> None:
        """End one cut; the link works again when no other is left."""
        link = frozenset((one, other))
        self._cuts[link] -= 1
        if self._cuts[link] > 0:
            return
        for place, peer in ((one, other), (other, one)):
            await _ip(*("neigh", "del", self.address(peer), "dev", _device(place)), before=self.inside(place))


def _device(name: str) -> str:
    return "histories" if name == HERE else "eth0"


async def _ip(*words: str, before: Sequence[str] = ()) -> None:
    process = await asyncio.create_subprocess_exec(
        *before, "ip", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(_WITHIN_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, f"ip {' '.join(words)}: {output.decode()}"
