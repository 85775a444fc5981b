"""What systemd hears, read from a real datagram socket."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from obt_agent.sdnotify import STATUS_LIMIT, Notifier


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.settimeout(5)
        yield bound


def environ(listener: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(listener.getsockname()), **more}


def heard(listener: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in listener.recv(4096).decode().split("\n"))


def test_ready_carries_the_status_line(listener: socket.socket) -> None:
    Notifier(environ(listener)).ready("admitted by obt.example.org")
    assert heard(listener) == {"READY": "1", "STATUS": "admitted by obt.example.org"}


def test_a_status_is_one_line_whatever_it_holds(listener: socket.socket) -> None:
    Notifier(environ(listener)).status("a model named\nREADY=1\r\n" + "x" * 1000)
    output = heard(listener)
    assert list(output) == ["STATUS"]
    assert output["STATUS"].startswith("a model named READY=1 x")
    assert len(output["STATUS"]) == STATUS_LIMIT


def test_reloading_says_when_on_the_monotonic_clock(listener: socket.socket) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Notifier(environ(listener)).reloading()
    output = heard(listener)
    assert output["RELOADING"] == "1"
    assert before <= int(output["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_stopping_and_watchdog_are_reported(listener: socket.socket) -> None:
    notifier = Notifier(environ(listener))
    notifier.watchdog()
    assert heard(listener) == {"WATCHDOG": "1"}
    notifier.stopping("draining")
    assert heard(listener) == {"STOPPING": "1", "STATUS": "draining"}


def test_an_abstract_socket_is_reached() -> None:
    name = f"obt-agent-test-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind("\0" + name)
        bound.settimeout(5)
        Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert heard(bound) == {"READY": "1"}


@pytest.mark.parametrize("address", ["", "@", "relative", "vsock:2:1234"])
def test_without_a_socket_nothing_is_sent_and_nothing_fails(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    assert not notifier.active
    assert notifier.watchdog_interval_s is None
    notifier.ready()
    notifier.status("x")


def test_an_empty_status_sends_nothing(listener: socket.socket) -> None:
    notifier = Notifier(environ(listener))
    notifier.status(" \n ")
    notifier.watchdog()
    assert heard(listener) == {"WATCHDOG": "1"}


def test_nobody_at_the_socket_is_no_error(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    notifier.ready()
    assert notifier.active


def test_a_full_socket_does_not_block_the_loop(listener: socket.socket) -> None:
    notifier = Notifier(environ(listener))
    for _ in range(10_000):
        notifier.watchdog()
    assert heard(listener) == {"WATCHDOG": "1"}


@pytest.mark.parametrize(
    ("variables", "interval_s"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_signs_of_life_are_due_at_half_the_watchdogs_period(
    listener: socket.socket, variables: dict[str, str], interval_s: float | None
) -> None:
    assert Notifier(environ(listener, **variables)).watchdog_interval_s == interval_s
