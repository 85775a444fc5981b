"""What to run: a superset of OBT's ``BenchmarkConfig``. Pure.

OBT's names and ranges are kept; everything added is optional. Expansion into cells, and what a plan costs at
worst, are in ``obt_agent.benchmark.expansion``.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from obt_agent.benchmark import prompts
from obt_agent.wire_types import Int64

CacheMode = Literal["bust", "warm", "pair"]

# Bounds of what is decoded at all; what a host allows is the policy's.
MAX_PROMPTS: Final = 64
MAX_SWEEP: Final = 32
MAX_ITERATIONS: Final = 1_000_000
MAX_TOKENS: Final = 1 << 24
MAX_CONCURRENCY: Final = 256

Tokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
Iterations = Annotated[int, Meta(ge=1, le=MAX_ITERATIONS)]
Seconds = Annotated[float, Meta(ge=0, le=30 * 86_400)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=30 * 86_400)]
UnitRange = Annotated[float, Meta(ge=0, le=1)]


class PromptConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prompt and how many tokens to generate for it.

    Exactly one of ``prompt`` (a text), ``prompt_name`` (one of the agent's own) and ``prompt_tokens`` (a
    synthetic prompt of that many tokens) is given; none or several of them are refused with the field's path.
    ``completion_tokens`` becomes Ollama's ``num_predict``.
    """

    prompt: Annotated[str, Meta(min_length=1)] | None = None
    suite_name: str | None = None
    prompt_name: str | None = None
    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens = 100

    def __post_init__(self) -> None:
        given = [self.prompt, self.prompt_name, self.prompt_tokens]
        if sum(value is not None for value in given) != 1:
            raise ValueError("give exactly one of prompt, prompt_name and prompt_tokens")

    @property
    def synthetic(self) -> bool:
        """Whether the agent makes the text itself, to a length in tokens."""
        return self.prompt_tokens is not None


