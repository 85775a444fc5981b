"""A PostgreSQL of the tests that also listens at a port, for whoever comes with TLS and the password."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
from typing import Final, Self

import trustme

from tests.cluster.postgresql import USER, PostgreSQL

MAX_ATTEMPTS: Final = 5


class TlsPostgreSQL(PostgreSQL):
    """One that listens at 127.0.0.1 with a certificate; without a password at its Unix socket alone."""

    def __init__(self, certificate: trustme.LeafCert, password: str) -> None:
        super().__init__()
        self._certificate = certificate
        self._password = password

    def __enter__(self) -> Self:
        super().__enter__()
        data = self.folder / "data"
        rules = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
        (data / "pg_hba.conf").write_text(rules)
        self._certificate.private_key_and_cert_chain_pem.write_to_path(data / "server.pem")
        (data / "server.pem").chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(data / "server.pem", "postgres", "postgres")
        with (data / "postgresql.conf").open("a") as file:
            file.write("ssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.pem'\n")
        self.execute(f"ALTER USER {USER} PASSWORD '{self._password}'")
        self.stop()
        self._host = "127.0.0.1"
        self._start_at_a_free_port()
        return self

    def _start_at_a_free_port(self) -> None:
        for attempt in itertools.count():
            with socket.socket() as free:
                free.bind((self._host, 0))
                self.port = free.getsockname()[1]
            try:
                self.start()
            except AssertionError:
                # Somebody else may have taken the port meanwhile.
                if attempt == MAX_ATTEMPTS:
                    raise
            else:
                return
