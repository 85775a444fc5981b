"""One attempt of a rollout on one machine: the start, whatever happens to the link, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from obt_agent.errors import AgentError, Busy, DeadlineExceeded, JobNotFound, LinkLost, ModelNotFound
from obt_agent.protocol.commands import ListModelsParams, ListModelsResult
from obt_agent.protocol.jobs import JobProgress
from obt_agent.protocol.limits import MAX_NOT_AFTER_S
from obt_server.hub import AgentHub, AgentOffline
from obt_server.hub.storage import ENDED_STATES, JobChange, JobRecord
from obt_server.rollout_storage import JOB_ACTIONS, ChangeCause, Rollout, RolloutTarget, WaitingFor, model_key
from obt_server.rollouts import outcomes
from obt_server.rollouts.fleet_models import Capacities
from obt_server.rollouts.outcomes import Changes
from obt_server.rollouts.permissions import METHOD_OF_ACTION
from obt_server.rollouts.settings import RolloutSettings
from obt_server.storage import ServerStorage

CAUSE_S: Final = 3600.0
"""How long a command may take, and be the cause of what changes on the machine; a load takes half of it."""
_CLOCKS_S: Final = 3600.0
"""Off the protocol's bound on ``not_after``, for clocks that differ."""
_UNDER_WAY: Final = "It was under way, and may have been done."
_HELD_BACK: Final = frozenset({"queued", "waiting"})
"""Phases of a job's progress in which it does not move: others are before it, or a benchmark runs."""


class Postponed(Exception):
    """The machine was not asked, or did not do it: the target waits again.

    Args:
        waiting_for: what for.
        reason: in words.
        again_in_s: seconds until the next try, where no event announces it.
        next_attempt: whether the machine refused this attempt, so that its job's id is used up.
    """

    def __init__(
        self,
        waiting_for: WaitingFor,
        reason: str,
        *,
        again_in_s: float | None = None,
        next_attempt: bool = False,
    ) -> None:
        super().__init__(reason)
        self.waiting_for = waiting_for
        self.reason = reason
        self.again_in_s = again_in_s
        self.next_attempt = next_attempt


