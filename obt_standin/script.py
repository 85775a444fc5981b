"""What a stand-in does: speed, content, faults, models. Plain values, also readable from JSON."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

# How a request is met: as Ollama would; with a web page; with nginx's own page for 502; 503 queue full; 500
# as when memory runs out at load; with silence; with a reset connection; with bytes that are no HTTP.
Answer = Literal["ollama", "html", "bad_gateway", "busy", "load_fails", "hang", "reset", "garbage"]

# How a stream ends: properly; cleanly with no final line; the same after 30 equal tokens; with an error line;
# as when the runner is killed; with the connection closed before the last chunk; closed inside a chunk;
# reset; with silence; with a line that is no JSON.
Ending = Literal[
    "done",
    "no_final_line",
    "repeat",
    "error",
    "runner_killed",
    "close",
    "cut",
    "reset",
    "hang",
    "broken_line",
]


class Stall(msgspec.Struct, frozen=True):
    """A silence of ``seconds`` before the token with index ``before_token`` (from 0)."""

    before_token: int
    seconds: float


class Behaviour(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How one generation goes. Times are seconds, rates are tokens a second; None means without delay.

    Args:
        answer: how the request is met at all. In a script itself it holds for every request; in a model's
            behaviour, or one for once, for generations.
        load_s: wall time of loading the model.
        ttft_s: time from the free slot to the first token; replaces what ``prefill_tps`` gives.
        prefill_tps: rate at which the prompt is read, tokens in the cache left out.
        decode_tps: rate of the tokens after the first.
        jitter: each token is late by a random share of its interval, 0 to ``jitter``; not accumulated.
        spread: each generation's rates are lower by a random share of theirs, 0 to ``spread``.
        stalls: silences, each of which moves all later tokens.
        prompt_cache: whether a common beginning with the last prompt in a slot is not read again.
        prompt_cache_mb: MiB that the runner's process grows by for each finished prompt that it keeps.
        slot_save_s: time of saving the prompt before, which is in the whole time and in no part of it.
        first_line_late_s: by how much the first line is written after its token was there.
        prompt_tokens: the prompt's length; counted in its words when None.
        tokens: length at which the model ends by itself.
        thinking_tokens: how many of a thinking model's tokens are thoughts, when it thinks.
        text: the tokens to send, over and over; a text that says what it is when None.
        numbered: send `` 0``, `` 1``, `` 2`` … as tokens, so that a gap shows.
        tool_call: whether a chat with tools is answered by calling the first of them.
        tokens_per_line: how many tokens a line holds.
        lines_per_write: how many lines one write holds; they go when the last of them is due.
        split_bytes: size of the pieces in which the bytes are written.
        ending: how the stream ends.
        ending_after: after how many tokens an abnormal ending comes; at half of them when None.
        error: text of the error line, where ``ending`` is ``error``.
        fast: no schedule, no log of single lines: blocks of lines as fast as the socket takes them.
        fast_block_lines: lines in one such block.
        pull_bytes: size of the layer that a pull fetches, of a model whose ``blobs`` are not scripted.
        pull_s: how long a pull of the whole model takes; what is here already takes no time.
        verify_s: how long it takes to check what was pulled.
    """

    answer: Answer = "ollama"
    load_s: float = 0.0
    ttft_s: float | None = None
    prefill_tps: float | None = None
    decode_tps: float | None = None
    jitter: float = 0.0
    spread: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    stalls: tuple[Stall, ...] = ()
    prompt_cache: bool = True
    prompt_cache_mb: int = 0
    slot_save_s: float = 0.0
    first_line_late_s: float = 0.0
    prompt_tokens: int | None = None
    tokens: int = 64
    thinking_tokens: int = 8
    text: tuple[str, ...] | None = None
    numbered: bool = False
    tool_call: bool = False
    tokens_per_line: int = 1
    lines_per_write: int = 1
    split_bytes: int | None = None
    ending: Ending = "done"
    ending_after: int | None = None
    error: str = "an error was encountered while running the model: stand-in was told to fail"
    fast: bool = False
    fast_block_lines: int = 500
    pull_bytes: int = 1 << 20
    pull_s: float = 0.0
    verify_s: float = 0.0


class ModelBlob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a model: ``digest`` as Ollama writes it (``sha256:`` and 64 digits), ``size`` in bytes."""

    digest: str
    size: int


class PullFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one pull fails: with this error line, once the share ``after`` of the model's bytes is here."""

    error: str
    after: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5


