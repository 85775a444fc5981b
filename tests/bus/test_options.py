"""``--bus`` and its files: what is refused, and with which word."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from obt_agent.config import file as config_file
from obt_server.cli import main

Command = Callable[..., tuple[int, str]]
POSTGRESQL = "postgresql+psycopg://obt@db.example/obt"


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs ``config check`` with options; gives status, and all that was printed."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(config_file, "has_system_configuration", lambda: False)

    def call(*arguments: str) -> tuple[int, str]:
        status = main(["config", "check", *arguments])
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    return call


def private(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_a_bus_needs_postgresql_and_its_files_need_a_bus(check: Command, tmp_path: Path) -> None:
    bus = ("--bus", "nats://nats.example:4222,tls://nats.example")
    status, shown = check(*bus)
    assert (status, "postgresql+psycopg" in shown) == (2, True)
    assert check(*bus, "--database", str(tmp_path / "file.sqlite3"))[0] == 2
    assert check(*bus, "--database", POSTGRESQL) == (0, "The settings are right.\n")
    for option in ("--bus-credentials-file", "--bus-ca-file"):
        status, shown = check(option, "file", "--database", POSTGRESQL)
        assert (status, "go with --bus" in shown) == (2, True)


def test_secrets_do_not_stand_in_arguments_variables_or_the_settings(
    check: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for secret in ("nats://ann:hidden@nats.example", "nats://hidden@nats.example"):
        status, shown = check("--bus", secret, "--database", POSTGRESQL)
        assert (status, "bus.credentials_file" in shown, "hidden" in shown) == (78, True, False)
        with monkeypatch.context() as patched:
            patched.setenv("OBT_SERVER_BUS", secret)
            status, shown = check("--database", POSTGRESQL)
            assert (status, "OBT_SERVER_BUS" in shown, "hidden" in shown) == (78, True, False)
    for name in ("PASSWORD", "TOKEN", "CREDENTIALS"):
        with monkeypatch.context() as patched:
            patched.setenv(f"OBT_SERVER_BUS_{name}", "hidden")
            status, shown = check()
            assert (status, "bus.credentials_file" in shown, "hidden" in shown) == (78, True, False)
        written = private(tmp_path / "server.yaml", f"bus:\n  {name.lower()}: hidden\n")
        status, shown = check("--config", written)
        assert (status, "bus.credentials_file" in shown, "hidden" in shown) == (78, True, False)


def test_files_of_the_bus_are_read_before_anything_starts(check: Command, tmp_path: Path) -> None:
    bus = ("--bus", "tls://nats.example", "--database", POSTGRESQL)
    right = private(tmp_path / "right", "ann:secret\n")
    assert check(*bus, "--bus-credentials-file", right)[0] == 0
    status, shown = check(*bus, "--bus-credentials-file", private(tmp_path / "wrong", "a:b\nc:d\n"))
    assert (status, "one line" in shown) == (2, True)
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(authority)
    assert check(*bus, "--bus-ca-file", str(authority))[0] == 0
    for file in (right, str(tmp_path / "none")):
        status, shown = check(*bus, "--bus-ca-file", file)
        assert (status, "--bus-ca-file" in shown) == (2, True)


def test_what_is_not_installed_is_named(check: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obt_server.bus.nats", None)
    status, shown = check("--bus", "nats://nats.example", "--database", POSTGRESQL)
    assert (status, "obt-agent[server,postgresql,nats]" in shown) == (2, True)
