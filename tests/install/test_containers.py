"""``deploy/Dockerfile`` and ``deploy/compose.yaml`` without Docker: built, started, and what is in them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.install import compose, dockerfile, images
from tests.install.conftest import WALK
from tests.install.containers import Container, Containers, Image
from tests.install.roots import TRIXIE
from tests.systemd.payload import ROOT

pytestmark = pytest.mark.timeout(900)

DEPLOY = ROOT / "deploy"
STAGES = dockerfile.read((DEPLOY / "Dockerfile").read_text())
REVISION = "0123456789ab"
PASSWORD = "correct horse battery"
OLLAMA = ("/opt/obt-server/bin/python", "-m", "obt_standin", "serve")
"""The stand-in, which comes with the wheel, in place of Ollama's image."""
SIGN_IN = """
import json, ssl, sys, urllib.request
context = ssl.create_default_context(cafile="tls-cert.pem")
request = urllib.request.Request(
    "https://localhost:8881/api/v1/session",
    data=json.dumps({"name": "admin", "password": sys.stdin.read().strip()}).encode(),
    headers={"Content-Type": "application/json"},
)
print(urllib.request.urlopen(request, context=context, timeout=60).read().decode())
"""
ADDED = re.compile(
    r"(etc(/(passwd|group|shadow|gshadow|subuid|subgid)-?|/\.pwd\.lock)?"
    r"|opt(/obt-(agent|server)(/.*)?)?|usr(/local(/bin(/obt-(agent|server))?)?)?"
    r"|var(/lib(/obt-(agent|server|join))?)?|run(/lock(/obt-agent)?)?)"
)
"""What the final stages may add to the base: a user, the program, a link to it, folders for its state."""
BUILDERS = re.compile(
    r"/(pip|hatchling|setuptools|wheel|editables|build|cmake|ninja)(-[0-9.]+\.dist-info|/__init__\.py)|\.whl$|/\.cache/"
)


@dataclass
class Built:
    """The images, and how long they took."""

    host: images.BuildHost
    images: dict[str, Image]
    seconds: float

    def files(self, target: str) -> list[str]:
        """What the layers of a final stage add to the base image."""
        layers = [layer for layer in self.images[target].lower.split(":") if layer.startswith(images.LAYERS)]
        return self.host.run(f"find {' '.join(layers)} -mindepth 1 -printf '%P\\n'").splitlines()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    context: Path = tmp_path_factory.mktemp("context")
    images.lay_out(context)
    host = images.BuildHost("containers", context)
    with host:
        started = time.monotonic()
        made = images.Images(host, STAGES, {"REVISION": REVISION})
        made.build()
        seconds = time.monotonic() - started
        yield Built(
            host,
            {name: Image(made.lower(name), STAGES[name].settings) for name in ("agent", "server")},
            seconds,
        )


@dataclass
class Site:
    """The services of the compose file, as ``docker compose up`` leaves them."""

    built: Built
    containers: Containers
    services: Any
    ollama: Container
    server: Container
    join: Container
    agent: Container
    seconds: float = 0.0

    @classmethod
    def up(cls, built: Built) -> Site:
        """Start the services, each when those that it waits for are as it says."""
        services = compose.load(DEPLOY / "compose.yaml")["services"]
        containers, made = Containers(built.host), built.images
        # Its own image says nothing that counts here.
        ollama = containers.start(
            "ollama",
            made["server"],
            {"environment": services["ollama"]["environment"]},
            command=OLLAMA,
            user=(0, 0),
        )
        server = containers.start("server", made["server"], services["server"])
        server.until(*health("server"))
        join = containers.start("join", made["server"], services["join"])
        assert join.ends() == 0, join.log
        agent = containers.start("agent", made["agent"], services["agent"], beside=beside(services, ollama))
        agent.until(*health("agent"))
        return cls(built, containers, services, ollama, server, join, agent)

    def sign_in(self, password: str) -> str:
        """Sign in at the server's page, from its container; gives who that is."""
        done = self.server.exec("/opt/obt-server/bin/python", "-c", SIGN_IN, text=password)
        assert done.code == 0, done.err
        return str(json.loads(done.out)["name"])


