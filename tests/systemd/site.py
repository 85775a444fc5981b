"""Server, Ollama and agent on the lab's machine, as the tests meet them."""

import json
from dataclasses import dataclass
from typing import Any

from tests.systemd.machine import Machine
from tests.systemd.payload import ROOT

SERVER = "http://127.0.0.1:8881"
FILES = (
    "find /etc /opt /usr /var /run /home /srv -xdev -not -path '/run/systemd/*' -not -path '/run/log/*' "
    "-not -path '/run/udev/*' -not -path '/var/log/journal/*' -not -path '/run/user/*' "
    "-not -path '/var/tmp/systemd-private-*' "
    "-not -path '/srv/obt.sqlite3*' "
    "-not -path '/etc/passwd-' -not -path '/etc/group-' -not -path '/etc/*shadow-' "
    "-not -path '*/__pycache__*' | sort"
)
"""Everything that an installation might leave behind; what the lab itself changes is left out."""
USERS = "cut -d: -f1 /etc/passwd /etc/group | sort"
UNATTENDED = "DEBIAN_FRONTEND=noninteractive dpkg --install"
"""Nobody is there to answer: ``<&-`` goes behind the packages, and a question fails."""
_SERVER = "PYTHONPATH=/srv/site python3 /srv/inside/server.py"
# What waits does so within one process: a Python each 0.1 s would keep a processor busy.
_ASK = """
import json, sys, time, urllib.request
method, path, body, *until = sys.argv[1:]
data = body.encode() if body else None
request = urllib.request.Request("{server}/api/v1" + path, method=method, data=data)
request.add_header("Authorization", "Bearer " + open("/root/api").read().strip())
request.add_header("Content-Type", "application/json")
while True:
    text = urllib.request.urlopen(request, timeout=20).read().decode()
    a = json.loads(text)
    if not until or eval(until[0]):
        break
    time.sleep(0.1)
print(text)
"""
_CONNECT = """
import socket, sys, time
while True:
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2).close()
        break
    except OSError:
        time.sleep(0.1)
"""


def lay_unit(machine: Machine) -> None:
    """The real unit, its user and its folders, as the installation would make them; no program yet."""
    for name, place in (
        ("obt-agent.service", "/etc/systemd/system/obt-agent.service"),
        ("obt-agent.sysusers.conf", "/etc/sysusers.d/obt-agent.conf"),
        ("obt-agent.tmpfiles.conf", "/etc/tmpfiles.d/obt-agent.conf"),
    ):
        machine.write(place, (ROOT / "systemd" / name).read_text())
    machine.run("systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload")


@dataclass
class Site:
    """What runs on the machine beside the agent."""

    machine: Machine

    def start_server(self) -> None:
        run = "/usr/bin/python3 /srv/inside/server.py run --database /srv/obt.sqlite3"
        self._start("obt-server", run, 8881)

    def stop_server(self) -> None:
        self.machine.run("systemctl stop obt-server")

    def start_ollama(self) -> None:
        """Its process is called ollama and runs as another user, so that the agent finds it by its name."""
        self.machine.run("cp -n /usr/bin/python3.11 /usr/local/bin/ollama")
        self._start("ollama", "/usr/local/bin/ollama /srv/inside/ollama.py serve", 11434, "DynamicUser=yes")

    def stop_ollama(self) -> None:
        self.machine.run("systemctl stop ollama")

    def note_files(self) -> None:
        """Remember which files and users there are, to compare with later.

        The group ``render`` comes with udev, which every machine has and this one lacks.
        """
        self.machine.run("groupadd --system render")
        self.machine.write("/root/files-before", self.machine.run(FILES))
        self.machine.write("/root/users-before", self.machine.run(USERS))

    def server(self, command: str, text: str | None = None) -> str:
        """A command of obt-server, on the server's database."""
        return self.machine.run(f"{_SERVER} {command} --database /srv/obt.sqlite3", text=text)

    def join_token(self, path: str = "/root/join") -> None:
        """Leave a fresh join token in a file."""
        self.machine.write(path, self.server("tokens join"), mode="600")

    def api_token(self) -> None:
        """Let ``api`` ask."""
        self.server("operators password lab", text="correct horse battery staple\n")
        self.machine.write("/root/api", self.server("operators token lab --name lab"), mode="600")
        self.machine.write("/root/ask.py", _ASK.format(server=SERVER))

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Ask the server's API."""
        text = "" if body is None else json.dumps(body)
        return json.loads(self.machine.run(f"python3 /root/ask.py {method} '{path}' '{text}'"))

    def until_api(self, path: str, condition: str, timeout_s: float = 90) -> None:
        """Wait until a Python expression on the answer ``a`` holds."""
        self.machine.until(f"python3 /root/ask.py GET '{path}' '' '{condition}'", timeout_s=timeout_s)

    def until_line(self, pattern: str, timeout_s: float = 60) -> str:
        """Wait for systemd's status line of the agent to match; gives it."""
        return self.machine.until(
            f"systemctl show obt-agent --property StatusText | grep -E '{pattern}'", timeout_s=timeout_s
        ).strip()

    def agent(self, *names: str) -> dict[str, str]:
        """Properties of the agent's unit."""
        return self.machine.unit("obt-agent", *names)

    def _start(self, name: str, command: str, port: int, more: str = "") -> None:
        """Start a unit of the lab's own, and wait until its port takes connections."""
        text = f"[Service]\nEnvironment=PYTHONPATH=/srv/site\nExecStart={command}\n{more}\n"
        self.machine.write(f"/run/systemd/system/{name}.service", text)
        self.machine.run(f"systemctl daemon-reload && systemctl start {name}")
        self.machine.until(f"python3 -c '{_CONNECT}' {port} 2>&1")
