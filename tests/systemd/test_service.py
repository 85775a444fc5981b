"""The service from nothing to admitted, with the real hardened unit; what befalls it; and its end.

The tests of this module share one machine, in this order; each leaves the service running and admitted.
"""

import signal
import time
from collections.abc import Callable

import pytest

from tests.systemd.machine import Machine
from tests.systemd.site import FILES, SERVER, USERS, Site

pytestmark = pytest.mark.timeout(1800)

MAKE_ENVIRONMENT = "python3 -m venv /root/try"
GET_AGENT = "/root/try/bin/pip install --quiet --no-index --find-links /srv/wheels obt-agent"
INSTALL = f"/root/try/bin/obt-agent service install --server {SERVER}"
PLAN = {
    "model_name": "standin-small:latest",
    "num_iterations": 3,
    "warmup_iterations": 0,
    "cooldown_s": 0,
    "prompts": [{"prompt": "hello", "completion_tokens": 100}],
}


@pytest.fixture(scope="module")
def site(machine: Machine) -> Site:
    site = Site(machine)
    site.start_server()
    site.start_ollama()
    site.join_token()
    site.api_token()
    site.note_files()
    return site


def admitted(site: Site, timeout_s: float = 60) -> str:
    return site.until_line("admitted by 127.0.0.1:8881, 3 models", timeout_s)


# The way there.


