"""A PostgreSQL of the tests that also listens at a port, for whoever comes with TLS and the password."""

from __future__ import annotations

import os
import shutil
from typing import Self

import trustme

from tests.cluster.postgresql import USER, PostgreSQL
from tests.ports import free_port


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
        self.port = free_port()
        self.start()
        return self
