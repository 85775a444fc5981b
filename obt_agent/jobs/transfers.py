"""Pulls and creates as jobs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from obt_agent.errors import AgentError
from obt_agent.jobs.runner import JobOutcome, OnProgress
from obt_agent.jobs.store import StoredJob
from obt_agent.jobs.transfer_result import ending
from obt_agent.jobs.transfer_run import Transfer, TransferConditions, bare_digest
from obt_agent.ollama.client import OllamaClient
from obt_agent.policy import Policy
from obt_agent.protocol.commands import CreateModelParams, PullModelParams
from obt_agent.protocol.jobs import JobState


class TransferRunner:
    """Runs pulls and creates.

    Args:
        ollama: where to.
        policy: asked again when a job begins: it may have changed since the job was stored.
        conditions: what transfers give way to.
    """

    def __init__(self, ollama: OllamaClient, policy: Policy, conditions: TransferConditions) -> None:
        self._ollama = ollama
        self._policy = policy
        self._conditions = conditions

    def begin(self, job: StoredJob, _records: Sequence[bytes], on_progress: OnProgress, /) -> Transfer:
        """Prepare a run; an earlier one that broke off is simply begun again: Ollama keeps what it has."""
        if job.kind == "create":
            body = self._create_body(msgspec.json.decode(job.params, type=CreateModelParams))
            return Transfer(self._ollama, "/api/create", body, job, on_progress, self._conditions)
        params = msgspec.json.decode(job.params, type=PullModelParams)
        self._policy.check_command("pull_model")
        self._policy.check_source(params.model)
        body = msgspec.json.encode({"model": params.model, "stream": True})
        return Transfer(
            self._ollama,
            "/api/pull",
            body,
            job,
            on_progress,
            self._conditions,
            wanted=bare_digest(params.digest),
        )

    def _create_body(self, params: CreateModelParams) -> bytes:
        self._policy.check_command("create_model")
        self._policy.check_model(params.model)
        self._policy.check_model(params.from_)
        self._policy.check_template(params.template)
        options = self._policy.model_parameters(params.parameters)
        body = {
            "model": params.model,
            "from": params.from_,
            "system": params.system,
            "template": params.template,
            "parameters": None if options is None else msgspec.Raw(options),
            "quantize": params.quantize,
            "stream": True,
        }
        return msgspec.json.encode({name: value for name, value in body.items() if value is not None})

    def ending(
        self, job: StoredJob, _records: Sequence[bytes], state: JobState, error: AgentError | None, /
    ) -> JobOutcome:
        """An ending without a run."""
        return ending(job, state, error)