def test_three_commands_lead_from_nothing_to_admitted(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    started = time.monotonic()
    for command in (MAKE_ENVIRONMENT, GET_AGENT, f"{INSTALL} --token-file /root/join"):
        site.machine.run(command, timeout_s=120)
    record_property("seconds_from_nothing_to_admitted", time.monotonic() - started)
    assert "admitted by 127.0.0.1:8881, 3 models" in admitted(site)
    state = site.agent("ActiveState", "UnitFileState", "User", "NRestarts", "Type")
    assert state == {
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "User": "obt-agent",
        "NRestarts": "0",
        "Type": "notify",
    }


def test_nothing_that_the_service_runs_lies_in_a_home(site: Site) -> None:
    site.machine.run("mv /root/try /root/tried")
    site.machine.run("systemctl restart obt-agent")
    admitted(site)
    site.machine.run("mv /root/tried /root/try")
    assert "/root" not in site.machine.run("cat /opt/obt-agent/pyvenv.cfg /opt/obt-agent/bin/obt-agent")


def test_installing_again_keeps_configuration_state_and_identity(site: Site) -> None:
    machine = site.machine
    machine.run("echo '# mine' >> /etc/obt-agent/agent.yaml")
    before = machine.run("cat /etc/obt-agent/agent.yaml /var/lib/obt-agent/identity.json")
    machine.run(f"{INSTALL}", timeout_s=120)
    assert machine.run("cat /etc/obt-agent/agent.yaml /var/lib/obt-agent/identity.json") == before
    admitted(site)


def test_an_upgrade_that_does_not_start_gives_way_to_the_version_before(site: Site) -> None:
    machine, command = site.machine, "/root/try/lib/python3.11/site-packages/obt_agent/cli/run.py"
    machine.run(f"cp {command} /root/run.py && echo 'raise SystemExit(\"a broken release\")' >> {command}")
    done = machine.call(INSTALL, timeout_s=120)
    machine.run(f"cp /root/run.py {command}")
    assert done.code == 1
    assert "does not start, and the version before it runs again" in done.err
    assert "a broken release" in done.err
    admitted(site)
    assert machine.run("ls /opt") == "obt-agent\n"


INTERRUPTED = f"""
import os, signal, subprocess, sys, time
installing = subprocess.Popen("{INSTALL}".split(), stderr=subprocess.PIPE, text=True)
while not os.path.exists("/opt/obt-agent.new/lib"):
    time.sleep(0.01)
installing.send_signal(int(sys.argv[1]))
print(installing.communicate()[1], installing.returncode)
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_an_upgrade_that_is_interrupted_leaves_the_service_and_can_be_repeated(
    site: Site, number: signal.Signals
) -> None:
    machine, pid = site.machine, site.agent("MainPID")
    machine.write("/root/interrupted.py", INTERRUPTED)
    output = machine.run(f"python3 /root/interrupted.py {number}")
    assert (site.agent("MainPID"), "Traceback" in output) == (pid, False)
    if number != signal.SIGKILL:
        assert "Give the same command again" in output
        assert machine.run("ls /opt") == "obt-agent\n"
    machine.until(f"{INSTALL} 2>&1")  # 75 while a child of the one that was killed still works
    admitted(site)
    assert machine.run("ls /opt") == "obt-agent\n"


def test_the_files_belong_to_whom_they_should(site: Site) -> None:
    output = site.machine.run(
        "stat -c '%U:%G %a %n' /etc/obt-agent /etc/obt-agent/agent.yaml /var/lib/obt-agent "
        "/var/lib/obt-agent/credential.json /opt/obt-agent /opt/obt-agent/bin/obt-agent"
    )
    assert output.splitlines() == [
        "root:obt-agent 750 /etc/obt-agent",
        "root:obt-agent 640 /etc/obt-agent/agent.yaml",
        "obt-agent:obt-agent 700 /var/lib/obt-agent",
        "obt-agent:obt-agent 600 /var/lib/obt-agent/credential.json",
        "root:root 755 /opt/obt-agent",
        "root:root 755 /opt/obt-agent/bin/obt-agent",
    ]


def test_no_port_is_open(site: Site) -> None:
    """No socket of the agent's process is in the state LISTEN (0A), and seccomp refuses ``listen``."""
    script = (
        "pid=$(systemctl show obt-agent --property MainPID --value); "
        "ls -l /proc/$pid/fd | grep -o 'socket:\\[[0-9]*\\]' | tr -dc '0-9\\n' > /tmp/inodes; "
        "awk '$4 == \"0A\" {print $10}' /proc/$pid/net/tcp /proc/$pid/net/tcp6 | grep -Fxf /tmp/inodes"
    )
    assert site.machine.call(script).out == ""


# What can be seen.


def test_the_commands_that_look_inside_say_that_all_is_well(site: Site) -> None:
    assert "active (running), enabled" in site.machine.run("obt-agent service status")
    assert "admitted by 127.0.0.1:8881" in site.machine.run("obt-agent status")
    checked = site.machine.run("obt-agent check")
    assert "FAILURE" not in checked
    assert "the credential is accepted" in checked
    assert "Nothing is open" in site.machine.run("obt-agent results list")
    assert site.agent("NRestarts") == {"NRestarts": "0"}
    admitted(site)


def test_check_does_not_disturb_the_session(site: Site) -> None:
    before = site.machine.journal("OBT_EVENT=link.admitted")
    for _ in range(3):
        site.machine.run("obt-agent check")
    assert len(site.machine.journal("OBT_EVENT=link.admitted")) == len(before)


def test_the_bundle_for_a_bug_report_holds_no_secret(site: Site) -> None:
    site.machine.run(
        "cd /root && obt-agent diag --output /root/diag.tar.gz && mkdir -p x && tar -xzf diag.tar.gz -C x"
    )
    secret = site.machine.run(
        "python3 -c \"import json; print(json.load(open('/var/lib/obt-agent/credential.json'))['secret'])\""
    ).strip()
    assert len(secret) > 20
    assert site.machine.call(f"grep -rF -e '{secret}' /root/x").code == 1
    assert "agent.started" in site.machine.run("cat /root/x/*/journal.txt")


def test_the_journal_has_fields_to_search_by(site: Site) -> None:
    agent_id = site.machine.run(
        "python3 -c \"import json; print(json.load(open('/var/lib/obt-agent/identity.json'))['agent_id'])\""
    ).strip()
    (started, *_) = site.machine.journal(f"OBT_AGENT_ID={agent_id}", "OBT_EVENT=agent.started")
    assert started["PRIORITY"] == "6"
    assert started["_SYSTEMD_UNIT"] == "obt-agent.service"
    assert started["SYSLOG_IDENTIFIER"] == "obt-agent"


# What is changed while it runs.


def test_a_good_configuration_is_taken_on_reload(site: Site) -> None:
    machine = site.machine
    machine.run("cp -p /etc/obt-agent/agent.yaml /root/agent.yaml")
    machine.run("printf 'policy:\\n  models:\\n    deny: [standin-think]\\n' >> /etc/obt-agent/agent.yaml")
    machine.run("systemctl reload obt-agent")
    site.until_line("admitted by 127.0.0.1:8881, 2 models")
    machine.until("journalctl --output cat OBT_EVENT=config.reloaded | grep .")
    machine.run("cp -p /root/agent.yaml /etc/obt-agent/agent.yaml && systemctl reload obt-agent")
    admitted(site)


def test_a_bad_configuration_is_refused_on_reload_and_the_old_one_stays(site: Site) -> None:
    machine = site.machine
    pid = site.agent("MainPID")
    machine.run("echo 'polcy: {}' >> /etc/obt-agent/agent.yaml && systemctl reload obt-agent")
    machine.until("journalctl -o cat OBT_EVENT=config.refused | grep polcy")
    machine.run("cp -p /root/agent.yaml /etc/obt-agent/agent.yaml")
    admitted(site)
    assert site.agent("MainPID") == pid
    assert site.agent("ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}


# What befalls it.


@pytest.fixture(scope="module")
def restarted_soon(site: Site) -> None:
    """From here on systemd waits for a second before it starts the service again, not for ten."""
    drop_in(site, "RestartSec=1s")


def drop_in(site: Site, *settings: str) -> None:
    """Change the unit as an administrator does, until the next boot."""
    text = "\n".join(["[Service]", *settings, ""])
    site.machine.write("/run/systemd/system/obt-agent.service.d/lab.conf", text)
    site.machine.run("systemctl daemon-reload")


def start_benchmark(site: Site, job_id: str, **plan: object) -> None:
    (agent,) = site.api("GET", "/agents")
    site.api("POST", "/benchmarks", {"agent": agent["id"], "job_id": job_id, "plan": PLAN | plan})
    site.until_line("benchmark .* of standin-small")


def ollama_connections(site: Site) -> str:
    """Established connections (state 01) to Ollama's port, 11434 (hexadecimal 2CAA)."""
    return site.machine.run("awk '$3 ~ /:2CAA$/ && $4 == \"01\"' /proc/net/tcp")


def test_a_stop_in_the_middle_of_a_benchmark_is_orderly_and_loses_nothing(site: Site) -> None:
    machine = site.machine
    start_benchmark(site, "stopped")
    assert machine.journal("OBT_JOB_ID=stopped")
    site.until_line("tok/s")
    assert ollama_connections(site)
    started = time.monotonic()
    machine.run("systemctl stop obt-agent")
    assert time.monotonic() - started < 30
    assert site.agent("Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
    assert ollama_connections(site) == ""
    machine.run("systemctl start obt-agent")
    site.until_api("/benchmarks/stopped", 'a["state"] in ("completed", "interrupted")', timeout_s=120)
    admitted(site)


@pytest.mark.usefixtures("restarted_soon")
def test_a_killed_agent_comes_back_by_itself_and_delivers(site: Site) -> None:
    start_benchmark(site, "killed")
    site.until_line("tok/s")
    site.machine.run("systemctl kill --signal SIGKILL obt-agent")
    site.machine.until("test $(systemctl show obt-agent --property NRestarts --value) = 1")
    site.until_api("/benchmarks/killed", 'a["state"] in ("completed", "interrupted")', timeout_s=120)
    admitted(site)


def test_an_upgrade_in_the_middle_of_a_benchmark_lets_it_go_on_afterwards(site: Site) -> None:
    # At four seconds an iteration it outlasts any installation.
    start_benchmark(site, "upgraded", num_iterations=100)
    site.until_line("tok/s")
    pid = site.agent("MainPID")
    # What is installed becomes another version: the same one again restarts nothing.
    site.machine.run("echo '# before' >> /opt/obt-agent/lib/python3*/site-packages/obt_agent/version.py")
    site.machine.run(INSTALL, timeout_s=120)
    assert site.agent("MainPID") != pid
    site.until_line("tok/s")
    taken_up = site.machine.journal("OBT_JOB_ID=upgraded", "OBT_EVENT=job.resumed")
    assert len(taken_up) == 1
    site.api("POST", "/benchmarks/upgraded/cancel", {})
    site.until_api("/benchmarks/upgraded", 'a["state"] == "cancelled"', timeout_s=120)
    admitted(site)


def test_it_stays_far_below_its_limits_with_benchmarks_behind_it(site: Site) -> None:
    """They are 512 MiB and 128 tasks: what comes near them in minutes would meet them in weeks."""
    output = site.machine.run(
        "grep -E '^(VmHWM|Threads)' /proc/$(systemctl show obt-agent -P MainPID)/status"
    )
    peak_kib, threads = (int(line.split()[1]) for line in output.splitlines())
    assert peak_kib < 192 << 10
    assert threads < 64


def test_a_loop_that_is_blocked_on_purpose_is_killed_by_the_watchdog(site: Site) -> None:
    """A ``.pth`` file makes SIGUSR1 put the main thread to sleep: the loop stands, other threads live."""
    machine = site.machine
    drop_in(site, "RestartSec=1s", "WatchdogSec=10s")
    machine.write(
        "/opt/obt-agent/lib/python3.11/site-packages/block.pth",
        "import signal; signal.signal(signal.SIGUSR1, lambda *_: __import__('time').sleep(3600))\n",
    )
    machine.run("systemctl restart obt-agent")
    admitted(site)
    machine.run("systemctl kill --signal SIGUSR1 obt-agent")
    output = "journalctl -o cat -u obt-agent | grep -F \"Failed with result 'watchdog'\""
    machine.until(output, timeout_s=120)
    machine.run("rm /opt/obt-agent/lib/python3.11/site-packages/block.pth")
    machine.until("test $(systemctl show obt-agent --property NRestarts --value) = 1")
    admitted(site)
    drop_in(site, "RestartSec=1s")
    machine.run("systemctl restart obt-agent")
    admitted(site)


def test_a_server_that_is_away_at_the_start_holds_up_nothing(site: Site) -> None:
    site.stop_server()
    site.machine.run("systemctl restart obt-agent", timeout_s=30)
    assert site.agent("ActiveState") == {"ActiveState": "active"}
    site.until_line("no link to 127.0.0.1:8881")
    assert site.machine.call("obt-agent status").code == 69
    site.start_server()
    admitted(site, timeout_s=120)


def test_an_ollama_that_starts_later_is_noticed(site: Site) -> None:
    site.stop_ollama()
    site.machine.run("systemctl restart obt-agent")
    site.until_line("Ollama does not answer")
    site.start_ollama()
    admitted(site)


@pytest.mark.usefixtures("restarted_soon")
def test_a_token_that_cannot_be_used_ends_with_78_and_no_storm_of_restarts(site: Site) -> None:
    machine = site.machine
    machine.write("/etc/credstore/obt-token", "not a token, but several words\n", mode="600")
    assert machine.call("systemctl restart obt-agent").code == 1
    assert ended_for_good(site) == "78"
    machine.run("rm /etc/credstore/obt-token && systemctl restart obt-agent")
    admitted(site)


SCALED = """import obt_agent.backoff as b; n = b.BackoffSettings.__init__; d = list(n.__defaults__); \
d[1], d[6] = 0.3, 3.0; n.__defaults__ = tuple(d)
"""
"""For a ``.pth`` file: ten refusals and ten minutes, its minutes 200 times as short."""


@pytest.mark.usefixtures("restarted_soon")
def test_a_token_that_the_server_goes_on_refusing_ends_with_78_and_says_what_to_do(site: Site) -> None:
    """A well-formed token that the server does not know, tried ten times over the (scaled) period."""
    machine = site.machine
    (agent,) = site.api("GET", "/agents")
    machine.write("/root/join", site.server(f"tokens join --agent {agent['id']}"), mode="600")
    scaled = "/opt/obt-agent/lib/python3.11/site-packages/scaled.pth"
    machine.write(scaled, SCALED)
    machine.write("/etc/credstore/obt-token", "obt_" + "x" * 43 + "\n", mode="600")
    machine.run("systemctl restart obt-agent")
    machine.until("systemctl is-failed obt-agent")
    assert ended_for_good(site) == "78"
    refused = machine.journal("-u", "obt-agent", "OBT_EVENT=link.down", "OBT_KIND=refused_401")
    assert [entry["PRIORITY"] for entry in refused[-1:]] == ["4"], "one line, whatever often it was refused"
    remedy = "sudo obt-agent service install --enroll-again --token-file FILE"
    output = machine.call("obt-agent status")
    assert (output.code, remedy in output.err) == (1, True)
    assert remedy in machine.call("systemctl status obt-agent").out
    assert remedy in machine.run("journalctl --output cat -u obt-agent -p err")
    checked = machine.call("obt-agent check")
    assert (checked.code, "-> The server does not know this credential" in checked.out) == (1, True)
    machine.run(f"rm {scaled}")
    done = machine.run(f"{INSTALL} --token-file /root/join --enroll-again 2>&1")
    assert "in place of /etc/credstore/obt-token" in done
    admitted(site)


def ended_for_good(site: Site) -> str:
    """The exit status of a service that is not started again: longer than RestartSec=1s nothing happens."""
    assert site.agent("RestartUSec") == {"RestartUSec": "1s"}
    before = site.agent("NRestarts", "ExecMainStartTimestampMonotonic")
    site.machine.run("sleep 3; systemctl is-failed obt-agent")
    assert site.agent("NRestarts", "ExecMainStartTimestampMonotonic") == before
    return site.agent("ExecMainStatus")["ExecMainStatus"]


@pytest.mark.usefixtures("restarted_soon")
def test_a_revoked_credential_ends_with_78_and_a_new_token_repairs_it(site: Site) -> None:
    (agent,) = site.api("GET", "/agents")
    site.server(f"tokens revoke {agent['id']}")
    site.machine.until("systemctl is-failed obt-agent", timeout_s=90)
    assert ended_for_good(site) == "78"
    site.server(f"tokens join --agent {agent['id']}")
    site.machine.write("/root/join", site.server(f"tokens join --agent {agent['id']}"), mode="600")
    site.machine.run(f"{INSTALL} --token-file /root/join --enroll-again", timeout_s=120)
    admitted(site)


# Its end.


def test_uninstalling_leaves_nothing(site: Site) -> None:
    machine = site.machine
    machine.run("obt-agent service uninstall")
    assert machine.run(f"({FILES}) | diff /root/files-before - || true") == ""
    assert machine.run(f"({USERS}) | diff /root/users-before - || true") == ""
    assert machine.call("systemctl list-unit-files 'obt-agent*' --no-legend").out == ""


def test_the_state_can_be_kept(site: Site) -> None:
    machine = site.machine
    site.join_token()
    machine.run(f"{INSTALL} --token-file /root/join", timeout_s=120)
    before = machine.run("cat /var/lib/obt-agent/identity.json")
    machine.run("obt-agent service uninstall --keep-state")
    assert machine.run("cat /var/lib/obt-agent/identity.json") == before
    machine.run(f"{INSTALL}", timeout_s=120)
    admitted(site)
    machine.run("obt-agent service uninstall")


# What can be wrong on the way there; nothing is installed at the start of each.

FULL_DISK = f"""mount -t tmpfs -o size=8m x /opt; {INSTALL} --token-file /root/join; status=$?
left=$(ls -A /opt); umount /opt; test -z "$left" || exit 99; exit $status"""
OLD_PYTHON = '#!/bin/sh\necho \'[[3, 9], "/srv/old-python", "cpython", "3.9.2"]\'\n'


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (f"{INSTALL} </dev/null", 78, "A join token is needed to enrol this machine"),
        (f"{INSTALL} --token-file /root/none", 78, "/root/none cannot be read"),
        ("/root/try/bin/obt-agent service install </dev/null", 78, "Which server? Give --server"),
        (f"{INSTALL.replace('http://', '')} --token-file /root/join", 78, "has no scheme"),
        (f"{INSTALL.replace('127.0.0.1', 'obt.example.org')} --token-file /root/join", 78, "not encrypted"),
        (f"{INSTALL} --token-file /root/join --python /srv/old-python", 1, "needs CPython 3.11 or later"),
        (f"{INSTALL.replace('8881', '9')} --token-file /root/join", 1, "cannot be reached"),
        (f"{INSTALL} --token-file /root/used", 1, "refused the join token"),
        (FULL_DISK, 1, "/opt/obt-agent cannot be made: No space left on device"),
        (
            f"setpriv --reuid=1 --regid=1 --clear-groups {INSTALL} --token-file /root/join",
            77,
            "Only root may install or remove the service: put sudo before the command",
        ),
    ],
)
def test_an_error_on_the_way_says_what_to_do(site: Site, command: str, code: int, words: str) -> None:
    machine = site.machine
    machine.run("chmod 755 /root; test -e /root/used || cp -p /root/join /root/used")
    machine.write("/srv/old-python", OLD_PYTHON, mode="755")
    site.join_token()
    done = machine.call(command, timeout_s=120)
    machine.run("obt-agent service uninstall || true")
    assert done.code == code, done
    assert words in done.err
    assert "Traceback" not in done.err


def test_without_an_ollama_the_agent_is_installed_and_says_so(site: Site) -> None:
    site.stop_ollama()
    site.join_token()
    done = site.machine.call(f"{INSTALL} --token-file /root/join", timeout_s=120)
    assert done.code == 0, done
    assert "Ollama does not answer; the agent waits for it" in done.err
    site.machine.run("obt-agent service uninstall")
