"""The file system of Ollama's model store."""

from __future__ import annotations

from functools import partial

from obt_agent.hardware.mounts import Mount, mount_of, mounts
from obt_agent.hardware.providers.base import state_of
from obt_agent.hardware.readings import Gaps, Unreadable, bounded, optional
from obt_agent.hardware.root import Root
from obt_agent.hardware.schema import ProviderState, StorageInfo

_DEFAULT_STORES = ("/usr/share/ollama/.ollama/models", "/var/lib/ollama/models", "/root/.ollama/models")
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph", "glusterfs", "afs"}
_MEMORY = {"tmpfs", "ramfs"}
_VIRTUAL_DISKS = ("vd", "xvd")


class StorageProvider:
    """The model store. Its calls may hang when the store lies on a network."""

    name = "storage"

    def __init__(self, root: Root, models: str | None = None) -> None:
        self._root = root
        self._models = models
        self._pid: int | None = None

    def follow(self, pid: int | None) -> None:
        """Ask this process of Ollama's where its models are."""
        self._pid = pid

    def probe(self) -> ProviderState:
        """Whether mounts can be read."""
        gaps = Gaps()
        gaps.read("mounts", partial(mounts, self._root))
        return state_of(self.name, gaps.reasons.get("mounts"), verified=True)

    def inventory(self) -> tuple[StorageInfo, ...]:
        """The model store's file system, or nothing when the store is not to be found."""
        path = self._store()
        return () if path is None else (self._describe(path),)

    def close(self) -> None:
        """Nothing is kept open."""

    def _store(self) -> str | None:
        told = self._models or optional(self._from_environment)
        if told is not None:
            return told
        return next((path for path in _DEFAULT_STORES if optional(partial(self._is_there, path))), None)

    def _is_there(self, path: str) -> bool:
        return self._root.exists(path)

    def _from_environment(self) -> str:
        """Ollama's own setting, or its user's home; its environment is readable by its user and root."""
        variables = dict(
            entry.partition("=")[::2] for entry in self._root.text(f"/proc/{self._pid}/environ").split("\0")
        )
        if variables.get("OLLAMA_MODELS"):
            return variables["OLLAMA_MODELS"]
        if variables.get("HOME"):
            return f"{variables['HOME']}/.ollama/models"
        raise Unreadable("not_reported")

    def _describe(self, path: str) -> StorageInfo:
        gaps = Gaps()
        resolved = optional(partial(self._root.resolve, path)) or path
        mount = gaps.read("filesystem", partial(self._mount, resolved))
        size = (
            None
            if mount is None
            else gaps.first(
                "total_bytes", partial(self._root.size, resolved), partial(self._root.size, mount.point)
            )
        )
        if size is None:
            gaps.note("free_bytes", gaps.reasons.setdefault("total_bytes", "not_present"))
        return StorageInfo(
            purpose="models",
            filesystem=mount.kind if mount else None,
            kind=gaps.read("kind", partial(self._kind, mount)),
            model=None if mount is None else gaps.read("model", partial(self._model, mount)),
            total_bytes=size.total_bytes if size else None,
            free_bytes=size.free_bytes if size else None,
            unavailable=gaps.reasons,
        )

    def _mount(self, path: str) -> Mount:
        found = mount_of(mounts(self._root), path)
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
        if name.startswith(_VIRTUAL_DISKS):
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
