"""The file system of Ollama's model store."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial

from obt_agent.hardware.field_reader import FieldReader, Unreadable, bounded, optional
from obt_agent.hardware.host.linux.kernel_text import key_values
from obt_agent.hardware.host.linux.mounts import Mount, mount_of, mounts
from obt_agent.hardware.host.linux.process_table import environment
from obt_agent.hardware.host.linux.system import container_hint
from obt_agent.hardware.inventory import FoundBy, ProviderState, StorageInfo
from obt_agent.hardware.provider import state_of
from obt_agent.hardware.snapshot.root import Root

# Of Ollama's installer, of NixOS and other packages, and of a server that root started.
_DEFAULT_STORES = ("/usr/share/ollama/.ollama/models", "/var/lib/ollama/models", "/root/.ollama/models")
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph", "glusterfs", "afs"}
_MEMORY = {"tmpfs", "ramfs"}
# virtio's and Xen's names.
_VIRTUAL_DISKS = ("vd", "xvd")
# What Hyper-V calls its disks, which say of themselves that they rotate.
_WSL_DISK = "Virtual Disk"

_IN_CONTAINER = "no_permission: Ollama runs in a container, whose files are closed to the agent's user"
_NOT_FOUND = "not_present: Ollama's process does not tell its store, and the usual places are empty"


@dataclass(frozen=True, slots=True)
class _ModelStore:
    """Where the models are. With ``inside``, as that process in a container of its own sees it."""

    path: str
    found_by: FoundBy
    inside: int | None = None


class StorageProvider:
    """The model store. Its calls may hang when the store lies on a network."""

    name = "storage"

    def __init__(self, root: Root, models: str | None = None) -> None:
        self._root = root
        # Where the models are, when the caller knows; it goes before everything that is found out.
        self._models = models
        # Ollama's server; None while none runs here.
        self._pid: int | None = None

    def follow(self, pid: int | None) -> None:
        """Ask this process of Ollama's where its models are."""
        self._pid = pid

    def probe(self) -> ProviderState:
        """Whether mounts can be read, and the store of an Ollama that runs here is known."""
        fields = FieldReader()
        if fields.read("store", partial(mounts, self._root)) is not None:
            fields.read("store", self._store)
        reason = fields.reasons.get("store")
        if reason == _NOT_FOUND and self._pid is None:
            return ProviderState(name=self.name, status="absent", reason="no model store on this machine")
        return state_of(self.name, reason, verified=True)

    def inventory(self) -> tuple[StorageInfo, ...]:
        """The model store's file system, or nothing when the store is not to be found."""
        store = optional(self._store)
        return () if store is None else (self._describe(store),)

    def _store(self) -> _ModelStore:
        """By what the process was told; else its user's home; else the packages' places.

        Raises Unreadable: it is not to be found; a path of the host says nothing about a container's.
        """
        inside = self._pid if optional(self._is_contained) else None
        configured = self._models or optional(self._from_environment)
        if configured is not None:
            return _ModelStore(configured, "setting", inside)
        if inside is not None:
            raise Unreadable(_IN_CONTAINER)
        home = optional(self._in_home)
        if home is not None:
            return _ModelStore(home, "home")
        for path in _DEFAULT_STORES:
            if self._root.exists(path):
                return _ModelStore(path, "usual_place")
        raise Unreadable(_NOT_FOUND)

    def _is_contained(self) -> bool:
        """Whether Ollama runs in a container that the agent is not in."""
        theirs = self._root.text(f"/proc/{self._pid}/cgroup")
        return container_hint(theirs) is not None and theirs != self._root.text("/proc/self/cgroup")

    def _in_home(self) -> str:
        """The usual folder in the home of the process's user, who is no secret, unlike its environment.

        Homes are often closed to others: that it is there need not be seen.
        """
        # Of the four user IDs the first is the real one.
        status = key_values(self._root.text(f"/proc/{self._pid}/status"))
        user = status["Uid"].split()[0]
        entries = (line.split(":") for line in self._root.text("/etc/passwd").splitlines())
        home = next((e[5] for e in entries if len(e) > 5 and e[2] == user and e[5].startswith("/")), "")  # noqa: PLR2004 -- passwd(5)
        if not home:
            raise Unreadable("not_present")
        path = f"{home}/.ollama/models"
        with contextlib.suppress(PermissionError):
            self._root.names(path)
        return path

    def _from_environment(self) -> str:
        """Ollama's own setting, or its user's home; its environment is readable by its user and root."""
        variables = environment(self._root, self._pid)
        if variables.get("OLLAMA_MODELS"):
            return variables["OLLAMA_MODELS"]
        if variables.get("HOME"):
            return f"{variables['HOME']}/.ollama/models"
        raise Unreadable("not_reported")

    def _describe(self, store: _ModelStore) -> StorageInfo:
        fields = FieldReader()
        view = "" if store.inside is None else f"/proc/{store.inside}/root"
        # a link into another process's view must be followed by the kernel, not by us
        path = store.path if view else optional(partial(self._root.resolve, store.path)) or store.path
        mount = fields.read("filesystem", partial(self._mount, path, store.inside))
        places = (view + path, view + mount.point) if mount else ()
        size = fields.first("total_bytes", *(partial(self._root.size, place) for place in places))
        if size is None:
            fields.note("free_bytes", fields.reasons.setdefault("total_bytes", "not_present"))
        return StorageInfo(
            purpose="models",
            found_by=store.found_by,
            filesystem=mount.kind if mount else None,
            kind=fields.read("kind", partial(self._kind, mount)),
            model=None if mount is None else fields.read("model", partial(self._model, mount)),
            total_bytes=size.total_bytes if size else None,
            free_bytes=size.free_bytes if size else None,
            unavailable=fields.reasons,
        )

    def _mount(self, path: str, process: int | None) -> Mount:
        found = mount_of(mounts(self._root, process), path)
        if found is None:
            raise Unreadable("not_present")
        return found

    def _kind(self, mount: Mount | None) -> str:
        if mount is None:
            raise Unreadable("not_present")
        if mount.kind in NETWORK:
            return "network"
        if mount.kind in _MEMORY:
            return "memory"
        name = self._disk(mount).rpartition("/")[2]
        if name.startswith("nvme"):
            return "nvme"
        if name.startswith("mmcblk"):
            return "mmc"
        if name.startswith(_VIRTUAL_DISKS) or optional(partial(self._model, mount)) == _WSL_DISK:
            return "virtual"
        return "hdd" if self._root.integer(f"{self._disk(mount)}/queue/rotational") else "ssd"

    def _model(self, mount: Mount) -> str:
        return bounded(self._root.text(f"{self._disk(mount)}/device/model"))

    def _disk(self, mount: Mount) -> str:
        """The whole disk's folder in /sys."""
        block = f"/sys/dev/block/{mount.device}"
        if not self._root.exists(block):  # btrfs and the like number their devices apart: go by name
            block = f"/sys/class/block/{mount.source.removeprefix('/dev/')}"
        folder = self._root.resolve(block)
        if self._root.exists(f"{folder}/partition"):
            folder = folder.rpartition("/")[0]
        for _ in range(8):  # from a mapped device (LUKS, LVM) down to the first disk that it is made of
            below = optional(partial(self._root.names, f"{folder}/slaves"))
            if not below:
                return folder
            folder = self._root.resolve(f"/sys/class/block/{below[0]}")
            if self._root.exists(f"{folder}/partition"):
                folder = folder.rpartition("/")[0]
        return folder
