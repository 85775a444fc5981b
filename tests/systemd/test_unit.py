"""The unit itself: valid, hardened, and yet able to read what the agent measures."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.systemd.machine import Machine
from tests.systemd.payload import ROOT
from tests.systemd.site import Site, lay_unit

pytestmark = pytest.mark.timeout(1800)

UNITS = ROOT / "systemd"
THRESHOLD = "15"
"""Ten times the exposure that ``systemd-analyze security`` may give at most."""


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = ["systemd-analyze", *(str(argument) for argument in arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", ["obt-agent.service", "obt-agent-user.service"])
def test_systemd_finds_nothing_to_say_about_the_unit(name: str, tmp_path: Path) -> None:
    program = tmp_path / "obt-agent"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = (UNITS / name).read_text()
    for path in ("/opt/obt-agent/bin/obt-agent", "%h/.local/bin/obt-agent"):
        text = text.replace(path, str(program))
    (tmp_path / name).write_text(text)
    done = analyze("verify", "--recursive-errors=no", "--man=no", tmp_path / name)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_exposure_is_at_most_1_5() -> None:
    done = analyze("security", "--offline=true", f"--threshold={THRESHOLD}", UNITS / "obt-agent.service")
    assert done.returncode == 0, done.stdout


PROBE = '''#!/usr/bin/python3
"""Runs in the agent's place, under its unit, tries things, and leaves what came of them."""
import ctypes, json, os, resource, socket, subprocess

def attempt(action):
    try:
        return str(action())
    except OSError as error:
        return os.strerror(error.errno)

def listen():
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()

def io_uring():
    """Since Linux 6.11 it binds, listens and accepts, and no filter of system calls sees it."""
    libc, setup, ring = ctypes.CDLL(None, use_errno=True), 425, ctypes.create_string_buffer(120)
    if libc.syscall(setup, 1, ring) < 0:
        raise OSError(ctypes.get_errno(), "")

ollama = [pid for pid in os.listdir("/proc") if pid.isdigit()
          and open(f"/proc/{pid}/comm").read().strip() == "ollama"]
found = {
    "nvidia": attempt(lambda: os.close(os.open("/dev/nvidia0", os.O_RDWR))),
    "render": attempt(lambda: os.close(os.open("/dev/dri/renderD128", os.O_RDONLY))),
    "render_for_writing": attempt(lambda: os.close(os.open("/dev/dri/renderD128", os.O_RDWR))),
    "named_like_a_gpu": attempt(lambda: os.close(os.open("/dev/nvidia1", os.O_RDWR))),
    "other_devices": sorted({"kmsg", "mem", "other", "vda", "loop0"} & set(os.listdir("/dev"))),
    "ollama": [sorted(os.listdir(f"/proc/{pid}/task")) and open(f"/proc/{pid}/stat").read().split()[1]
               for pid in ollama],
    "ollama_memory": attempt(lambda: os.close(os.open(f"/proc/{ollama[0]}/mem", os.O_RDONLY))),
    "ollama_signal": attempt(lambda: os.kill(int(ollama[0]), 15)),
    "meminfo": attempt(lambda: open("/proc/meminfo").read(8)),
    "listen": attempt(listen),
    "io_uring": attempt(io_uring),
    "netlink": attempt(lambda: socket.socket(socket.AF_NETLINK)),
    "state": attempt(lambda: open("/var/lib/obt-agent/probe", "w").close()),
    "lock": attempt(lambda: open("/run/lock/obt-agent/probe", "w").close()),
    "etc": attempt(lambda: open("/etc/obt-agent/probe", "w").close()),
    "usr": attempt(lambda: open("/usr/probe", "w").close()),
    "program": attempt(lambda: open("/opt/obt-agent/bin/obt-agent", "a").close()),
    "home": attempt(lambda: os.listdir("/root")),
    "tmp": os.listdir("/tmp"),
    "credential": attempt(lambda: open(os.environ["CREDENTIALS_DIRECTORY"] + "/obt-token").read()),
    "user_namespace": attempt(lambda: os.unshare(0x10000000) if hasattr(os, "unshare")
        else subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode),
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")][0],
    "uid": os.getuid(),
}
with open("/var/lib/obt-agent/found.json", "w") as file:
    json.dump(found, file)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
