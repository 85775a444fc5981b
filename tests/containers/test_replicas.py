"""``deploy/compose.replicas.yaml`` on Docker itself, by the words of the guide."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.containers.machine import DockerMachine
from tests.install.blocks import commands

pytestmark = pytest.mark.timeout(900)

GUIDE, SECTION = "docs/how-to/containers.md", "Several servers"
COMPOSE = "docker compose --file deploy/compose.replicas.yaml"
REPLICAS = {f"server-{number}": f"172.30.81.1{number}" for number in (1, 2, 3)}
NETWORK = "obt-replicas_replicas"
PROXY = "https://localhost:8443"
PASSWORD, REVISION = "correct horse battery", "0123456789ab"
WITHIN_S = 300
HAPROXY_FILES = 20_100
"""For 10,000 connections."""
CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 30 -subj /CN=localhost "
    "-addext subjectAltName=DNS:localhost -addext keyUsage=critical,digitalSignature,keyCertSign "
    "-keyout privkey.pem -out fullchain.pem && chmod 644 fullchain.pem"
)
CA_FILE = "--volume /srv/ca.pem:/srv/ca.pem:ro --env OBT_AGENT_SERVER_CA_FILE=/srv/ca.pem"


@dataclass
class Site:
    """What the compose file starts, and an API token of its operator."""

    machine: DockerMachine
    token: str = ""

    def compose(self, words: str) -> str:
        """Call Compose as the user, with a proxy of fewer connections where this host has too few files."""
        few = resource.getrlimit(resource.RLIMIT_NOFILE)[1] < HAPROXY_FILES
        more = "--file /srv/fewer.yaml " if few else ""
        return self.machine.user(f"{COMPOSE} {more}{words}", timeout_s=WITHIN_S)

    def curl(self, path: str, server: str = PROXY) -> str:
        """Words that ask with the token."""
        headers = f"-H 'Authorization: Bearer {self.token}' -H 'Host: localhost'"
        return f"curl -sSN --max-time 60 --cacert /srv/ca.pem {headers} {server}{path}"

    def get(self, path: str, replica: str) -> str:
        """What a replica answers."""
        return self.machine.run(f"{self.curl(path, f'http://{REPLICAS[replica]}:8881')} --fail")

    def statuses(self, name: str) -> set[str]:
        """The exit statuses of containers."""
        shown = f"docker inspect -f '{{{{.State.ExitCode}}}}' $(docker ps -aqf name=obt-replicas-{name})"
        return set(self.machine.run(shown).split())

    def presence(self, replica: str) -> Any:
        """How the agent is, as a replica says."""
        return json.loads(self.get("/api/v1/agents", replica))[0]["presence"]

    def holder(self, *, besides: str = "", within_s: float = 90) -> str:
        """Wait for a replica that has the agent's connection; gives its name."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for name in REPLICAS.keys() - {besides}:
                has_it = 'obt_connections{kind="agent"} 1.0' in self.get("/metrics", name)
                if has_it and self.presence(name) == "online":
                    return name
        raise AssertionError(self.machine.run("docker logs obt-agent 2>&1"))

    @contextmanager
    def asked(self) -> Iterator[list[str]]:
        """Ask the proxy for the agents again and again meanwhile; the list has the statuses afterwards."""
        answers: list[str] = []
        ask = f"{self.curl('/api/v1/agents')} -o /dev/null -w '%{{http_code}}\\n' >> /run/answers"
        self.machine.write("/run/ask", f"while [ -e /run/asking ]; do {ask}; sleep 0.05; done\n")
        self.machine.run("touch /run/asking; : > /run/answers; setsid bash /run/ask > /dev/null 2>&1 &")
        try:
            yield answers
        finally:
            answers += self.machine.run("rm /run/asking; sleep 1; cat /run/answers").split()


@pytest.fixture(scope="module")
def site(machine: DockerMachine) -> Site:
    site = Site(machine)
    *prepare, up = commands(GUIDE, SECTION)
    machine.user(CERTIFICATE)
    machine.user("\n".join(prepare), text=f"{PASSWORD}\n")
    machine.run(
        "cd /home/*/obt-agent && cp fullchain.pem /srv/ca.pem && "
        "sed 's/maxconn 10000/maxconn 5000/' deploy/proxy/haproxy-compose.cfg > /srv/fewer.cfg"
    )
    volume = "/srv/fewer.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro"
    machine.write("/srv/fewer.yaml", f"services: {{proxy: {{volumes: ['{volume}']}}}}\n")
    assert up == f"{COMPOSE} up --build --detach"
    site.compose("up --build --detach --wait")
    site.token = site.compose("exec -T server-1 obt-server operators token admin --name tests").strip()
    return site