@dataclass(frozen=True)
class RolloutParts:
    """What the parts of the engine share; ``done`` is called with machine and model when a target is done."""

    hub: AgentHub
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
        # Set when something may have changed: the job, the machine's link, or what people want.
        self._wake = asyncio.Event()
        self._cancelling = asyncio.Event()
        if target.cancelling:
            self._cancelling.set()
        # Loop time from which a start that was not answered is sent again.
        self._start_due = 0.0

    @property
    def job_id(self) -> str:
        """The id of the attempt's job; the same after a restart of the server."""
        target = self._target
        return target.job_id or f"{self._rollout.id}.{self._agent_id}.{target.attempt}"

    def wake(self) -> None:
        """Look again at once: an event says that something changed."""
        self._wake.set()

    def cancel(self) -> None:
        """End the attempt as soon as the machine can be asked to."""
        self._cancelling.set()
        self._wake.set()

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
        job_id = self.job_id
        if self._target.job_id is None:
            # Before anything is sent: whatever dies after this finds the id, and asks for the same job.
            await self._begin({"job_id": job_id})
        while True:
            job = await self._storage.job(self._agent_id, job_id)
            if job is not None and job.state in ENDED_STATES:
                return await self._job_ended(job)
            if self._cancelling.is_set():
                if job is None:
                    return outcomes.ended("cancelled", None, time.time())
                await self._cancel_job(job)
            elif job is None or job.state == "starting":
                ended = await self._start_job(job)
                if ended is not None:
                    return ended
            await self._note_progress(job)
            await self._wait()

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

    async def _start_job(self, job: JobRecord | None) -> Changes | None:
        """Send the start, unless one was sent a moment ago; return how the target ended, if it did."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._start_due:
            return None
        self._start_due = loop.time() + self._settings.start_again_s
        method = METHOD_OF_ACTION[self._rollout.action]
        try:
            await self._hub.start_job(self._agent_id, method, self._job_params())
        except AgentOffline as error:
            # The hub stored nothing, or has it and sends it itself when the machine is back.
            if job is None:
                raise Postponed("machine", "The machine is offline.") from error
        except LinkLost:
            # It may have arrived: the hub repeats it with the same id when the machine is back.
            self._start_due = 0.0
        except DeadlineExceeded as error:
            # Its own deadline, or the machine's word that ``not_after`` has passed.
            if not error.retryable:
                return self._by_error(error)
        except Busy as error:
            raise self._busy(error) from error
        except AgentError as error:
            return self._by_error(error)
        return None

    def _job_params(self) -> dict[str, Any]:
        rollout = self._rollout
        # As late as the protocol takes: the machine may have other work for days, and an operator cancels.
        latest = time.time() + MAX_NOT_AFTER_S - _CLOCKS_S
        params: dict[str, Any] = {"job_id": self.job_id, "model": rollout.model}
        params["not_after"] = (
            latest if rollout.until is None else max(time.time() + 1, min(latest, rollout.until))
        )
        if rollout.digest is not None:
            params["digest"] = rollout.digest
        if rollout.create is not None:
            params |= msgspec.to_builtins(rollout.create)
        return params

    async def _job_ended(self, job: JobRecord) -> Changes:
        if outcomes.kind_of(job.error) == "busy" and job.sha256 is None:
            raise self._busy(None)
        result = await self._storage.result(self._agent_id, job.job_id)
        await self._note_room(result)
        changes = outcomes.by_job(job, result, self._rollout, time.time())
        if changes["state"] == "done" and changes.get("digest_after") is None:
            # An older agent's result says none; its list of models comes some seconds later.
            with contextlib.suppress(AgentError):
                changes["digest_after"] = (await self._list()).get(model_key(self._rollout.model))
        return changes

    def _busy(self, error: Busy | None) -> Postponed:
        """The machine has as much to do as it takes: later, under another id, for this one is used up."""
        attempt = self._target.attempt
        shortest, longest = self._settings.busy_retry_s
        wait_s = min(longest, shortest * 2 ** min(attempt - 1, 10))
        if error is not None and error.retry_after_ms is not None:
            wait_s = min(longest, max(wait_s, error.retry_after_ms / 1000))
        return Postponed(
            "machine", "The machine has as much work as it takes.", again_in_s=wait_s, next_attempt=True
        )

    async def _cancel_job(self, job: JobRecord) -> None:
        try:
            answer = await self._hub.cancel_job(self._agent_id, job.job_id)
        except (AgentOffline, LinkLost, DeadlineExceeded):
            return  # asked again when the machine is back
        except JobNotFound:
            state = "unknown"
        else:
            state = answer.state
        if state == "unknown":
            # The agent remembers it, and will not run a start that comes late; nor is one sent any more.
            change = JobChange(state="cancelled", finished_at=time.time())
            await self._storage.change_job(self._agent_id, job.job_id, change)
            self._wake.set()

    async def _note_progress(self, job: JobRecord | None) -> None:
        """Store what a person sees of a job that has not ended, where that changed."""
        changes = self._seen(job)
        if any(getattr(self._target, name) != value for name, value in changes.items()):
            self._target = await self._update(changes)

    def _seen(self, job: JobRecord | None) -> Changes:
        presence = self._hub.presence(self._agent_id)
        if self._cancelling.is_set():
            ask = "The machine is asked to stop." if presence else "It stops when the machine is back."
            return {"reason": ask}
        if job is None or job.state == "starting":
            return {"state": "starting", "waiting_for": None}
        if presence is None:
            return {"reason": "The machine is offline; it goes on, and says how far it is when it is back."}
        said = presence.progress.get(job.job_id)
        progress = None if said is None else said.progress
        if job.state in ("accepted", "queued") or held_back(progress):
            why = (progress and progress.waiting_for) or "the jobs of the machine that are before it"
            reason = f"It waits for {why}."[: outcomes.MAX_REASON_CHARS]
            return {"state": "waiting", "waiting_for": "job", "reason": reason}
        return {"state": "running", "waiting_for": None, "reason": None}

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.poll_s):
                await self._wake.wait()
        self._wake.clear()

    # -- commands -------------------------------------------------------------------------------------

    async def _run_command(self) -> Changes:
        """Do what has no job: each of these may be repeated, and is, when the answer was lost."""
        if self._cancelling.is_set():
            return outcomes.ended("cancelled", _UNDER_WAY, time.time())
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
                return outcomes.ended("cancelled", _UNDER_WAY, time.time())
            return asking.result()
        except (AgentOffline, LinkLost) as error:
            raise Postponed(
                "machine", "The link broke before the machine's answer; it is asked again."
            ) from error
        except Busy as error:
            # A benchmark of the model may last for hours: until somebody cancels, or ``until``. It says why.
            _, longest = self._settings.busy_retry_s
            raise Postponed("machine", error.message, again_in_s=longest) from error
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
            return outcomes.ended("done", "It was there already.", time.time()) | {"digest_after": before}
        await self._call({"source": rollout.model, "destination": rollout.destination})
        return outcomes.ended("done", None, time.time()) | {"digest_after": source}

    async def _delete(self) -> Changes:
        try:
            result = await self._call({"model": self._rollout.model})
        except ModelNotFound:
            # What shall be absent is; so it is too where the answer to a first deletion was lost.
            gone = None if self._target.digest_before else "It was not there."
            return outcomes.ended("done", gone, time.time())
        await self._note_room(result)
        return outcomes.by_deletion(result, time.time())

    async def _load(self) -> Changes:
        await self._call({"model": self._rollout.model})
        digest = self._digest_of(self._rollout.model)
        return outcomes.ended("done", None, time.time()) | {"digest_before": digest, "digest_after": digest}

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


def held_back(progress: JobProgress | None) -> bool:
    """Whether a job stands still for other work of its machine."""
    return progress is not None and progress.phase in _HELD_BACK