class Model(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One installed model.

    Args:
        name: full name with its tag.
        size: bytes on disk.
        parameters: count of weights.
        layers: GPU layers that ``/api/ps`` reckons with.
        context_length: longest context.
        embedding_length: width of the model.
        capabilities: ``completion``, ``tools``, ``thinking``, ``vision``, ``insert``, ``embedding``.
        family: architecture.
        quantization_level: as ``/api/tags`` shows it.
        go_template: whether the model has a Go template; without one the chat path never ends on repetition.
        num_predict: the model's own limit of output tokens.
        parent_model: name it was made from.
        remote_model: for a stub: the model elsewhere.
        remote_host: for a stub: where.
        digest: of the manifest; made from the rest when empty.
        modified_at: RFC 3339; the start of the stand-in when empty.
        vram_ratio: share that is loaded on the GPU.
        blobs: its files, the weights first; models that list one digest share the file. One of their own when
            empty.
        behaviour: replaces the script's for this model.
    """

    name: str
    size: int = 8_899_408
    parameters: int = 4_406_528
    context_length: int = 4096
    embedding_length: int = 256
    capabilities: tuple[str, ...] = ("completion",)
    family: str = "llama"
    quantization_level: str = "F16"
    go_template: bool = True
    template: str = ""
    system: str = ""
    license: str = ""
    num_predict: int | None = None
    parent_model: str = ""
    remote_model: str = ""
    remote_host: str = ""
    digest: str = ""
    modified_at: str = ""
    vram_ratio: float = 0.0
    blobs: tuple[ModelBlob, ...] = ()
    behaviour: Behaviour | None = None


def usual_models() -> list[Model]:
    """A small model that talks, one that thinks and calls tools, one that embeds, and a remote stub."""
    return [
        Model(
            name="standin-small:latest",
            size=163_427_309,
            parameters=81_650_000,
            embedding_length=768,
            quantization_level="Q4_K_M",
        ),
        Model(
            name="standin-think:8b",
            size=4_920_753_328,
            parameters=8_030_261_248,
            context_length=131_072,
            embedding_length=4096,
            quantization_level="Q4_K_M",
            capabilities=("completion", "tools", "thinking"),
        ),
        Model(
            name="standin-embed:latest",
            size=8_899_334,
            context_length=2048,
            capabilities=("embedding",),
            family="bert",
        ),
        Model(
            name="standin-far:cloud",
            size=196,
            remote_model="standin-far",
            remote_host="https://ollama.com:443",
        ),
    ]


class Script(Behaviour, kw_only=True, forbid_unknown_fields=True):
    """The whole stand-in: how generations go (see ``Behaviour``), and what the server is.

    Args:
        version: what ``/api/version`` says.
        models: what is installed at the start.
        once: behaviours for the next generations, one each; used up in order.
        num_parallel: slots of a loaded model.
        max_queue: requests that may wait for a load.
        keep_alive_s: how long a model stays loaded after its last request.
        default_num_ctx: context where the request names none.
        cloud: whether remote stubs may be used at all (no answer of theirs is imitated).
        tags_details: whether ``/api/tags`` shows capabilities and context length, as newer Ollamas do.
        latency_s: delay before each answer that generates nothing.
        registry_host: host that pulls reach; every other one is without a network, as in the recordings.
        registry: what that host offers.
        pull_faults: failures of the next pulls, one each; used up in order.
        disk_bytes: what is free on the disk of the models at the start; a pull that needs more fails as on a
            full disk. None is a disk without an end.
        blobs: digests that are uploaded already; ``*`` stands for any.
        runner_processes: whether each loaded model has a process of its own, as Ollama's have.
        runner_memory_mb: MiB that such a process holds.
        prompt_cache_limit_mb: most that it holds of finished prompts, as ``LLAMA_ARG_CACHE_RAM`` sets it; 0
            keeps none, and saves none.
        seed: of everything random.
    """

    version: str = "0.33.0-standin"
    models: list[Model] = msgspec.field(default_factory=usual_models)
    once: list[Behaviour] = msgspec.field(default_factory=list)
    num_parallel: int = 1
    max_queue: int = 512
    keep_alive_s: float = 300.0
    default_num_ctx: int = 4096
    cloud: bool = False
    tags_details: bool = True
    latency_s: float = 0.0
    registry_host: str = "registry.ollama.ai"
    registry: list[Model] = msgspec.field(default_factory=list)
    pull_faults: list[PullFault] = msgspec.field(default_factory=list)
    disk_bytes: int | None = None
    blobs: tuple[str, ...] = ()
    runner_processes: bool = False
    runner_memory_mb: int = 32
    prompt_cache_limit_mb: int = 8192
    seed: int = 0
