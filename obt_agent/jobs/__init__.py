"""Jobs: accepted, queued, run one at a time, told of, resumed after a crash; one final each.

start ─► Outbox.accept (durable) ─► queue ─► Execution ─► Outbox.finish (durable) ─► Uploader ─► server
"""

from obt_agent.jobs.generation_gate import GenerationGate
from obt_agent.jobs.service import JobService

__all__ = ["GenerationGate", "JobService"]
