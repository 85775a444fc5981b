"""What must reach the server: jobs, their records and results, stored before anything is said of them.

JobDatabase (SQLite, synchronous)  ◄─  Outbox (its thread, async)  ◄─  jobs, uploader
"""

from obt_agent.outbox.rows import FinalText, NewJob, StoredJob
from obt_agent.outbox.store import Outbox, OutboxSettings

__all__ = ["FinalText", "NewJob", "Outbox", "OutboxSettings", "StoredJob"]