class PlanHardware(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """OBT's ``hardware``: ``use_gpu`` false sends ``num_gpu: 0``, ``gpu_id`` sends ``main_gpu``."""

    use_gpu: bool = True
    gpu_id: Annotated[int, Meta(ge=0, le=255)] | None = None


class Sweep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Dimensions to cross. An empty one keeps the plan's single value.

    ``prompt_tokens`` replaces the length of the plan's synthetic prompts.
    """

    prompt_tokens: Annotated[tuple[Tokens, ...], Meta(max_length=MAX_SWEEP)] = ()
    num_ctx: Annotated[tuple[Tokens, ...], Meta(max_length=MAX_SWEEP)] = ()
    concurrency: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=MAX_CONCURRENCY)], ...], Meta(max_length=MAX_SWEEP)
    ] = ()


class Settle(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to wait for before anything is measured: a machine that nobody else uses, and that has cooled.

    CPU and GPU must have been no busier than ``cpu_percent`` and ``gpu_percent`` for ``idle_for_s``. After
    ``max_wait_s`` the run goes on with a warning, or with ``if_busy: fail`` ends as busy.
    """

    idle_for_s: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    max_wait_s: Annotated[float, Meta(ge=0, le=86_400)] = 300.0
    cpu_percent: Annotated[float, Meta(ge=0, le=100)] = 10.0
    gpu_percent: Annotated[float, Meta(ge=0, le=100)] = 10.0
    if_busy: Literal["measure", "fail"] = "measure"


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One benchmark.

    OBT's own fields:
        model_name, prompt_config, num_iterations (least number of measured iterations of each cell),
        temperature, top_p, top_k, repeat_penalty, hardware.
    Added:
        prompts: several prompts, each a cell of its own; then ``prompt_config`` must be absent. With neither,
            a synthetic prompt of 512 tokens and 128 tokens of answer.
        seed, think, raw: as Ollama has them; ``raw`` defaults to true for synthetic prompts only.
        num_ctx: always sent, so that a run never depends on Ollama's default; when null the agent picks the
            least multiple of 1,024, at least 4,096, that holds every cell.
        num_gpu, num_thread, keep_alive: as Ollama has them.
        warmup_iterations: exactly so many; null means 2 to 4, until two agree within 5 %.
        max_iterations: when above ``num_iterations``, a cell goes on until ``target_ci`` and
            ``min_duration_s`` are met or this many were measured. Null means ``num_iterations``.
        min_duration_s: least seconds of measured generation in a cell that may go on.
        target_ci: widest 95 % interval of decode speed and TTFT, whole width over mean.
        cooldown_s: longest wait before an iteration for the temperature to come down to start + 5 °C.
        cold_load: unload first and wall-time the load.
        cache_mode: ``bust`` opens every prompt with a nonce that is never used again; ``warm`` repeats one
            prompt on purpose; ``pair`` runs each prompt twice, uncached and cached.
        sweep: see ``Sweep``.
        sample_interval_ms: of the hardware's samples while measuring.
        alternate_sampling: sample only every other iteration and report what sampling costs.
        timeout_s: longest single request.
        max_duration_s: longest whole run; what was measured until then is kept.
        settle: see ``Settle``; null begins at once.
    """

    model_name: Annotated[str, Meta(min_length=1, max_length=512)]
    prompt_config: PromptConfig | None = None
    num_iterations: Iterations = 3
    temperature: UnitRange = 0.7
    top_p: UnitRange = 1.0
    top_k: Annotated[int, Meta(ge=0, le=1 << 31)] = 40
    repeat_penalty: Annotated[float, Meta(ge=0, le=1_000_000)] = 1.1
    hardware: PlanHardware = PlanHardware()

    # Added to OBT's fields; all optional.
    prompts: Annotated[tuple[PromptConfig, ...], Meta(max_length=MAX_PROMPTS)] = ()
    seed: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)] | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    raw: bool | None = None
    num_ctx: Tokens | None = None
    num_gpu: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    num_thread: Annotated[int, Meta(ge=1, le=4096)] | None = None
    keep_alive: str | Int64 = "10m"
    warmup_iterations: Annotated[int, Meta(ge=0, le=16)] | None = None
    max_iterations: Iterations | None = None
    min_duration_s: Seconds = 10.0
    target_ci: Annotated[float, Meta(gt=0, le=10)] = 0.10
    cooldown_s: Seconds = 60.0
    cold_load: bool = False
    cache_mode: CacheMode = "bust"
    sweep: Sweep = Sweep()
    sample_interval_ms: Annotated[int, Meta(ge=200, le=60_000)] = 500
    alternate_sampling: bool = False
    timeout_s: PositiveSeconds = 900.0
    max_duration_s: PositiveSeconds = 4 * 3600.0
    settle: Settle | None = None

    def __post_init__(self) -> None:
        if self.prompt_config is not None and self.prompts:
            raise ValueError("give prompt_config or prompts, not both")
        if self.sweep.prompt_tokens and not all(prompt.synthetic for prompt in self.all_prompts):
            raise ValueError(
                "sweep.prompt_tokens needs synthetic prompts: give prompt_tokens instead of a text"
            )

    @property
    def all_prompts(self) -> tuple[PromptConfig, ...]:
        """The prompts, whichever way they were given."""
        if self.prompts:
            return self.prompts
        return (self.prompt_config or DEFAULT_PROMPT,)

    @property
    def most_iterations(self) -> int:
        """The largest number of measured iterations of one cell."""
        return max(self.num_iterations, self.max_iterations or 0)


DEFAULT_PROMPT: Final = PromptConfig(prompt_tokens=512, completion_tokens=128)

# Fields that say what is measured, and when; not how.
NOT_OF_THE_METHOD: Final = ("model_name", "settle")

# Raised when the method changes in a way that no field of the plan shows, such as other synthetic words.
_HASH_VERSION: Final = 1


def plan_hash(plan: Plan) -> str:
    """Sha256 in hexadecimal of everything that decides how the plan is measured.

    Two plans with equal hashes ask for the same method. The model's name is left out: it is what is compared,
    and stands in the result with its digest; so is ``settle``, which says when to begin. Defaults count as
    given, named prompts by their text, and ``prompt_config`` equals ``prompts`` of one.
    """
    fields = {name: getattr(plan, name) for name in plan.__struct_fields__}
    for name in (*NOT_OF_THE_METHOD, "prompt_config"):
        del fields[name]
    # Equal prompts hash alike, whichever field they were given in.
    fields["prompts"] = tuple(_prompt_fields(prompt) for prompt in plan.all_prompts)
    fields["hardware"] = msgspec.structs.asdict(plan.hardware)
    fields["sweep"] = msgspec.structs.asdict(plan.sweep)
    fields["hash_version"] = _HASH_VERSION
    return hashlib.sha256(msgspec.json.encode(fields, order="deterministic")).hexdigest()


def _prompt_fields(prompt: PromptConfig) -> dict[str, str | int | None]:
    name = prompt.prompt_name
    return {
        "text": prompt.prompt if name is None else prompts.NAMED.get(name, f"unknown prompt {name}"),
        "prompt_tokens": prompt.prompt_tokens,
        "completion_tokens": prompt.completion_tokens,
    }
