"""The unit's limits, on a machine that has the host's controllers: what goes beyond them is stopped."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.systemd.machine import Machine
from tests.systemd.site import lay_unit

pytestmark = pytest.mark.timeout(1800)

MEMORY_MAX = 512 << 20
TASKS_MAX = 128

# Its first life forks and then takes memory until it is stopped; the one after that only lives.
GREEDY = f"""#!/usr/bin/python3
import json, mmap, os, socket, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
place = "/var/lib/obt-agent/found.json"
found = {{}}

def leave():
    with open(place, "w") as file:
        json.dump(found, file)

if not os.path.exists(place):
    children = []
    try:
        for _ in range({TASKS_MAX * 2}):
            child = os.fork()
            if child == 0:
                time.sleep(3600)
            children.append(child)
    except OSError as error:
        found["refused"] = os.strerror(error.errno)
    found["processes"] = 1 + len(children)
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)
    leave()
    at_once = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    taken = mmap.mmap(-1, {MEMORY_MAX + (128 << 20)}, flags=at_once)
    found["taken"] = len(taken)
    leave()
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def limited(prepared: Machine) -> Iterator[Machine]:
    """A machine whose systemd can enforce limits, where the host gives it what that takes."""
    machine = replace(prepared, controllers="memory pids")
    machine.boot()
    there = machine.call(
        "cd /sys/fs/cgroup && ls -d {,memory/}init.scope/memory.* {,pids/}init.scope/pids.*"
    ).out
    if "memory." not in there or "pids." not in there:
        machine.down()
        pytest.skip(
            "this host gives its containers no cgroup controllers; that the limits are set is shown elsewhere"
        )
    yield machine
    machine.down()


@pytest.fixture(scope="module")
def found(limited: Machine) -> dict[str, object]:
    """What became of a process that takes all that it can, under the real unit."""
    lay_unit(limited)
    limited.write("/opt/obt-agent/bin/obt-agent", GREEDY, mode="755")
    limited.run("systemctl start obt-agent")
    limited.until("test $(systemctl show obt-agent --property NRestarts --value) = 1")
    values: dict[str, object] = json.loads(limited.run("cat /var/lib/obt-agent/found.json"))
    return values


def test_it_cannot_fill_the_machine_with_processes(found: dict[str, object]) -> None:
    assert found == {"refused": "Resource temporarily unavailable", "processes": TASKS_MAX}


def test_one_that_takes_more_memory_than_it_may_is_ended_and_started_again(
    limited: Machine, found: dict[str, object]
) -> None:
    assert "taken" not in found
    ends = limited.journal("-u", "obt-agent", "UNIT_RESULT=signal", "+", "UNIT_RESULT=oom-kill")
    assert [entry["UNIT"] for entry in ends] == ["obt-agent.service"]
    # It is counted as restarted when its start begins.
    limited.until("systemctl is-active --quiet obt-agent")
