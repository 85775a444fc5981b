"""The service from nothing to admitted, under a real systemd, with the real hardened unit; then what befalls it."""

import pytest

from tests.systemd.machine import Machine

pytestmark = pytest.mark.timeout(600)

SERVER = "http://127.0.0.1:8881"


def listening(machine: Machine, port: int) -> None:
    machine.until(f"python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}), 2)' 2>&1")


def start_server(machine: Machine) -> None:
    machine.run(
        "systemd-run --quiet --unit obt-server --setenv PYTHONPATH=/srv/site --working-directory /srv "
        "python3 /srv/inside/server.py run --database /srv/obt.sqlite3"
    )
    listening(machine, 8881)


def start_ollama(machine: Machine) -> None:
    machine.run(
        "cp -n /usr/bin/python3.11 /usr/local/bin/ollama; systemd-run --quiet --unit ollama "
        "--setenv PYTHONPATH=/srv/site /usr/local/bin/ollama /srv/inside/ollama.py serve"
    )
    listening(machine, 11434)
