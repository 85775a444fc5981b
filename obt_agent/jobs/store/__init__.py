"""Jobs, their records and results: stored before the server hears of them, until it has acknowledged them.

JobDatabase (SQLite, synchronous)  ◄─  JobStore (on its thread, async)  ◄─  JobService, Uploader
"""

from obt_agent.jobs.store.job_store import JobStore
from obt_agent.jobs.store.rows import FinalText, NewJob, StoredJob

__all__ = ["FinalText", "JobStore", "NewJob", "StoredJob"]
