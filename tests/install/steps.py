"""Steps that several walks take, by the words of README and of the tutorial."""

from __future__ import annotations

import msgspec

from obt_standin.script import Script
from tests.install.blocks import commands, words
from tests.install.roots import CHECKOUT, USER, Root
from tests.install.terminal import Terminal

README, TUTORIAL, GUIDE = "README.md", "docs/tutorial/two-machines.md", "docs/how-to/service.md"
SERVER_GUIDE = "docs/how-to/server.md"
CONNECT = "Connect a machine to a server"
HOME = f"/home/{USER}"
NAME = "obt.example.org"
ON_DEBIAN = "sudo apt install python3-venv"
"""What README and tutorial put before everything else."""
YES = "DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet"
"""What ``sudo apt install`` is for somebody who does not look on."""

_SIGN_IN = """
import json, ssl, sys, urllib.request
url, name, password, cafile = sys.argv[1:]
body = json.dumps({"name": name, "password": password}).encode()
headers = {"Content-Type": "application/json", "Origin": url}
request = urllib.request.Request(url + "/api/v1/session", data=body, headers=headers)
context = ssl.create_default_context(cafile=cafile) if cafile else None
opener = urllib.request.build_opener(
    urllib.request.HTTPSHandler(context=context), urllib.request.HTTPCookieProcessor()
)
opener.open(request, timeout=60).read()
page = opener.open(url + "/", timeout=60).read().decode()
agents = json.load(opener.open(url + "/api/v1/agents", timeout=60))
print(json.dumps({"page": "<title>" in page, "agents": agents}))
"""


def clone(terminal: Terminal) -> None:
    """Get the checkout, as README's first line does."""
    (line, *_) = commands(README, "Quick start")
    terminal.run(line.replace("URL", CHECKOUT))


def venv_package(terminal: Terminal) -> None:
    """Install what Debian keeps apart, as the documents say."""
    assert ON_DEBIAN in words(README, CONNECT)
    assert ON_DEBIAN in words(TUTORIAL, "Connect a machine")
    terminal.run(ON_DEBIAN.replace("apt install", YES))


def certificate(terminal: Terminal) -> None:
    """Make one by the tutorial: cert.pem and key.pem."""
    (line,) = commands(TUTORIAL, "A certificate of your own")
    terminal.run(line)


def serve(terminal: Terminal, run: str) -> str:
    """Start the server, which goes on; gives the password that it prints."""
    terminal.type(f"{run}\n")
    return terminal.expect(r"password (\S+)", within_s=120)[1]


def join_token(terminal: Terminal) -> str:
    """Make one by the tutorial."""
    (line,) = commands(TUTORIAL, "On the server", block=1)
    return terminal.run(line).splitlines()[-2]


def token_file(terminal: Terminal) -> None:
    """Leave one in join.txt, as the guide to the service says."""
    assert "chmod 600 join.txt" in words(GUIDE, "Install")
    token = join_token(terminal)
    terminal.run(f"echo {token} > join.txt && chmod 600 join.txt")


def with_token(terminal: Terminal, command: str, token: str) -> str:
    """Run a command, and type the token when it asks for one; gives what it showed after that."""
    terminal.type(f"{command}\n")
    terminal.expect("Join token.*: ", within_s=120)
    terminal.type(f"{token}\n")
    return terminal.ends(within_s=180, what=command)


def start_ollama(root: Root, python: str, script: Script) -> None:
    """Start the stand-in at Ollama's port, as a service; the interpreter's environment has it."""
    root.write("/srv/ollama.json", msgspec.json.encode(script).decode())
    owner = f"$(stat -c %U $(dirname {python}))"
    serve = f"{python} -m obt_standin serve --script /srv/ollama.json"
    root.run(f"systemd-run --quiet --unit ollama --uid {owner} {serve}")
    until_port(root, 11434)


def until_port(root: Root, port: int) -> None:
    """Wait until something listens there."""
    connect = f'import socket; socket.create_connection(("127.0.0.1", {port}), 2)'
    root.until(f"python3 -c '{connect}' 2>&1")


def sign_in(root: Root, url: str, password: str, cafile: str = "") -> str:
    """Sign in as somebody's browser does; gives the machines that the server knows, as JSON."""
    return root.run(f"python3 - {url} admin '{password}' '{cafile}'", text=_SIGN_IN)
