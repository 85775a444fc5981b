"""One attempt of a cell: the pull of its model where that is wanted, and the benchmark's job."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from obt_agent.errors import AgentError, DeadlineExceeded, LinkLost
from obt_agent.protocol.commands import ListModelsParams, ListModelsResult
from obt_server.campaign_storage import Campaign, CampaignCell
from obt_server.campaigns import outcomes
from obt_server.campaigns.figures import figures
from obt_server.campaigns.settings import CampaignSettings
from obt_server.hub import AgentOffline, Hub, OutOfReach
from obt_server.hub.storage import JobRecord
from obt_server.machine_jobs import failures
from obt_server.machine_jobs.attempt import JobAttempt, JobRequest, Postponed, latest_start
from obt_server.machine_jobs.failures import Changes
from obt_server.rollout_storage import RolloutTarget, model_key
from obt_server.rollouts import RolloutEngine
from obt_server.rollouts.requests import RolloutRequest, make
from obt_server.storage import NotStored, ServerStorage, StorageUnavailable


@dataclass(frozen=True)
class CampaignParts:
    """What the parts of the engine share. ``pulls``: by rollout, what to call when it moved on."""

    hub: Hub
    storage: ServerStorage
    settings: CampaignSettings
    rollouts: RolloutEngine
    pulls: dict[str, Callable[[], None]] = field(default_factory=dict)


class CellWork:
    """One attempt of one cell.

    Args:
        parts: hub, storage, rollouts and numbers.
        campaign: what is measured.
        cell: the cell as it is stored.
        update: stores changes of the cell, and returns it with them.
    """

    def __init__(
        self,
        parts: CampaignParts,
        campaign: Campaign,
        cell: CampaignCell,
        update: Callable[[Changes], Awaitable[CampaignCell]],
    ) -> None:
        self._parts = parts
        self._hub, self._storage, self._settings = parts.hub, parts.storage, parts.settings
        self._campaign = campaign
        # As last stored by this attempt; a cancellation comes through ``cancel``.
        self._cell = cell
        self._update = update
        # Set when the pull may have moved on, or somebody cancels it.
        self._pull_wake = asyncio.Event()
        self._cancelling = cell.cancelling
        # Once the id of its job is stored.
        self._attempt: JobAttempt | None = None

    @property
    def job_id(self) -> str:
        """The id of the attempt's job; the same after a restart of the server."""
        return self._cell.job_id or f"{self._campaign.id}.{self._cell.id}.{self._cell.attempt}"

    def wake(self) -> None:
        """Look again at once: an event says that something changed."""
        self._pull_wake.set()
        if self._attempt is not None:
            self._attempt.wake()

    def cancel(self) -> None:
        """End the attempt as soon as the machine can be asked to."""
        self._cancelling = True
        self._pull_wake.set()
        if self._attempt is not None:
            self._attempt.cancel()

    async def run(self) -> Changes:
        """Return how the cell ended.

        Raises:
            Postponed: it waits again.
        """
        if self._cell.job_id is None:
            ended = await self._earlier_result() or await self._prepared()
            if ended is not None:
                return ended
            # Before anything is sent: whatever dies after this finds the id, and asks for the same job.
            await self._begin()
        request = JobRequest(
            agent_id=self._cell.agent_id,
            job_id=self.job_id,
            method=outcomes.METHOD,
            params=self._job_params,
            attempt=self._cell.attempt,
        )
        self._attempt = JobAttempt(self._hub, self._storage, self._settings, request, self._note)
        if self._cancelling:
            self._attempt.cancel()
        end = await self._attempt.run()
        now = time.time()
        if end.error is not None:
            changes = outcomes.by_error(end.error, self._campaign, self._cell, now)
        elif end.job is None:
            changes = failures.ended("cancelled", None, now)
        elif end.job.state == "completed":
            return await self._measured(end.job)
        else:
            changes = outcomes.by_job(end.job, self._campaign, self._cell, now)
        # An attempt before this one may have given its result while this one ran.
        return await self._earlier_result() or changes

    async def _begin(self) -> None:
        presence = self._hub.presence(self._cell.agent_id)
        digest = None if presence is None else presence.digest_of(self._cell.model)
        fields = {"state": "starting", "waiting_for": None, "reason": None, "digest": digest}
        begun = {"job_id": self.job_id, "started_at": time.time(), "pull_job_id": None}
        self._cell = await self._update(fields | begun)

    def _job_params(self) -> dict[str, Any]:
        campaign = self._campaign
        plan = dict(campaign.plan_of(self._cell.plan_hash).plan)
        if campaign.settle is not None:
            # No part of the plan's hash: it says when, and not what is measured.
            plan["settle"] = msgspec.to_builtins(campaign.settle)
        plan["model_name"] = self._cell.model
        return {"plan": plan, "not_after": latest_start(campaign.not_after)}

    async def _measured(self, job: JobRecord) -> Changes:
        text = await self._storage.result(job.agent_id, job.job_id)
        found = await asyncio.to_thread(figures, text, self._campaign.metric)
        return outcomes.measured(job.job_id, found, time.time())

    async def _earlier_result(self) -> Changes | None:
        """The result of an attempt that had ended without one, if it came late."""
        for job_id in self._cell.earlier_jobs:
            job = await self._storage.job(self._cell.agent_id, job_id)
            if job is not None and job.sha256 is not None and job.state == "completed":
                return await self._measured(job)
        return None

    async def _note(self, changes: Changes) -> None:
        if any(getattr(self._cell, name) != value for name, value in changes.items()):
            self._cell = await self._update(changes)

    # -- the model ------------------------------------------------------------------------------------

    async def _prepared(self) -> Changes | None:
        """Have the model on the machine; return how the cell ended where that cannot be."""
        if self._cancelling:
            return failures.ended("cancelled", None, time.time())
        if await self._has_model():
            return None
        if not self._campaign.pull_missing:
            return outcomes.missing(self._cell.model, time.time())
        return await self._pull()

    async def _has_model(self) -> bool:
        """Whether the machine has the model; what it cannot say now counts as yes, and the start tells."""
        wanted = model_key(self._cell.model)
        presence = self._hub.presence(self._cell.agent_id)
        if presence is not None and any(model_key(name) == wanted for name in presence.models or ()):
            return True
        try:
            # Asked at once: its list comes some seconds after a change.
            listed: ListModelsResult = await self._hub.call(
                self._cell.agent_id, "list_models", ListModelsParams()
            )
        except (AgentOffline, LinkLost, DeadlineExceeded, OutOfReach, StorageUnavailable) as error:
            raise Postponed("The machine is offline.", again_in_s=self._settings.busy_retry_s[0]) from error
        # Its owner hides the list, or its Ollama is away: the benchmark's own answer says more.
        except AgentError:
            return True
        return any(model_key(model.name) == wanted for model in listed.models)

    async def _pull(self) -> Changes | None:
        """Pull the model through a rollout; return how the cell ended where that did not succeed."""
        rollout_id = await self._begin_pull()
        self._parts.pulls[rollout_id] = self._pull_wake.set
        try:
            while True:
                self._pull_wake.clear()
                try:
                    rollout, targets = await self._parts.rollouts.get(rollout_id)
                except NotStored:
                    return failures.failed("cancelled", "The pull of its model was deleted.", time.time())
                if rollout.state != "running":
                    target = targets[0]
                    return None if target.state == "done" else outcomes.by_pull(target, time.time())
                if self._cancelling and not rollout.cancelling:
                    await self._parts.rollouts.cancel(rollout_id, None)
                await self._note(_seen(rollout_id, targets[0]))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.poll_s):
                        await self._pull_wake.wait()
        finally:
            self._parts.pulls.pop(rollout_id, None)

    async def _begin_pull(self) -> str:
        campaign = self._campaign
        record = self._hub.directory.records.get(self._cell.agent_id)
        if record is None:
            raise Postponed("The machine was removed from this server.")
        # By its key it is the same rollout after a restart of this server, and another one when it is
        # begun again.
        request = RolloutRequest(
            action="pull",
            model=self._cell.model,
            offline="wait",
            until=latest_start(campaign.not_after),
            parallelism=1,
            key=self.job_id,
        )
        rollout, targets = make(request, [record], campaign.created_by)
        try:
            stored, _ = await self._parts.rollouts.create(rollout, targets)
        except AgentError as error:
            # As many rollouts run as are kept, or the server stops.
            raise Postponed(error.message, again_in_s=self._settings.busy_retry_s[1]) from error
        return stored.id


def _seen(rollout_id: str, target: RolloutTarget) -> Changes:
    """What a person sees of a cell whose model is pulled."""
    reason = target.reason or f"Rollout {rollout_id} pulls the model."
    waiting_for = target.waiting_for if target.waiting_for in ("machine", "rollout", "job") else None
    job = {"pull_job_id": target.job_id}
    return {"state": "pulling", "waiting_for": waiting_for, "reason": reason} | job