def beside(services: Any, ollama: Container) -> Container | None:
    """The container whose process numbers the agent's shares, as the file says."""
    return ollama if services["agent"].get("pid") == "service:ollama" else None


def health(target: str) -> tuple[str, ...]:
    check = STAGES[target].settings.health
    assert check
    return check.command


@pytest.fixture(scope="module")
def site(built: Built) -> Site:
    started = time.monotonic()
    site = Site.up(built)
    site.seconds = time.monotonic() - started
    return site


def test_each_instruction_of_the_dockerfile_is_carried_out(
    built: Built, record_property: Callable[[str, object], None]
) -> None:
    record_property(WALK, ["deploy/Dockerfile: both images, replayed", str(TRIXIE), built.seconds])
    for target in ("agent", "server"):
        files = built.files(target)
        assert f"opt/obt-{target}/bin/obt-{target}" in files
        assert [name for name in files if not ADDED.fullmatch(name)] == []


def test_nothing_that_builds_and_no_cache_is_in_an_image(built: Built) -> None:
    for target in ("agent", "server"):
        assert [name for name in built.files(target) if BUILDERS.search(f"/{name}")] == []
    tools = "for one in cc gcc g++ clang make cmake cargo pip pip3 hatchling uv; do command -v $one; done"
    tree = built.host.tree
    assert built.host.call(f"chroot {tree} /bin/sh -c '{tools}'").out == "", "in the base"


def test_an_image_s_user_owns_its_state_and_can_write_nothing_else(built: Built) -> None:
    for target in ("agent", "server"):
        layers = " ".join(built.images[target].lower.split(":")[:-1])
        state = {"agent": ["run/lock/obt-agent"], "server": ["var/lib/obt-join"]}[target]
        owned = built.host.run(f"find {layers} ! -uid 0 -printf '%P %u %m\\n'").splitlines()
        assert sorted(owned) == sorted(f"{name} 10001 700" for name in (*state, f"var/lib/obt-{target}"))
        # A folder with the sticky bit is the base's, where a new folder was made.
        assert built.host.run(f"find {layers} ! -type l ! -perm -1000 -perm /022") == ""
        assert built.host.run(f"find {layers} -perm /6000") == ""


