"""Pulls: a model's files, one after the other, from the scripted registry into the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from obt_standin.names import display
from obt_standin.request_body import Json
from obt_standin.script import Model, ModelBlob, PullFault, Script
from obt_standin.store import Store, blob_path, manifest_digest, own_digest


class PullError(Exception):
    """A pull or create that goes wrong after it has begun."""


class Downloads:
    """Fetches what the script's registry offers.

    As in Ollama, a pull whose client goes keeps the bytes that it has, and the next one goes on from there.
    """

    def __init__(self, script: Script, installed: Store) -> None:
        self._script = script
        self._store = installed

    async def pull(self, name: str, *, insecure: bool) -> AsyncIterator[Json]:
        """Yield a pull's lines.

        Raises:
            PullError: as scripted, or because the registry has no such model, or the disk is full.
        """
        yield {"status": "pulling manifest"}
        model = self._offered(name, insecure=insecure)
        blobs = model.blobs or (ModelBlob(own_digest(model.name), self._script.pull_bytes),)
        fault = self._script.pull_faults.pop(0) if self._script.pull_faults else None
        whole = sum(blob.size for blob in blobs)
        before = 0
        for blob in blobs:
            async for completed, total in self._blob(blob, before, whole, fault):
                status = f"pulling {blob.digest[7:19]}"
                yield {"status": status, "digest": blob.digest, "total": total, "completed": completed}
            before += blob.size
        yield {"status": "verifying sha256 digest"}
        await asyncio.sleep(self._script.verify_s)
        yield {"status": "writing manifest"}
        # One manifest has one digest, under whatever name it is installed.
        digest = model.digest or manifest_digest(model)
        size = whole if model.blobs else model.size
        self._store.add(msgspec.structs.replace(model, name=name, blobs=blobs, digest=digest, size=size))
        yield {"status": "success"}

    async def _blob(
        self, blob: ModelBlob, before: int, whole: int, fault: PullFault | None
    ) -> AsyncIterator[tuple[int, int]]:
        """Fetch one file; yield how many of its bytes are here, and how many it has."""
        here = self._store.blobs.get(blob.digest)
        if here is not None:
            yield here, here
            return
        done = self._store.partial.get(blob.digest, 0)
        # In tenths, so that progress shows whatever the size.
        step = max(1, -(-blob.size // 10))
        while done < blob.size:
            part = min(step, blob.size - done)
            await asyncio.sleep(self._script.pull_s * part / whole)
            if fault is not None and before + done >= fault.after * whole:
                raise PullError(fault.error)
            free = self._store.free_bytes
            if free is not None and free < part:
                raise PullError(f"write {blob_path(blob.digest)}-partial: no space left on device")
            done += part
            self._store.partial[blob.digest] = done
            yield done, blob.size
        self._store.partial.pop(blob.digest, None)
        self._store.blobs[blob.digest] = blob.size

    def _offered(self, name: str, *, insecure: bool) -> Model:
        """What the registry has under a name.

        Raises:
            PullError: there is no such host, or it has no such model.
        """
        shown = display(name) or ""
        host, _, _path = shown.rpartition("/")[0].partition("/")
        tag = shown.rpartition(":")[2]
        path = shown.rpartition(":")[0].rpartition("/")[2]
        # As Docker reads names: a first part without a dot or a port is a namespace, and no host.
        reached = host if "." in host or ":" in host else "registry.ollama.ai"
        if reached != self._script.registry_host or not self._script.registry:
            scheme = "http" if insecure and "://" in name + "://" else "https"
            scheme = scheme if reached != "registry.ollama.ai" else "https"
            why = "connect: connection refused" if ":" in reached else "no such host"
            dial = f"dial tcp {reached}" if ":" in reached else f"dial tcp: lookup {reached} on 127.0.0.53:53"
            manifest = f"{scheme}://{reached}/v2/library/{path}/manifests/{tag}"
            raise PullError(f'pull model manifest: Get "{manifest}": {dial}: {why}')
        wanted = f"{path}:{tag}"
        for model in self._script.registry:
            if model.name == wanted:
                return model
        raise PullError("pull model manifest: file does not exist")
