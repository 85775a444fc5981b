"""Jobs: accepted, queued, run one at a time of each queue, reported, resumed after a crash; one final each.

start ─► JobStore.accept (durable) ─► queue ─► Execution ─► JobStore.finish (durable) ─► Uploader ─► server
"""

from obt_agent.jobs.generation_gate import GenerationGate
from obt_agent.jobs.service import JobService

__all__ = ["GenerationGate", "JobService"]
