"""The configuration as each room wants it: plain values, nothing it does not need. Pure."""

from __future__ import annotations

from pathlib import Path

from obt_agent import __version__
from obt_agent.config.schema import Config
from obt_agent.jobs.store.job_store import JobStoreSettings
from obt_agent.link.settings import LinkSettings, TlsSettings


def outbox(config: Config) -> JobStoreSettings:
    """How much the store may hold."""
    section = config.storage
    return JobStoreSettings(quota_bytes=section.quota_bytes, max_age_days=section.max_age_days)


def link(config: Config) -> LinkSettings:
    """Where to dial, and how."""
    section = config.server
    assert section.url is not None  # noqa: S101 - the loader refuses a run without it
    return LinkSettings(
        url=section.url,
        user_agent=f"obt-agent/{__version__}",
        allow_insecure=section.allow_insecure,
        proxy=section.proxy,
        tls=TlsSettings(
            ca_file=_path(section.ca_file),
            client_cert_file=_path(section.client_cert_file),
            client_key_file=_path(section.client_key_file),
        ),
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
