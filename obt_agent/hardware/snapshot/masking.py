"""What must not leave a machine with a snapshot.

Serial numbers, UUIDs, long identifiers (of containers), MAC addresses, names of hosts, people and networks,
where file systems come from, and all of a process but that it is Ollama's.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Callable

from obt_agent.hardware.gpu.registry import VENDORS
from obt_agent.hardware.host.linux.storage import NETWORK
from obt_agent.hardware.host.linux.system import LAYERS, SERVICE_ACCOUNT
from obt_agent.hardware.inventory import MemoryModule
from obt_agent.system import owners

# With underscores too, as Kubernetes writes those of pods into the names of control groups.
_UUID = re.compile(
    r"[0-9a-f]{8}([-_])[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}(?![0-9a-f])",
    re.IGNORECASE,
)

_MAC = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", re.IGNORECASE)
_MAC_NAME = re.compile(r"\b(enx|wlx)[0-9a-f]{12}\b")
# Containers' identifiers, in the paths of control groups and layers.
_LONG_ID = re.compile(r"\b[0-9a-f]{32,64}\b")
_HOME = re.compile(r"/(home|var/home|Users)/[^/\s:\0]+")
_MEDIA = re.compile(r"/(media|run/media)/[^/\s:\0]+")
_SERIAL_LINE = re.compile(r"^(serial(?:_number)?|unique_id)(\s*[:=]?\s*)\S.*$", re.IGNORECASE | re.MULTILINE)

# All before the port, if there is one.
_HOST = re.compile(r"^(OLLAMA_HOST=).*?(\d*)/?$")

_TABLES = ("/pci.ids", *(f"/{name}" for vendor in VENDORS for name in vendor.device_tables))
_BINARY_FILES = tuple(f"/{name}" for vendor in VENDORS for name in vendor.binary_files)
# Of a command line only what tells a server from a runner stays: prompts and paths of models may stand in it.
_KEPT_WORDS = {"serve", "start", "runner"}
_KEPT_VARIABLES = ("OLLAMA_MODELS", "OLLAMA_HOST", "HOME")
_CGROUPS = ("cgroup", "cgroup2")
# Names that the kernel and container engines give; others are people's ("vpn-acme") and are masked.
_USUAL_INTERFACE = re.compile(
    r"lo|eth\d+|en[a-z0-9]+|wl[a-z0-9]+|ib\d+|bond\d+|docker\d+|veth[0-9a-f]+|br-[0-9a-f]+|virbr\d+"
    r"|tun\d+|tap\d+|wg\d+|ifb\d+|tailscale\d+"
)
# Names of hosts and people that give away nothing, and that paths and programs have too: masking them would
# break the snapshot.
_ORDINARY = frozenset({
    "admin", "amd", "arch", "box", "cpu", "debian", "default", "desktop", "docker", "fedora", "gpu", "home",
    "host", "intel", "kvm", "laptop", "linux", "localhost", "machine", "models", "node", "nvidia", "ollama",
    "pc", "pci", "pi", "proc", "raspberrypi", "root", "server", "sys", "system", "ubuntu", "user", "vm",
})  # fmt: skip

# The first account of a person, and the account of nobody, on every distribution.
_FIRST_PERSON, _NOBODY = 1000, 65534
_PCI_VENDORS = frozenset(vendor.pci_vendor.removeprefix("0x") for vendor in VENDORS)


class Masker:
    """Masks the text of files, each as its path asks for.

    The same secret becomes the same mask throughout, so that what was equal stays equal.
    """

    def __init__(
        self,
        hostname: str | None = None,
        *,
        people: frozenset[str] = frozenset(),
        devices: frozenset[str] = frozenset(),
        interfaces: frozenset[str] = frozenset(),
    ) -> None:
        name = socket.gethostname() if hostname is None else hostname
        words = dict.fromkeys({name, name.partition(".")[0]}, "host")
        words |= dict.fromkeys(people, "user")
        words |= {i: f"net{_digest(i)[:4]}" for i in interfaces if not _USUAL_INTERFACE.fullmatch(i)}
        # Longest first, so that "castle-2" is not left as "host-2".
        secret = sorted(words.keys() - _ORDINARY - {""}, key=len, reverse=True)
        self._names = [(_whole(word), words[word]) for word in secret]
        self._devices = devices

    def file(self, path: str, content: bytes) -> bytes:
        """A file's content as it may leave the machine."""
        if path.endswith(_BINARY_FILES):
            return content
        text = content.decode(errors="replace")
        if path.endswith(_TABLES):
            return _rows(text, self._devices).encode()
        # What is left of a file is masked too: a reduction only takes lines and words away.
        reduce = next((rule for end, rule in _REDUCTIONS.items() if path.endswith(end)), None)
        return self.text(reduce(text) if reduce else text).encode()

    def text(self, text: str) -> str:
        """Any text with every known kind of secret masked."""
        text = _UUID.sub(lambda match: _uuid(match[0]), text)
        text = _LONG_ID.sub(lambda match: _digest(match[0])[:12], text)
        text = _MAC.sub("00:00:00:00:00:00", text)
        text = _MAC_NAME.sub(r"\g<1>000000000000", text)
        text = _HOME.sub(r"/\1/user", text)
        text = _MEDIA.sub(r"/\1/user", text)
        text = _SERIAL_LINE.sub(r"\1\g<2>0", text)
        for name, mask in self._names:
            text = name.sub(mask, text)
        return text


