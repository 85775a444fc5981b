"""Before anything is measured: what is here, is it idle, and what does it use at rest."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from obt_agent.benchmark import resources, statistics
from obt_agent.benchmark.environment import Environment
from obt_agent.benchmark.iteration_result import Baseline
from obt_agent.benchmark.records import RunStarted
from obt_agent.benchmark.run_state import RunState
from obt_agent.benchmark.sampling import read_once
from obt_agent.benchmark.semantics import keeps_prompts, semantics
from obt_agent.benchmark.settling import settle
from obt_agent.errors import ModelNotFound, OllamaError, Unsupported
from obt_agent.hardware.inventory import Inventory
from obt_agent.hardware.samples import Sample
from obt_agent.ollama.client import OllamaClient
from obt_agent.ollama.lists import read_weights
from obt_agent.ollama.names import canonical
from obt_agent.ollama.payloads import InstalledModel, RunningModel

# GPU memory that differs by no more between two samples has settled.
SETTLED_MB: Final = 50.0
# Above these other programs take more than an idle desktop does, and the figures with it.
BUSY_CPU_PERCENT: Final = 25.0
BUSY_GPU_PERCENT: Final = 10.0


async def preflight(state: RunState) -> None:
    """Check Ollama and the machine, wait for it if the plan asks so, and record where the run measures.

    Raises:
        Busy: it did not become idle, and the plan asks to end then.
        ModelNotFound: Ollama has no such model.
        Unsupported: the model runs on another machine.
        OllamaError: Ollama, or the model, is another one than before the run was interrupted.
        OllamaUnavailable: no Ollama answers.
    """
    state.enter("preflight")
    version = await state.ollama.version()
    model = _find((await state.ollama.installed()).models, state.plan.model_name)
    await settle(state)
    state.enter("preflight")
    running = (await state.ollama.running()).models
    state.note_listed(running)
    state.inventory = await _inventory(state)
    shown = await read_once(
        weights(state.ollama, state.plan.model_name), what="weights", timeout_s=state.limits.reading_s
    )
    state.processes = state.processes._replace(blob=shown)
    loaded_now = loaded(running, state.plan.model_name) is not None
    # After a restart of the agent the model may be loaded by the run itself.
    if not state.starts:
        state.was_loaded = loaded_now
    at_rest = await _at_rest(state)
    _check_idle(state, at_rest, loaded_now=loaded_now)
    if loaded_now and at_rest and keeps_prompts(version):
        state.memory.seen_before(at_rest[-1])
    others = tuple(one.name for one in running if not same(one.name, state.plan.model_name))
    if others:
        state.warn(
            "other_models_loaded",
            f"other models were loaded: {', '.join(others)}",
            "unload them (ollama stop NAME), for they take memory and may take time",
        )
    now = _environment(state, version, model, others)
    _check_unchanged(state, now)
    await state.record(RunStarted(start_time=state.start_time, environment=now, was_loaded=state.was_loaded))


async def weights(ollama: OllamaClient, model: str) -> str | None:
    """Return the digest of the file that holds a model's weights; None where Ollama names none."""
    # The first one: adapters follow it.
    named = read_weights(await ollama.show(model))
    return named[0].removeprefix("sha256:") if named else None


def same(one: str, other: str) -> bool:
    """Whether two names mean one model."""
    return canonical(one) == canonical(other)


def loaded(running: tuple[RunningModel, ...], name: str) -> RunningModel | None:
    """The model as Ollama lists it when it is loaded."""
    return next((one for one in running if same(one.name, name)), None)


def _find(installed: tuple[InstalledModel, ...], name: str) -> InstalledModel:
    for model in installed:
        if same(model.name, name):
            if model.remote_host or model.remote_model:
                raise Unsupported(
                    f"{name} runs on {model.remote_host or 'another machine'}: its speed says nothing "
                    "about this one; choose a local model",
                    model=name,
                )
            return model
    raise ModelNotFound(f"Ollama has no model {name!r}; pull it with: ollama pull {name}", model=name)


async def _inventory(state: RunState) -> Inventory | None:
    """What the machine is now: power limit and governor change without a sign; else as collected last."""
    for refresh in (True, False):
        reading = state.machine.inventory(refresh=refresh)
        found = await read_once(reading, what="inventory", timeout_s=state.limits.reading_s)
        if found is not None:
            return found
    return None


async def _at_rest(state: RunState) -> list[Sample]:
    """Samples of the machine at rest, once its GPU memory holds still; fewer when they do not come."""
    deadline = time.monotonic() + state.limits.settle_s
    samples = state.sampler.recent
    while len(samples) < state.limits.settle_samples or not settled(samples):
        left = deadline - time.monotonic()
        if left <= 0 or await state.sampler.wait_next(left) is None:
            break
    if not settled(samples):
        state.warn(
            "vram_not_settled",
            f"GPU memory still moved by more than {SETTLED_MB:g} MB when the run began",
            "let other programs finish; the baseline of GPU memory is uncertain",
        )
    return samples


