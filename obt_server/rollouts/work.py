"""One attempt of a rollout on one machine: the start, whatever happens to the link, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from obt_agent.errors import AgentError, Busy, LinkLost, ModelNotFound
from obt_agent.protocol.commands import ListModelsParams, ListModelsResult
from obt_server.hub import AgentOffline, Hub, OutOfReach
from obt_server.hub.storage import JobRecord
from obt_server.machine_jobs import failures
from obt_server.machine_jobs.attempt import JobAttempt, JobRequest, Postponed, latest_start
from obt_server.machine_jobs.failures import Changes
from obt_server.replica_storage import LeaseLost
from obt_server.rollout_storage import JOB_ACTIONS, ChangeCause, Rollout, RolloutTarget, model_key
from obt_server.rollouts import outcomes
from obt_server.rollouts.fleet_models import Capacities
from obt_server.rollouts.permissions import METHOD_OF_ACTION
from obt_server.rollouts.settings import RolloutSettings
from obt_server.storage import ServerStorage, StorageUnavailable

CAUSE_S: Final = 3600.0
"""How long a command may take, and be the cause of what changes on the machine; a load takes half of it."""
_UNDER_WAY: Final = "It was under way, and may have been done."


@dataclass(frozen=True)
class RolloutParts:
    """What the parts of the engine share; ``done`` is called with machine and model when a target is done."""

    hub: Hub
    storage: ServerStorage
    settings: RolloutSettings
    capacities: Capacities
    done: Callable[[str, str], None]


class _Update(Protocol):
    async def __call__(self, changes: Changes, *causes: ChangeCause) -> RolloutTarget: ...


class TargetWork:
    """One attempt on one machine.

    Args:
        parts: hub, storage and numbers.
        rollout: what is done.
        target: the target as it is stored.
        update: stores changes of the target, and returns it with them.
    """

    def __init__(self, parts: RolloutParts, rollout: Rollout, target: RolloutTarget, update: _Update) -> None:
        self._hub, self._storage, self._settings = parts.hub, parts.storage, parts.settings
        self._capacities = parts.capacities
        self._rollout = rollout
        # As last stored by this attempt; a cancellation comes through ``cancel``.
        self._target = target
        self._update = update
        self._agent_id = target.agent_id
        self._cancelling = asyncio.Event()
        if target.cancelling:
            self._cancelling.set()
        # Once the id of its job is stored; commands have no job.
        self._attempt: JobAttempt | None = None

    @property
    def job_id(self) -> str:
        """The id of the attempt's job; the same after a restart of the server."""
        target = self._target
        return target.job_id or f"{self._rollout.id}.{self._agent_id}.{target.attempt}"

    def wake(self) -> None:
        """Look again at once: an event says that something changed."""
        if self._attempt is not None:
            self._attempt.wake()

    def cancel(self) -> None:
        """End the attempt as soon as the machine can be asked to."""
        self._cancelling.set()
        if self._attempt is not None:
            self._attempt.cancel()

    async def run(self) -> Changes:
        """Return how the target ended.

        Raises:
            Postponed: it waits again.
        """
        if self._rollout.action in JOB_ACTIONS:
            return await self._run_job()
        return await self._run_command()

    # -- jobs -----------------------------------------------------------------------------------------

    async def _run_job(self) -> Changes:
        if self._target.job_id is None:
            # Before anything is sent: whatever dies after this finds the id, and asks for the same job.
            await self._begin({"job_id": self.job_id})
        request = JobRequest(
            agent_id=self._agent_id,
            job_id=self.job_id,
            method=METHOD_OF_ACTION[self._rollout.action],
            params=self._job_params,
            attempt=self._target.attempt,
        )
        self._attempt = JobAttempt(self._hub, self._storage, self._settings, request, self._note)
        if self._cancelling.is_set():
            self._attempt.cancel()
        end = await self._attempt.run()
        if end.error is not None:
            return self._by_error(end.error)
        if end.job is None:
            return failures.ended("cancelled", None, time.time())
        return await self._job_ended(end.job)

    async def _note(self, changes: Changes) -> None:
        if any(getattr(self._target, name) != value for name, value in changes.items()):
            self._target = await self._update(changes)

    async def _begin(self, changes: Changes) -> None:
        now = time.time()
        cause = ChangeCause(
            agent_id=self._agent_id,
            name=model_key(self._rollout.destination or self._rollout.model),
            job_id=changes.get("job_id"),
            rollout_id=self._rollout.id,
            model_set=self._rollout.model_set,
            operator=self._rollout.created_by,
            expires_at=now + CAUSE_S,
        )
        # Of an attempt that begins again after a lost answer, what was there the first time.
        had = self._digest_of(self._rollout.destination or self._rollout.model) or self._target.digest_before
        before = {"digest_before": had}
        fields = {"state": "starting", "waiting_for": None, "reason": None, "started_at": now}
        self._target = await self._update(fields | before | changes, cause)

    def _job_params(self) -> dict[str, Any]:
        rollout = self._rollout
        params: dict[str, Any] = {"model": rollout.model, "not_after": latest_start(rollout.until)}
        if rollout.digest is not None:
            params["digest"] = rollout.digest
        if rollout.create is not None:
            params |= msgspec.to_builtins(rollout.create)
        return params

    async def _job_ended(self, job: JobRecord) -> Changes:
        result = await self._storage.result(self._agent_id, job.job_id)
        await self._note_room(result)
        changes = outcomes.by_job(job, result, self._rollout, time.time())
        if changes["state"] == "done" and changes.get("digest_after") is None:
            # An older agent's result says none; its list of models comes some seconds later.
            with contextlib.suppress(AgentError):
                changes["digest_after"] = (await self._list()).get(model_key(self._rollout.model))
        return changes

    # -- commands -------------------------------------------------------------------------------------

    async def _run_command(self) -> Changes:
        """Do what has no job: each of these may be repeated, and is, when the answer was lost."""
        if self._cancelling.is_set():
            return failures.ended("cancelled", _UNDER_WAY, time.time())
        if self._target.state != "starting":
            await self._begin({})
        work: Mapping[str, Callable[[], Awaitable[Changes]]] = {
            "copy": self._copy,
            "delete": self._delete,
            "load": self._load,
            "unload": self._load,
        }
        asking = asyncio.ensure_future(work[self._rollout.action]())
        cancelled = asyncio.ensure_future(self._cancelling.wait())
        try:
            await asyncio.wait([asking, cancelled], return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                # Leaving the call cancels it at the machine; what it did until then stays.
                return failures.ended("cancelled", _UNDER_WAY, time.time())
            return asking.result()
        except (AgentOffline, LinkLost, OutOfReach) as error:
            raise Postponed("The link broke before the machine's answer; it is asked again.") from error
        # Whether this leader may still begin something could not be read.
        except StorageUnavailable as error:
            shortest, _ = self._settings.busy_retry_s
            raise Postponed(error.message, again_in_s=shortest) from error
        # Nothing was sent: the term of this leader is over.
        except LeaseLost:
            raise
        except Busy as error:
            # A benchmark of the model may last for hours: until somebody cancels, or ``until``. It says why.
            _, longest = self._settings.busy_retry_s
            raise Postponed(error.message, again_in_s=longest) from error
        except AgentError as error:
            return self._by_error(error)
        finally:
            for task in (asking, cancelled):
                task.cancel()
            await asyncio.gather(asking, cancelled, return_exceptions=True)

    async def _copy(self) -> Changes:
        rollout, digests = self._rollout, await self._list()
        source = digests.get(model_key(rollout.model))
        before = digests.get(model_key(rollout.destination or ""))
        # Done before its answer was lost, or by somebody else: the same copy again would change nothing.
        if source is not None and source == before:
            return failures.ended("done", "It was there already.", time.time()) | {"digest_after": before}
        await self._call({"source": rollout.model, "destination": rollout.destination})
        return failures.ended("done", None, time.time()) | {"digest_after": source}

    async def _delete(self) -> Changes:
        try:
            result = await self._call({"model": self._rollout.model})
        except ModelNotFound:
            # What shall be absent is; so it is too where the answer to a first deletion was lost.
            gone = None if self._target.digest_before else "It was not there."
            return failures.ended("done", gone, time.time())
        await self._note_room(result)
        return outcomes.by_deletion(result, time.time())

    async def _load(self) -> Changes:
        await self._call({"model": self._rollout.model})
        digest = self._digest_of(self._rollout.model)
        return failures.ended("done", None, time.time()) | {"digest_before": digest, "digest_after": digest}

    async def _call(self, params: dict[str, Any]) -> bytes:
        return await self._hub.call_text(self._agent_id, METHOD_OF_ACTION[self._rollout.action], params)

    async def _list(self) -> dict[str, str]:
        """The machine's models as Ollama has them now: digests by key."""
        listed: ListModelsResult = await self._hub.call(self._agent_id, "list_models", ListModelsParams())
        return {model_key(model.name): model.digest for model in listed.models}

    # -- both -----------------------------------------------------------------------------------------

    def _by_error(self, error: AgentError) -> Changes:
        return outcomes.by_error(error, self._rollout, time.time())

    async def _note_room(self, result: bytes | None) -> None:
        """Keep what the machine says of its disk: an inventory says it once an hour."""
        free = outcomes.free_bytes(result)
        if free is not None:
            await self._capacities.note_free(self._agent_id, free)

    def _digest_of(self, model: str) -> str | None:
        """The digest that the machine has under a name now, as it listed it last."""
        presence = self._hub.presence(self._agent_id)
        models = {} if presence is None or presence.models is None else presence.models
        wanted = model_key(model)
        return models.get(wanted) or next(
            (digest for name, digest in models.items() if model_key(name) == wanted), None
        )
