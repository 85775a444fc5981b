"""What Ollama says of its models, in the shape that travels further (unknown fields are dropped)."""

from __future__ import annotations

import msgspec

from obt_agent.wire_types import Int64


class InstalledModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One installed model (``/api/tags``), with whether it is loaded (``/api/ps``).

    ``digest`` is the model's version: the manifest's sha256 in hexadecimal. ``modified_at`` is RFC 3339 as
    Ollama prints it. ``remote_host`` and ``remote_model`` are set for stubs whose prompts leave the machine.
    """

    name: str
    digest: str
    size_bytes: Int64
    modified_at: str | None = None
    format: str | None = None
    family: str | None = None
    families: tuple[str, ...] = ()
    parameter_size: str | None = None
    quantization_level: str | None = None
    context_length: Int64 | None = None
    embedding_length: Int64 | None = None
    capabilities: tuple[str, ...] = ()
    remote_model: str | None = None
    remote_host: str | None = None
    loaded: bool = False


class RunningModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One loaded model (``/api/ps``).

    ``size_bytes`` is Ollama's estimate of the whole, ``size_vram_bytes`` of the part on GPUs (0 on a CPU).
    ``expires_at`` is RFC 3339; a model kept for ever expires in a far year.
    """

    name: str
    digest: str
    size_bytes: Int64
    size_vram_bytes: Int64
    context_length: Int64 | None = None
    expires_at: str | None = None
    parameter_size: str | None = None
    quantization_level: str | None = None

    @property
    def gpu_offload_ratio(self) -> float | None:
        """Share of the model on GPUs, 0 to 1, by Ollama's estimate; None where its two sizes contradict.

        Over several GPUs Ollama lists some models with more on the GPUs than in all, and its own client shows
        "Unknown" for these.
        """
        if not 0 <= self.size_vram_bytes <= self.size_bytes or self.size_bytes == 0:
            return None
        return self.size_vram_bytes / self.size_bytes


class OllamaState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether Ollama answers; ``since`` is Unix seconds of the last change of ``reachable``."""

    reachable: bool
    version: str | None = None
    since: float | None = None
    error: str | None = None
