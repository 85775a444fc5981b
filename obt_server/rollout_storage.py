"""What lasts of rollouts, of model sets, and of changes of models. Times are Unix seconds."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import msgspec

from obt_agent.errors import AgentError, InvalidParams
from obt_agent.ollama.names import canonical
from obt_agent.protocol.errors import WireError

RolloutAction = Literal["pull", "create", "copy", "delete", "load", "unload"]
RolloutState = Literal["running", "done", "cancelled"]
TargetState = Literal["waiting", "starting", "running", "done", "failed", "refused", "cancelled", "skipped"]
WaitingFor = Literal["turn", "machine", "rollout", "job"]
"""Why a target waits: for its turn (parallelism), for a machine that is offline or busy, for another rollout
on the same model and machine, or for another job of the machine (a benchmark, another transfer)."""

TARGET_STATES: Final[tuple[TargetState, ...]] = (
    "waiting",
    "starting",
    "running",
    "done",
    "failed",
    "refused",
    "cancelled",
    "skipped",
)
ENDED_TARGETS: Final[frozenset[str]] = frozenset({"done", "failed", "refused", "cancelled", "skipped"})
REPEATABLE: Final[frozenset[str]] = ENDED_TARGETS - {"done"}
"""States of a target that a retry begins again."""
JOB_ACTIONS: Final[frozenset[str]] = frozenset({"pull", "create"})
"""Actions that an agent does as a job; the others are plain commands."""


@functools.lru_cache(maxsize=8192)
def model_key(name: str) -> str:
    """Return what all spellings of one model's name have in common, as Ollama reads names.

    An agent may list what is no name; that is its own key.
    """
    try:
        return canonical(name).short
    except InvalidParams:
        return name.lower()


class TooManyRollouts(AgentError):
    """As many rollouts run as the storage keeps: wait, or cancel some."""

    kind = "busy"
    retryable_by_default = True


class CreateSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a new model is made from, as ``create_model`` takes it."""

    from_: str = msgspec.field(name="from")
    system: str | None = None
    template: str | None = None
    parameters: dict[str, object] | None = None
    quantize: str | None = None


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One action on one model, on several machines.

    ``model`` and ``destination`` are names as Ollama shows them. ``digest``: what a pull must bring.
    ``key`` names the request: a second one with it is the same rollout. ``model_set``: which set wanted it.
    ``cancelling``: somebody cancelled it as a whole.
    """

    id: str
    action: RolloutAction
    model: str
    destination: str | None = None
    digest: str | None = None
    create: CreateSpec | None = None
    parallelism: int = 4
    offline: Literal["skip", "wait"] = "skip"
    until: float | None = None
    key: str | None = None
    model_set: str | None = None
    state: RolloutState = "running"
    created_at: float
    created_by: str
    finished_at: float | None = None
    cancelling: bool = False


class RolloutTarget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a rollout did on one machine.

    ``job_id`` is fixed for an attempt before its start is sent, and stored. ``cancelling``: somebody
    cancelled it, and the machine has not said how it ended.
    """

    agent_id: str
    agent_name: str
    state: TargetState = "waiting"
    attempt: int = 1
    job_id: str | None = None
    waiting_for: WaitingFor | None = "turn"
    reason: str | None = None
    error: WireError | None = None
    policy_key: str | None = None
    remedy: str | None = None
    retry_helps: bool | None = None
    digest_before: str | None = None
    digest_after: str | None = None
    completed_bytes: int | None = None
    total_bytes: int | None = None
    freed_bytes: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    cancelling: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it, unless somebody tries again."""
        return self.state in ENDED_TARGETS

    @property
    def begun(self) -> bool:
        """Whether the machine may have been asked already."""
        return not self.ended and (self.state != "waiting" or self.job_id is not None)


@dataclass(frozen=True, kw_only=True)
class RolloutTotals:
    """A rollout with its targets counted by state, and their bytes summed."""

    rollout: Rollout
    counts: Mapping[str, int]
    completed_bytes: int | None = None
    total_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class RolloutFilter:
    """Which rollouts to list; the newest come first."""

    state: RolloutState | None = None
    model: str | None = None
    agent_id: str | None = None
    limit: int = 100


@dataclass(frozen=True, kw_only=True)
class ChangeCause:
    """Who changes a model on a machine: what a rollout or an operator is about to do there.

    It explains changes until ``expires_at``; with ``job_id``, while that job is open and shortly after.
    """

    agent_id: str
    name: str
    job_id: str | None = None
    rollout_id: str | None = None
    model_set: str | None = None
    operator: str | None = None
    expires_at: float


@dataclass(frozen=True, kw_only=True)
class ModelChange:
    """One change of a model on a machine. No rollout, set and operator: it was done at the machine."""

    id: int
    at: float
    agent_id: str
    name: str
    digest_before: str | None
    digest_after: str | None
    rollout_id: str | None = None
    model_set: str | None = None
    operator: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChangeFilter:
    """Which changes to list; the newest come first. ``before``: only those with a smaller id."""

    agent_id: str | None = None
    name: str | None = None
    before: int | None = None
    limit: int = 100


class WantedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model of a set, and the version that it must have, if any."""

    name: str
    digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSet:
    """Models that machines with certain labels are to have.

    ``prune``: other models are to go. ``quiet_hours`` is a range of local times in ``time_zone``, in which
    nothing converges by itself.
    """

    name: str
    models: tuple[WantedModel, ...]
    labels: tuple[str, ...]
    prune: bool = False
    converge: Literal["manual", "automatic"] = "manual"
    quiet_hours: str | None = None
    time_zone: str | None = None
    saved_at: float = field(default=0.0)
    saved_by: str = ""


class RolloutStorage(Protocol):
    """What rollouts, sets and the history of models need of storage. Durable when a call returns."""

    async def create_rollout(self, rollout: Rollout, targets: Sequence[RolloutTarget]) -> Rollout:
        """Store a rollout, or return the one that was stored with the same ``key``.

        The oldest ones that have ended go beyond the number that is kept.

        Raises:
            TooManyRollouts: all that are kept still run.
        """

    async def rollout(self, rollout_id: str) -> Rollout:
        """One rollout. Raises NotStored."""

    async def rollouts(self, which: RolloutFilter) -> Sequence[RolloutTotals]:
        """Rollouts that pass the filter."""

    async def rollout_targets(self, rollout_id: str) -> Sequence[RolloutTarget]:
        """The targets of a rollout, in their order."""

    async def save_rollout(
        self, rollout: Rollout, targets: Sequence[RolloutTarget], causes: Sequence[ChangeCause] = ()
    ) -> None:
        """Store a rollout's state and end, these of its targets, and what is about to change, at once."""

    async def delete_rollout(self, rollout_id: str) -> None:
        """Forget a rollout. Raises NotStored."""

    async def note_causes(self, causes: Sequence[ChangeCause]) -> None:
        """Remember who is about to change a model on a machine, in place of what was noted of it before."""

    async def model_changes(self, which: ChangeFilter) -> Sequence[ModelChange]:
        """Changes that pass the filter."""

    async def model_sets(self) -> Sequence[ModelSet]:
        """All model sets, by name."""

    async def save_model_set(self, wanted: ModelSet) -> None:
        """Store a set, in place of one of the same name."""

    async def delete_model_set(self, name: str) -> None:
        """Forget a set. Raises NotStored."""