def people() -> frozenset[str]:
    """Names of those who have an account on this machine, of this process's user and of who became root."""
    known = owners.account_names(range(_FIRST_PERSON, _NOBODY))
    return frozenset(
        known | {os.environ[name] for name in ("USER", "LOGNAME", "SUDO_USER") if name in os.environ}
    )


def _whole(word: str) -> re.Pattern[str]:
    """The word by itself, also within a name that is made with it ("castle--vg-root" of a host's volumes)."""
    return re.compile(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])")


def udev_record(modules: tuple[MemoryModule, ...]) -> bytes:
    """Memory modules as udev records them, in place of firmware's table, which holds serial numbers."""
    lines = []
    for slot, module in enumerate(modules):
        values = {
            "SIZE": module.size_bytes,
            "TYPE": module.type,
            "CONFIGURED_SPEED_MTS": module.speed_mt_s,
            "LOCATOR": module.locator,
            "BANK_LOCATOR": module.bank,
        }
        lines += [
            f"E:MEMORY_DEVICE_{slot}_{name}={value}" for name, value in values.items() if value is not None
        ]
    return "\n".join(lines).encode()


def _digest(text: str) -> str:
    return hashlib.sha256(text.strip().lower().encode()).hexdigest()


def _uuid(text: str) -> str:
    """Of its digest 16 bits stay, so that two GPUs stay two; too few to find the UUID by."""
    return f"00000000-0000-0000-0000-00000000{_digest(text)[:4]}"


def _command(text: str) -> str:
    """The program's name, and the words that tell a server from a runner."""
    words = text.split("\0")
    return "\0".join([words[0].rpartition("/")[2], *(word for word in words[1:] if word in _KEPT_WORDS)])


def _environment(text: str) -> str:
    """Where the models are, and the port: an address would tell a network."""
    kept = [entry for entry in text.split("\0") if entry.partition("=")[0] in _KEPT_VARIABLES]
    return "\0".join(_HOST.sub(r"\1:\2", entry) for entry in kept)


def _mounts(text: str) -> str:
    """Control groups, file systems on disks and networks, and what tells a container; no more than that.

    Options and sources hold names of servers and people.
    """
    return "".join(f"{line}\n" for line in map(_mount, text.splitlines()) if line is not None)


def _mount(line: str) -> str | None:
    words = line.split(" ")
    dash = words.index("-") if "-" in words else len(words)
    if len(words) <= dash + 3:
        return None
    kind, source = words[dash + 1 : dash + 3]
    if kind in _CGROUPS:
        return line
    if kind == "overlay" and words[4] == "/":
        layers = (f"lowerdir={layer}" for layer in LAYERS if layer in line)
        return " ".join([*words[: dash + 3], *layers])
    if not source.startswith("/dev/") and kind not in NETWORK and not words[4].endswith(SERVICE_ACCOUNT):
        return None
    # The root of the mount, options and server of a network file system name people and machines.
    words[3] = "/"
    return " ".join([*words[: dash + 2], source if source.startswith("/dev/") else kind, "rw"])


def _rows(text: str, devices: frozenset[str]) -> str:
    """Of a table of all devices, the rows of this machine's and the vendors' names."""
    rows = []
    for line in text.splitlines():
        word = line.strip().replace(",", " ").partition(" ")[0].lower()
        is_vendor = word in _PCI_VENDORS and not line.startswith("\t")
        is_device = word in devices and not line.startswith("\t\t")
        if is_vendor or is_device:
            rows.append(line)
    return "\n".join(rows) + "\n"


def _lines(*starts: str) -> Callable[[str], str]:
    """Only the lines that begin so."""

    def reduced(text: str) -> str:
        return "".join(line for line in text.splitlines(keepends=True) if line.startswith(starts))

    return reduced


def _serial(text: str) -> str:
    """Another number of the same shape, so that two devices stay two."""
    return f"{int(_digest(text)[:12], 16):016x}\n" if text.strip() else text


# By a path's end, what is left of a file before its text is masked.
_REDUCTIONS = {
    "/status": _lines("Cpus_allowed_list:", "Uid:"),
    "/passwd": _lines("ollama:", "root:"),
    "/cmdline": _command,
    "/environ": _environment,
    "/mountinfo": _mounts,
    **{f"/{name}": _serial for vendor in VENDORS for name in vendor.serial_files},
}
