"""``cancel``: end a request of this session, or a job."""

from __future__ import annotations

from obt_agent.command import CommandContext
from obt_agent.errors import InvalidParams
from obt_agent.handlers.services import Services
from obt_agent.protocol.commands import CancelParams, CancelResult


async def run(services: Services, params: CancelParams, context: CommandContext) -> CancelResult:
    """Never refused as busy: it frees what others hold."""
    match params:
        case CancelParams(id=None, job_id=str(job_id)):
            return CancelResult(state=await services.jobs.cancel(job_id))
        case CancelParams(id=int() | str() as request_id, job_id=None):
            return CancelResult(state=context.cancel_request(request_id))
        case _:
            raise InvalidParams("params: give exactly one of id and job_id.", field="params")