def test_one_command_brings_up_an_agent_that_the_server_has_admitted(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    record_property(
        WALK, ["deploy/compose.yaml: until both health checks are good", str(TRIXIE), site.seconds]
    )
    shown = site.agent.exec("obt-agent", "status").out
    assert "admitted by server:8881" in shown
    assert f"commit {REVISION}" in shown
    assert "pinned   sha256-" in shown
    assert site.server.exec("obt-server", "status").out == "ready at https://127.0.0.1:8881\n"
    assert "https://localhost:8881/" in site.server.log


def test_the_agent_finds_nothing_wrong_and_reads_the_ollama_beside_it(site: Site) -> None:
    checked = site.agent.exec("obt-agent", "check", "--json")
    wrong = [one for one in json.loads(checked.out)["findings"] if one["level"] not in {"ok", "skipped"}]
    assert (checked.code, wrong) == (0, [])
    (server,) = json.loads(site.agent.exec("obt-agent", "hardware", "--json").out)["sample"]["ollama"]
    assert (server["pid"], server["role"]) == (1, "server"), "the first process of what it runs beside"
    assert server["rss_bytes"] > 0


@pytest.mark.parametrize("name", ["agent", "server"])
def test_a_container_has_no_rights_and_can_write_its_state_alone(site: Site, name: str) -> None:
    container: Container = getattr(site, name)
    status = site.built.host.run(f"cat /proc/{container.pid}/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == ["10001"] * 4
    assert {facts[one] for one in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert facts["NoNewPrivs"] == "1"
    # Whoever became root there could not write it either.
    root = container.exec("awk", '$5 == "/" { print $6 }', "/proc/self/mountinfo").out.split()
    assert root[-1].split(",")[0] == "ro"
    writable = (
        "for one in / /etc /opt /usr/local/bin /var/lib /run /home; do [ ! -w $one ] || echo $one; done"
    )
    assert container.exec("sh", "-c", writable).out == ""
    assert container.exec("touch", f"/opt/obt-{name}/x").code != 0
    assert container.exec("touch", f"/var/lib/obt-{name}/x", "/tmp/x").code == 0  # noqa: S108 - the container's own


def test_the_token_is_the_agent_s_to_read_and_nobody_s_to_write(site: Site) -> None:
    assert site.agent.exec("stat", "-c", "%u %a", "/run/secrets/join-token").out == "10001 600\n"
    assert site.agent.exec("sh", "-c", "echo x > /run/secrets/join-token").code != 0
    assert site.server.exec("ls", "/var/lib/obt-join").out == "", "another container's volume"


def test_no_secret_is_in_a_log_an_argument_or_a_variable(site: Site) -> None:
    token = site.agent.exec("cat", "/run/secrets/join-token").out.strip()
    secret, pin = token.split(".")
    password = site.server.exec("cat", "first-password").out.strip()
    assert (len(password), secret[:5], pin[:7]) == (23, "obtj_", "sha256-")
    logs = "".join(one.log for one in (site.ollama, site.server, site.join, site.agent))
    told = site.built.host.run("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'")
    for one in (secret, password):
        assert one not in logs
        assert one not in told
    assert site.sign_in(password) == "admin"


def test_up_again_makes_no_token_and_the_agent_stays_the_same(site: Site) -> None:
    token = site.agent.exec("cat", "/run/secrets/join-token").out
    before = agent_id(site)
    assert site.agent.stop(STAGES["agent"].settings.stop_signal) == 0, site.agent.log
    assert site.server.stop(STAGES["server"].settings.stop_signal) == 0, site.server.log
    made = site.built.images
    site.server = site.containers.start("server", made["server"], site.services["server"])
    site.server.until(*health("server"))
    assert "First start" not in site.server.log
    site.join = site.containers.start("join", made["server"], site.services["join"])
    assert site.join.ends() == 0
    assert f"stays as it is: its join token was used by {before}" in site.join.log
    site.agent = site.containers.start(
        "agent", made["agent"], site.services["agent"], beside=beside(site.services, site.ollama)
    )
    site.agent.until(*health("agent"))
    assert site.agent.exec("cat", "/run/secrets/join-token").out == token
    assert agent_id(site) == before


def agent_id(site: Site) -> str:
    found = re.search(r"\(([0-9a-f-]{36})\)", site.agent.exec("obt-agent", "status").out)
    assert found
    return found[1]


def test_the_health_checks_tell_when_one_of_them_is_gone(site: Site) -> None:
    assert site.server.stop("TERM") == 0
    deadline = time.monotonic() + 60
    while site.agent.exec(*health("agent")).code == 0:
        assert time.monotonic() < deadline, "healthy without a server"
    done = site.agent.exec(*health("agent"))
    assert (done.code, done.out, done.err) == (1, "", "")
    site.agent.stop("TERM")


def test_the_first_password_may_be_a_secret(site: Site) -> None:
    if site.server.running:
        site.server.stop("TERM")
    services = compose.load(DEPLOY / "compose.yaml", DEPLOY / "compose.password.yaml")["services"]
    service = services["server"] | {"volumes": ["another:/var/lib/obt-server"]}
    # As the page has it written: Docker gives it to the container with the mode that it has.
    site.containers.secret("first-password", f"{PASSWORD}\n", "644")
    site.server = site.containers.start("again", site.built.images["server"], service)
    site.server.until(*health("server"))
    deadline = time.monotonic() + 60
    while "the password in /run/secrets/first-password" not in site.server.log:
        assert time.monotonic() < deadline, site.server.log
    assert PASSWORD not in site.server.log
    assert site.server.exec("test", "-e", "first-password").code == 1
    assert site.sign_in(PASSWORD) == "admin"
    assert site.server.stop("TERM") == 0