def test_all_are_healthy_and_the_first_operator_signs_in(site: Site) -> None:
    services = [json.loads(line) for line in site.compose("ps --all --format json").splitlines()]
    assert {one["Service"]: (one["State"], one["Health"]) for one in services} == {
        **dict.fromkeys((*REPLICAS, "postgres"), ("running", "healthy")),
        **dict.fromkeys(("nats", "proxy"), ("running", "")),
    }
    assert [site.get("/readyz", name) for name in REPLICAS] == ["ok\n"] * 3
    assert "<title>OBT</title>" in site.machine.run(site.curl("/"))
    body = json.dumps({"name": "admin", "password": PASSWORD})
    sign_in = f"{site.curl('/api/v1/session')} -H 'Content-Type: application/json' --data '{body}'"
    assert json.loads(site.machine.run(sign_in)) == {"name": "admin"}


def test_an_agent_that_enrols_is_online_at_all_replicas(site: Site) -> None:
    build, _, run = commands(GUIDE, "Other machines")
    site.machine.user(build, timeout_s=WITHIN_S)
    token = site.compose("exec -T server-2 obt-server tokens join")
    site.machine.user("umask 022; cat > join-token", text=token)
    run = run.replace("https://obt.example.org:8881", PROXY)
    site.machine.user(run.replace("--env", f"{CA_FILE} --env", 1))
    site.holder()
    assert [site.presence(name) for name in REPLICAS] == ["online"] * 3
    site.machine.run("until docker exec obt-agent obt-agent status --quiet; do sleep 0.5; done")


def test_an_agent_is_online_elsewhere_when_its_replica_is_killed(site: Site) -> None:
    killed = site.holder()
    site.machine.run(f"docker kill obt-replicas-{killed}-1")
    site.holder(besides=killed, within_s=30)
    site.compose("up --detach --wait")


def test_a_release_goes_to_all_replicas_while_every_request_is_answered(site: Site) -> None:
    build, *loop = commands(GUIDE, SECTION, block=2)
    with site.asked() as answers:
        site.machine.user(f"REVISION={REVISION} {build}", timeout_s=WITHIN_S)
        site.machine.user("\n".join(loop), timeout_s=WITHIN_S)
    assert len(answers) > 100
    assert set(answers) == {"200"}
    for name in REPLICAS:
        assert f"commit {REVISION}" in site.compose(f"exec -T {name} obt-server --version")
    before = site.machine.run("docker ps --quiet")
    site.compose("up --detach")
    assert site.machine.run("docker ps --quiet") == before, "replaced by a start of what runs already"


def test_the_proxy_takes_a_certificate_unnoticed_and_ends_without_waiting_for_agents(site: Site) -> None:
    site.holder()
    copy, reload = commands(GUIDE, SECTION, block=1)
    with site.asked() as answers:
        site.machine.user(f"{copy}; {reload.replace('exec', 'exec -T')}")
    assert set(answers) == {"200"}
    site.compose("stop proxy")
    ended = site.statuses("proxy")
    site.compose("start proxy")
    assert ended == {"0"}, "137: killed after 10 s"


def test_a_stream_from_a_replica_that_is_cut_off_ends(site: Site) -> None:
    one, *others = (f"obt-replicas-{name}-1" for name in REPLICAS)
    down = f"$(docker logs --since {int(time.time())} obt-replicas-proxy-1 2>&1 | grep -c 'obt/.* is DOWN')"
    site.machine.run(f"docker pause {' '.join(others)}; until [ {down} = 2 ]; do sleep 0.5; done")
    # The stream is the first one's, since the proxy knows no other.
    cut = f"(sleep 2; docker network disconnect --force {NETWORK} {one}) > /dev/null 2>&1 &"
    ended = site.machine.call(f"{cut} {site.curl('/api/v1/events')}", timeout_s=90)
    site.machine.run(f"docker network connect --ip {REPLICAS['server-1']} {NETWORK} {one}")
    site.machine.run(f"docker unpause {' '.join(others)}")
    assert "event: current" in ended.out
    assert ended.code not in {0, 28}, "28: curl's own end after 60 s; the proxy's would come after an hour"


def test_a_stop_is_in_time_and_a_second_start_knows_all(site: Site) -> None:
    site.compose("stop")
    assert "137" not in site.statuses(""), "killed, and not stopped"
    site.compose("up --detach --wait")
    site.holder()
