"""The configuration as each room wants it: plain values, nothing it does not need. Pure."""

from __future__ import annotations

from obt_agent.config.schema import Config
from obt_agent.jobs.store.job_store import JobStoreSettings


def outbox(config: Config) -> JobStoreSettings:
    """How much the store may hold."""
    section = config.storage
    return JobStoreSettings(quota_bytes=section.quota_bytes, max_age_days=section.max_age_days)