import time; time.sleep(3600)
'''

# Kinds of character devices that anybody may open, under the names that GPU drivers register: major 203 is
# cpuid, 10 is misc (200: tun); 246 (macvtap) stands for a kind that the unit does not allow.
DEVICES = """
sed 's| cpu/cpuid$| nvidia|; s| misc$| drm|' /proc/devices > /run/devices
mount --bind /run/devices /proc/devices
mknod -m 666 /dev/nvidia0 c 203 0 && mknod -m 666 /dev/nvidia1 c 246 1 && mknod -m 666 /dev/other c 203 0
mkdir /dev/dri && mknod -m 660 /dev/dri/renderD128 c 10 200 && chgrp render /dev/dri/renderD128
"""


@pytest.fixture(scope="module")
def found(machine: Machine) -> dict[str, object]:
    """What the probe found, running as the real unit's process."""
    site = Site(machine)
    site.start_ollama()
    lay_unit(machine)
    machine.run("touch /tmp/of-others")
    machine.run(DEVICES)
    machine.write("/opt/obt-agent/bin/obt-agent", PROBE, mode="755")
    machine.write("/etc/credstore/obt-token", "a-token-for-the-probe", mode="600")
    machine.run("systemctl daemon-reload && systemctl start obt-agent")
    values: dict[str, object] = json.loads(machine.run("cat /var/lib/obt-agent/found.json"))
    return values


def test_gpu_devices_can_be_opened(found: dict[str, object]) -> None:
    assert (found["nvidia"], found["render"]) == ("None", "None")


def test_a_gpu_is_not_written_to_where_reading_will_do(found: dict[str, object]) -> None:
    assert found["render_for_writing"] == "Operation not permitted"


def test_no_other_device_can_be_opened_or_seen(found: dict[str, object]) -> None:
    assert found["named_like_a_gpu"] == "Operation not permitted"
    assert found["other_devices"] == []


def test_ollamas_processes_can_be_measured_and_not_touched(found: dict[str, object]) -> None:
    assert found["ollama"] == ["(ollama)"]
    assert found["ollama_memory"] == "Permission denied"
    assert found["ollama_signal"] == "Operation not permitted"
    assert found["meminfo"] == "MemTotal"


def test_it_cannot_listen_and_sees_no_netlink(found: dict[str, object]) -> None:
    assert found["listen"] == "Operation not permitted"
    assert found["io_uring"] == "Operation not permitted"
    assert found["netlink"] == "Address family not supported by protocol"


def test_it_writes_its_state_and_the_benchmark_lock_and_nothing_else(found: dict[str, object]) -> None:
    assert (found["state"], found["lock"]) == ("None", "None")
    assert (found["etc"], found["usr"]) == ("Read-only file system",) * 2
    assert found["program"] == "Permission denied"
    assert found["home"] == "Permission denied"
    assert found["tmp"] == []


def test_it_gets_its_token_and_no_privilege(found: dict[str, object]) -> None:
    assert found["credential"] == "a-token-for-the-probe"
    assert found["user_namespace"] != "0"
    assert found["capabilities"] == "0000000000000000"
    assert found["uid"] != 0


def test_a_token_that_is_not_there_does_not_stop_it(machine: Machine, found: dict[str, object]) -> None:
    machine.run("rm /etc/credstore/obt-token && systemctl restart obt-agent")
    values = json.loads(machine.run("cat /var/lib/obt-agent/found.json"))
    assert values["credential"] == "No such file or directory"


def test_the_limits_that_protect_the_machine_are_in_force(machine: Machine, found: dict[str, object]) -> None:
    wanted = {
        "MemoryMax": str(512 << 20),
        "MemoryHigh": str(384 << 20),
        "TasksMax": "128",
        "CPUWeight": "50",
        "IOWeight": "20",
        "OOMScoreAdjust": "300",
        "SocketBindDeny": "any",
    }
    assert machine.unit("obt-agent", *wanted) == wanted


def test_the_running_service_is_as_exposed_as_the_file(machine: Machine, found: dict[str, object]) -> None:
    machine.run(f"systemd-analyze security --threshold={THRESHOLD} obt-agent.service")


def test_the_user_unit_runs_under_a_users_own_manager(machine: Machine) -> None:
    """With its sandbox of seccomp alone: no root, no port, admitted by nobody yet, and up."""
    machine.run("useradd --create-home --shell /bin/bash somebody && loginctl enable-linger somebody")
    home = "/home/somebody"
    unit = f"{home}/.config/systemd/user/obt-agent.service"
    machine.write(unit, (UNITS / "obt-agent-user.service").read_text())
    machine.write(f"{home}/token", "a-token-of-somebody", mode="600")
    config = f"server:\n  url: http://127.0.0.1:9\n  token_file: {home}/token\n"
    machine.write(f"{home}/.config/obt-agent/agent.yaml", config)
    launcher = '#!/bin/sh\nPYTHONPATH=/srv/site exec /usr/bin/python3 -m obt_agent "$@"\n'
    machine.write(f"{home}/.local/bin/obt-agent", launcher, mode="755")
    machine.run(f"chown -R somebody:somebody {home}")
    user = machine.run("id -u somebody").strip()
    as_user = f"runuser -u somebody -- env XDG_RUNTIME_DIR=/run/user/{user} systemctl --user"
    machine.until(f"test -S /run/user/{user}/systemd/private")
    machine.run(f"{as_user} daemon-reload && {as_user} start obt-agent", timeout_s=90)
    values = machine.until(f"{as_user} show obt-agent --property StatusText | grep 'no link to 127.0.0.1:9'")
    assert "Ollama" in values or "models" in values
    assert machine.run(f"test -d {home}/.local/state/obt-agent && echo yes") == "yes\n"
