"""The shape of the server's settings: eight sections, each value with its unit in its name."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(min_length=1, max_length=4096, description="text")]
Days = Annotated[float, Meta(gt=0, le=36_500, description="days, above 0")]
Size = Annotated[int, Meta(ge=1 << 20, description="bytes, 1 MiB or more, such as 8 GiB")]


class _ServerSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: immutable, named fields only."""


class ListenSection(_ServerSection, frozen=True, kw_only=True):
    """Where the server listens, and the names that it is reached by.

    ``behind_proxy`` are the addresses of proxies that do TLS, separated by commas; their ``X-Forwarded-*``
    are believed. None: there is no proxy. ``drain_notice_s`` is how long a server that was told to stop
    goes on, so that they notice.
    """

    host: Text = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="a port, 0 for any free one")] = 8881
    tls_cert_file: Text | None = None
    tls_key_file: Text | None = None
    tls_self_signed: bool = False
    next_tls_cert_file: Text | None = None
    behind_proxy: Text | None = None
    allowed_hosts: tuple[Text, ...] = ()
    drain_notice_s: Annotated[float, Meta(ge=0, le=600, description="seconds, 0 to 600, 0 for none")] = 0.0
    root_path: Annotated[
        str, Meta(pattern=r"^(/[A-Za-z0-9._~-]+)*\Z", max_length=1024, description="a path such as /obt")
    ] = ""


class DatabaseSection(_ServerSection, frozen=True, kw_only=True):
    """Where everything is stored. As loaded, ``address`` is an absolute path, or the URL that was given."""

    address: Annotated[str, Meta(max_length=4096, description="a path or a URL")] = ""


class BusSection(_ServerSection, frozen=True, kw_only=True):
    """The NATS that several server processes reach each other by; without an address there is one process."""

    address: Annotated[
        str, Meta(max_length=4096, description="one or more URLs with commas between them")
    ] = ""
    credentials_file: Text | None = None
    ca_file: Text | None = None


class OperatorsSection(_ServerSection, frozen=True, kw_only=True):
    """Where the first operator's password comes from; None: it is random."""

    first_password_file: Text | None = None


class AgentsSection(_ServerSection, frozen=True, kw_only=True):
    """What each agent may make the server keep: results, and of those what this server never asked for."""

    max_results_bytes: Size = 8 << 30
    max_unasked_results_bytes: Size = 1 << 30


class GatewaySection(_ServerSection, frozen=True, kw_only=True):
    """Whether programs may use the machines' models below ``/ollama``."""

    enabled: bool = False


class RetentionSection(_ServerSection, frozen=True, kw_only=True):
    """Days after which something is removed; None keeps it for good."""

    results_days: Days | None = None
    jobs_days: Days | None = None
    tokens_days: Days | None = 90.0


class ServerLogSection(_ServerSection, frozen=True, kw_only=True):
    """``auto`` is the journal's native protocol under systemd, a readable form otherwise."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "journal", "console", "json"] = "auto"
    requests: bool = False


class ServerOptions(_ServerSection, frozen=True, kw_only=True):
    """All of them."""

    listen: ListenSection = ListenSection()
    database: DatabaseSection = DatabaseSection()
    bus: BusSection = BusSection()
    operators: OperatorsSection = OperatorsSection()
    agents: AgentsSection = AgentsSection()
    gateway: GatewaySection = GatewaySection()
    retention: RetentionSection = RetentionSection()
    log: ServerLogSection = ServerLogSection()
