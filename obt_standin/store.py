"""What is installed, and how the lists and ``show`` describe it."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from obt_standin.clock import rfc3339
from obt_standin.names import display
from obt_standin.script import Model, ModelBlob, Script

Json = dict[str, Any]


class Store:
    """The installed models, by the name that lists show; the newest first, as Ollama lists them.

    A file that several models list is there once, and goes with the last of them.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        # The newest first, as Ollama lists them.
        self._models: dict[str, Model] = {}
        # Whole files by digest, and their sizes.
        self.blobs: dict[str, int] = {}
        # Of files that a pull broke off: how many bytes are here. The next pull goes on from there.
        self.partial: dict[str, int] = {}
        # What the models of the script fill, which ``disk_bytes`` does not count.
        self._filled_at_start = 0
        self.install(script.models)

    def install(self, models: list[Model]) -> None:
        """Have these models and no others."""
        self._models, self.blobs, self.partial = {}, {}, {}
        for model in models:
            self.add(model)
        self._filled_at_start = self._filled()

    @property
    def free_bytes(self) -> int | None:
        """What is free on the disk; None when that has no end."""
        disk = self._script.disk_bytes
        return None if disk is None else disk + self._filled_at_start - self._filled()

    def _filled(self) -> int:
        return sum(self.blobs.values()) + sum(self.partial.values())

    def find(self, name: str) -> Model | None:
        """The model of that name, in any form of it."""
        shown = display(name)
        return None if shown is None else self._models.get(shown)

    def add(self, model: Model) -> None:
        """Install a model; whatever it leaves open is filled in."""
        name = display(model.name) or model.name
        filled = msgspec.structs.replace(
            model,
            name=name,
            digest=model.digest or manifest_digest(model),
            modified_at=model.modified_at or rfc3339(),
            blobs=model.blobs or (ModelBlob(own_digest(name), model.size),),
        )
        # Installed anew it is the newest, and comes first in the list.
        before = self._models.pop(name, None)
        self._models = {name: filled, **self._models}
        for blob in filled.blobs:
            self.partial.pop(blob.digest, None)
            self.blobs.setdefault(blob.digest, blob.size)
        self._prune(before)

    def remove(self, name: str) -> None:
        """Uninstall the model that ``find`` finds, with the files that no other one lists."""
        self._prune(self._models.pop(display(name) or name, None))

    def _prune(self, gone: Model | None) -> None:
        """Drop the files of a model that is gone, but for those that others list."""
        used = {blob.digest for model in self._models.values() for blob in model.blobs}
        for blob in gone.blobs if gone is not None else ():
            if blob.digest not in used:
                self.blobs.pop(blob.digest, None)

    def tags(self) -> Json:
        """The answer of ``/api/tags``."""
        return {"models": [self._tag(model) for model in self._models.values()]}

    def openai(self) -> Json:
        """The answer of ``/v1/models``."""
        listed = [
            {"id": name, "object": "model", "created": 1_795_355_330, "owned_by": "library"}
            for name in self._models
        ]
        return {"object": "list", "data": listed}

    def _tag(self, model: Model) -> Json:
        entry: Json = {"name": model.name, "model": model.name}
        if model.remote_model:
            entry |= {"remote_model": model.remote_model, "remote_host": model.remote_host}
        entry |= {"modified_at": model.modified_at, "size": model.size, "digest": model.digest}
        entry["details"] = details(model)
        if self._script.tags_details and not model.remote_model:
            entry["details"] |= {
                "context_length": model.context_length,
                "embedding_length": model.embedding_length,
            }
            entry["capabilities"] = list(model.capabilities)
        return entry


def manifest_digest(model: Model) -> str:
    """The digest of a model that is given none."""
    return hashlib.sha256(msgspec.json.encode(model)).hexdigest()


def own_digest(name: str) -> str:
    """The digest of the one file of a model whose files are not scripted."""
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def details(model: Model) -> Json:
    """The ``details`` that every list repeats."""
    remote = bool(model.remote_model)
    return {
        "parent_model": model.parent_model,
        "format": "" if remote else "gguf",
        "family": "" if remote else model.family,
        "families": None if remote else [model.family],
        "parameter_size": "" if remote else _parameter_size(model.parameters),
        "quantization_level": "" if remote else model.quantization_level,
    }


def blob_path(digest: str) -> str:
    """Where Ollama keeps a file."""
    return f"/usr/share/ollama/.ollama/models/blobs/{digest.replace(':', '-')}"


def show(model: Model, *, verbose: bool) -> Json:
    """The answer of ``/api/show``; the words in it say that no weights are behind it."""
    shown: Json = {"license": model.license} if model.license else {}
    shown["modelfile"] = (
        f'# Modelfile generated by "ollama show"\n# FROM {model.name}\n\n'
        f"FROM {blob_path(model.blobs[0].digest)}\n"
    )
    shown["parameters"] = "num_thread                     1"
    shown["template"] = model.template or "{{ .Prompt }}"
    if model.system:
        shown["system"] = model.system
    shown["details"] = details(model)
    shown["model_info"] = _model_info(model, verbose=verbose)
    shown["tensors"] = [{"name": "token_embd.weight", "type": "F16", "shape": [model.embedding_length, 3994]}]
    shown["capabilities"] = list(model.capabilities)
    shown["modified_at"] = model.modified_at
    return shown


def _model_info(model: Model, *, verbose: bool) -> Json:
    family = model.family
    info: Json = {
        "general.architecture": family,
        "general.description": "a stand-in for Ollama: no weights, scripted answers",
        "general.file_type": 1,
        "general.license": model.license or "none",
        "general.parameter_count": model.parameters,
        "general.quantization_version": 2,
        "general.type": "model",
        f"{family}.attention.head_count": 4,
        f"{family}.attention.head_count_kv": 2,
        f"{family}.attention.layer_norm_rms_epsilon": 1e-05,
        f"{family}.block_count": 4,
        f"{family}.context_length": model.context_length,
        f"{family}.embedding_length": model.embedding_length,
        f"{family}.feed_forward_length": 2 * model.embedding_length,
        f"{family}.rope.dimension_count": 64,
        f"{family}.rope.freq_base": 10000,
        f"{family}.vocab_size": 3994,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 3991,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.scores": [0] * 64 if verbose else None,
        "tokenizer.ggml.token_type": [1] * 64 if verbose else None,
        "tokenizer.ggml.tokens": [f"<{n}>" for n in range(64)] if verbose else None,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    # Ollama shows it for models that embed, and for no others.
    if "embedding" in model.capabilities:
        info[f"{family}.pooling_type"] = 1
    # Go prints maps in the order of their keys.
    return dict(sorted(info.items()))


def _parameter_size(count: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.2f}".rstrip("0").rstrip(".") + unit
    return str(count)
