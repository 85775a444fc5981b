"""The ports that tests are given."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import PORTS, free_port
from tests.project.paths import ROOT

RANGE, DEFAULT = Path("/proc/sys/net/ipv4/ip_local_port_range"), 32_768


def test_no_connection_is_given_one_of_them() -> None:
    lowest = int(RANGE.read_text().split()[0])
    if lowest != DEFAULT:
        pytest.skip(f"this machine gives connections ports from {lowest} on, others from {DEFAULT}")
    assert PORTS[-1] < lowest


def test_each_is_given_once_also_to_another_process() -> None:
    ours = {free_port() for _ in range(50)}
    assert len(ours) == 50
    # With fewer to choose from than there are: what is left is what this process has not.
    port = min(ours)
    words = (
        f"import tests.ports as ports; ports.PORTS = [{port}, {port}, {port + 1}]; print(ports.free_port())"
    )
    given = subprocess.run(
        [sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert int(given.stdout) not in ours
