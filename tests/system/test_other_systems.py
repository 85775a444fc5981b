"""What the seam does where a system lacks something: by taking it away, one thing at a time."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import time
from pathlib import Path

import pytest

from obt_agent.system import clocks, descriptors, machine_id, open_files, owners, places, signals, sockets

PRINTED = Path(__file__).parents[1] / "hardware" / "apple"


def test_space_is_reserved_by_writing_where_there_is_no_call_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    path = tmp_path / "reserved"
    path.write_bytes(b"x" * 10)
    descriptor = os.open(path, descriptors.READ_AND_WRITE)
    descriptors.reserve(descriptor, 3 << 20)
    status = os.fstat(descriptor)
    os.close(descriptor)
    assert status.st_size == 3 << 20
    assert status.st_blocks * 512 >= 3 << 20
    assert path.read_bytes().startswith(b"x" * 10)


def test_a_file_is_read_at_a_place_where_there_is_no_call_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pread")
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    descriptor = os.open(path, descriptors.READ)
    assert [descriptors.read_at(descriptor, 3, 4), descriptors.read_at(descriptor, 3, 0)] == [b"456", b"012"]
    os.close(descriptor)


def test_a_file_is_written_anew_where_there_is_no_call_for_a_place_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pwrite")
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    descriptor = os.open(path, descriptors.READ_AND_WRITE)
    os.read(descriptor, 5)
    descriptors.rewrite(descriptor, b"new")
    os.close(descriptor)
    assert path.read_bytes() == b"new"


class LoopOfWindows(asyncio.SelectorEventLoop):
    """A loop that cannot handle signals."""

    def add_signal_handler(self, *_: object) -> None:
        raise NotImplementedError

    def remove_signal_handler(self, *_: object) -> bool:
        raise NotImplementedError


def test_a_signal_reaches_a_loop_that_cannot_handle_signals() -> None:
    async def raised() -> list[str]:
        came: list[str] = []
        there = asyncio.Event()
        loop = asyncio.get_running_loop()

        def take(word: str) -> None:
            came.append(word)
            there.set()

        signals.handle(loop, signal.SIGTERM, take, "word")
        signal.raise_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await there.wait()
        signals.unhandle(loop, signal.SIGTERM)
        return came

    before = signal.getsignal(signal.SIGTERM)
    with asyncio.Runner(loop_factory=LoopOfWindows) as runner:
        assert runner.run(raised()) == ["word"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    signal.signal(signal.SIGTERM, before)


def test_a_system_without_reload_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "RELOAD", None)
    assert signals.ask_to_reload(os.getpid()) is False


def test_without_owners_no_bit_counts_and_nobody_else_owns_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    status = tmp_path.stat()
    assert owners.granted(status, owners.EVERYBODY_ELSE) == 0o077
    monkeypatch.setattr(owners, "HAS_OWNERS", False)
    assert owners.granted(status, owners.EVERYBODY_ELSE) == 0
    assert owners.owner(status) == owners.user() == owners.owner_and_group(status)[0]
    assert not owners.is_root()
    with owners.acting_as_owner(status):
        owners.give_path(tmp_path, (1, 1))


def test_accounts_and_groups_that_are_not_there_are_none() -> None:
    assert owners.group_number("no such group at all") is None
    assert "root" in owners.account_names(range(1))


def test_without_sockets_of_paths_the_error_is_the_systems_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(OSError, match="not supported"):
        sockets.datagrams()


def test_a_clock_without_sleep_says_that_the_machine_never_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clocks.slept_s() > -0.1
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert clocks.slept_s() == 0
    before = time.monotonic()
    assert before <= clocks.uptime_s() <= time.monotonic()


def test_a_limit_that_the_system_does_not_let_rise_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refused)
    assert open_files.raise_limit(10_000) == 256


def test_the_hardware_of_a_mac_has_an_id() -> None:
    text = (PRINTED / "ioreg_platform_expert.txt").read_text()
    assert machine_id.platform_uuid(text) == "00000000-1111-2222-3333-444444444444"
    assert machine_id.platform_uuid("") is None


def test_each_system_has_a_place_for_locks_and_linux_keeps_its_own() -> None:
    assert places.lock_folder({}, "linux") is None
    assert places.lock_folder({}, "darwin") == "/var/tmp/obt-agent"  # noqa: S108 - a name, and nothing is made
    assert places.lock_folder({"ProgramData": "/programs"}, "win32") == "/programs/obt-agent/locks"
    assert [places.has_system_configuration(name) for name in ("linux", "darwin", "win32")] == [
        True,
        True,
        False,
    ]