def settled(samples: list[Sample]) -> bool:
    """Whether the last two samples that know GPU memory agree; true where none does."""
    known = [used for sample in samples if (used := resources.gpu_memory_used(sample)) is not None]
    return len(known) < 2 or abs(known[-1] - known[-2]) <= SETTLED_MB  # noqa: PLR2004 - two to compare


def _mean_of(samples: list[Sample], reading: resources.Reading) -> float | None:
    known = [value for sample in samples if (value := reading(sample)) is not None]
    return statistics.mean(known) if known else None


def _check_idle(state: RunState, samples: list[Sample], *, loaded_now: bool) -> None:
    cpu, gpu = _mean_of(samples, resources.cpu_percent), _mean_of(samples, resources.gpu_percent)
    if cpu is not None and cpu > BUSY_CPU_PERCENT:
        state.warn(
            "cpu_busy",
            f"the CPU was {cpu:.0f} % busy before the run",
            "close other programs and run again",
        )
    if gpu is not None and gpu > BUSY_GPU_PERCENT:
        state.warn(
            "gpu_busy",
            f"the GPU was {gpu:.0f} % busy before the run",
            "close other programs and run again",
        )
    # GPU memory is baselined only without the model: else the model itself would be subtracted. Of the
    # host's the server alone is the baseline: the model is in a process of its own.
    last = samples[-1] if samples else None
    state.start_temperature = resources.hottest(last) if last else None
    state.baseline = Baseline(
        rss_mb=None if last is None else resources.server_rss(last),
        vram_mb=None if loaded_now or last is None else resources.gpu_memory_used(last),
        idle_watts=_mean_of(samples, resources.gpu_power),
    )
    state.environment = msgspec.structs.replace(
        state.environment,
        idle_watts=state.baseline.idle_watts,
        idle_cpu_percent=cpu,
        idle_gpu_percent=gpu,
        cpu_temperature=_mean_of(samples[-1:], resources.cpu_temperature),
        gpu_temperature=_mean_of(samples[-1:], resources.gpu_temperature),
    )


def _environment(
    state: RunState, version: str, model: InstalledModel, others: tuple[str, ...]
) -> Environment:
    here = state.inventory
    found = msgspec.structs.replace(
        state.environment,
        ollama_version=version,
        metric_semantics=semantics(version),
        model=model.name,
        model_digest=model.digest,
        quantization=model.quantization_level,
        parameter_size=model.parameter_size,
        context_length=model.context_length,
        other_models_loaded=others,
        **(_of_inventory(here) if here else {}),
    )
    missing = {"num_parallel": "Ollama's API does not tell it"}
    if here is None:
        missing["hardware"] = "the inventory could not be read"
    reasons = _reasons(here)
    missing |= {field: why for field, why in reasons.items() if getattr(found, field) is None}
    return msgspec.structs.replace(found, unavailable=missing)


def _reasons(here: Inventory | None) -> dict[str, str]:
    """Why a field of the environment is null, where it is."""
    no_gpu = "no GPU was seen" if here is not None and not here.gpus else "no driver gave it"
    unread = {"kernel": "kernel", "cpu_governor": "governor"}
    given = {} if here is None else here.host.unavailable | here.cpu.unavailable
    return {
        "idle_watts": "no driver gave power",
        "idle_cpu_percent": "no sample has it",
        "cpu_temperature": "no sensor gave it",
        **dict.fromkeys(("driver", "power_limit_watts", "idle_gpu_percent", "gpu_temperature"), no_gpu),
        **{field: given.get(source, "the inventory has none") for field, source in unread.items()},
    }


def _of_inventory(here: Inventory) -> dict[str, object]:
    drivers = [f"{gpu.driver or gpu.vendor} {gpu.driver_version}" for gpu in here.gpus if gpu.driver_version]
    limits = [gpu.power_limit_watts for gpu in here.gpus if gpu.power_limit_watts is not None]
    system = " ".join(part for part in (here.host.distro or here.host.os, here.host.kernel) if part)
    return {
        "gpu": tuple(gpu.name or gpu.id for gpu in here.gpus),
        "driver": ", ".join(dict.fromkeys(drivers)) or None,
        "power_limit_watts": sum(limits) if limits else None,
        "cpu": here.cpu.model,
        "memory_bytes": here.memory.total_bytes,
        "os": system or None,
        "kernel": here.host.kernel,
        "cpu_governor": here.cpu.governor,
        "hardware_fingerprint": here.fingerprint,
    }


def _check_unchanged(state: RunState, now: Environment) -> None:
    """A resumed run measures the same thing, or it ends with what it has."""
    if not state.starts:  # the first start: there is nothing to hold it against
        return
    before = state.environment
    for what, then, today in (
        ("Ollama's version", before.ollama_version, now.ollama_version),
        ("the model's digest", before.model_digest, now.model_digest),
        ("the plan", before.plan_hash, now.plan_hash),
    ):
        if then != today:
            raise CannotResume(f"{what} changed from {then} to {today} while the run was interrupted")


class CannotResume(OllamaError):
    """What was measured before the interruption and what would follow do not belong together."""
