"""What must reach the server: jobs, their records and results, stored before anything is said of them.

JobDatabase (SQLite, synchronous)  ◄─  Outbox (its thread, async)  ◄─  jobs, uploader
"""

from obt_agent.jobs.store.job_store import JobStore, JobStoreSettings
from obt_agent.jobs.store.rows import FinalText, NewJob, StoredJob

__all__ = ["FinalText", "JobStore", "JobStoreSettings", "NewJob", "StoredJob"]
