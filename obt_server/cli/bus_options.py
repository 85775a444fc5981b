"""The bus between server processes: what its options may be, and the connection that they make."""

from __future__ import annotations

import argparse
import ssl
from functools import partial
from typing import TYPE_CHECKING

from obt_agent.errors import ConfigError
from obt_server.bus import nats_credentials
from obt_server.cli.options import UsageError

if TYPE_CHECKING:
    from obt_server.bus.nats import NatsBus


def check_bus(options: argparse.Namespace) -> None:
    """Refuse options of a bus that no server could work with.

    Raises:
        UsageError: what is wrong, and what to give.
    """
    if not options.bus:
        if options.bus_credentials_file is not None or options.bus_ca_file is not None:
            raise UsageError("--bus-credentials-file and --bus-ca-file go with --bus: give that, too")
        return
    # An SQLite file is one process's: what another writes there, this one would never hear of.
    if not options.database.startswith("postgresql"):
        raise UsageError(
            "--bus is for several server processes on one PostgreSQL: give --database "
            "postgresql+psycopg://USER@HOST/NAME, or leave out --bus"
        )
    nats_bus(options)


def nats_bus(options: argparse.Namespace, name: str = "obt-server") -> NatsBus:
    """Return a connection that is not started; ``name`` is what NATS shows.

    Raises:
        UsageError: a file cannot be used, or nats-py is not installed.
    """
    try:
        # Only here: a server without a bus needs no nats-py.
        from obt_server.bus.nats import NatsBus, NatsSettings  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("--bus needs nats-py: pip install 'obt-agent[server,postgresql,nats]'") from error
    credentials = nats_credentials.no_credentials
    try:
        if options.bus_credentials_file is not None:
            credentials = partial(nats_credentials.from_file, options.bus_credentials_file)
            credentials()
        ca_file = None if options.bus_ca_file is None else str(options.bus_ca_file)
        return NatsBus(NatsSettings(options.bus, name, credentials, ca_file))
    except ConfigError as error:
        raise UsageError(error.message) from error
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"--bus-ca-file {options.bus_ca_file}: no PEM file of certificates: {error}"
        ) from error
