"""The compose file of several servers, without containers: whether image, proxy and settings fit."""

import ipaddress
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from obt_agent.config.load import ProcessContext
from obt_server.config.load import SERVER
from obt_server.config.load import load as load_server
from tests.install import compose
from tests.project.paths import ROOT
from tests.project.test_container_files import OTHER_VARIABLES, SCHEMA, STAGES

DEPLOY = ROOT / "deploy"
FILE = DEPLOY / "compose.replicas.yaml"
WHOLE = compose.load(FILE)
SERVICES = WHOLE["services"]
REPLICAS = ("server-1", "server-2", "server-3")
OWN_SERVERS = re.compile(r"^ *server \w+ ([\d.:]+)", flags=re.MULTILINE)
LIBPQ = {"PGPASSFILE"}
"""Of libpq, which the driver passes them on to."""
IMAGES = re.compile(r"(postgres|nats|haproxy):\d+\.?\d*-[a-z]+")


def addresses() -> dict[str, str]:
    """The address of each service that has one of its own."""
    return {
        name: service["networks"]["replicas"]["ipv4_address"]
        for name, service in SERVICES.items()
        if isinstance(service["networks"], dict)
    }


def test_it_is_a_compose_file_by_the_schema() -> None:
    errors = jsonschema.Draft7Validator(SCHEMA).iter_errors(WHOLE)
    assert [error.message for error in errors] == []


def test_everything_that_a_service_names_is_there() -> None:
    secrets = {secret for service in SERVICES.values() for secret in service.get("secrets", ())}
    assert secrets == set(WHOLE["secrets"])
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        assert set(service["networks"]) == set(WHOLE["networks"])
        assert service["image"] == "obt-server" or IMAGES.fullmatch(service["image"])
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in WHOLE["volumes"] or (DEPLOY / source).is_file(), volume
    for secret in WHOLE["secrets"].values():
        assert secret["file"].startswith("./secrets/")


def test_a_secret_is_a_file_and_its_setting_says_where() -> None:
    for name in REPLICAS:
        files = {f"/run/secrets/{secret}" for secret in SERVICES[name]["secrets"]}
        said = {value for value in SERVICES[name]["environment"].values() if "/run/secrets/" in value}
        assert said == files
    proxy = (DEPLOY / "proxy/haproxy-compose.cfg").read_text()
    assert all(f"/run/secrets/{secret}" in proxy for secret in SERVICES["proxy"]["secrets"])
    assert SERVICES["nats"]["command"] == ["--config", "/run/secrets/nats.conf"]


def test_replicas_differ_by_their_address_alone_and_have_no_rights() -> None:
    first, *others = ({**SERVICES[name], "networks": None, "build": None} for name in REPLICAS)
    assert others == [first, first]
    for name in (*REPLICAS, "proxy", "nats"):
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "cap_add", "user"} & set(service)
    assert SERVICES[REPLICAS[0]]["build"]["target"] == "server"
    kept = {one.partition(":")[0] for one in first["tmpfs"]}
    assert set(STAGES["server"].settings.volumes) <= kept, (
        "else its state would be in a volume without a name"
    )


def test_the_settings_of_replicas_are_such_and_believe_the_proxy_alone() -> None:
    environ: dict[str, Any] = STAGES["server"].settings.environ | SERVICES["server-1"]["environment"]
    known = SERVER.variables.keys() | SERVER.short_names.keys()
    assert environ.keys() - known <= OTHER_VARIABLES | LIBPQ
    config = load_server(None, surroundings=ProcessContext(environ=environ, working_dir=Path("/"))).config
    assert config.database.address == "postgresql+psycopg://obt@postgres/obt"
    assert config.bus.address == "nats://nats:4222"
    assert config.listen.behind_proxy == addresses()["proxy"]
    # The notice, and 5 s each for what was asked, agents that read slowly, and streams.
    grace = float(SERVICES["server-1"]["stop_grace_period"].removesuffix("s"))
    assert grace >= config.listen.drain_notice_s + 15 > 15


def test_only_the_proxy_is_reached_from_outside_and_from_this_machine_alone() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"proxy"}
    assert SERVICES["proxy"]["ports"] == ["127.0.0.1:8443:8443"]
    (network,) = WHOLE["networks"]["replicas"]["ipam"]["config"]
    subnet = ipaddress.ip_network(network["subnet"])
    assert all(ipaddress.ip_address(one) in subnet for one in addresses().values())


def test_the_proxy_has_the_configuration_of_everybody_else_with_the_addresses_of_the_replicas() -> None:
    own = (DEPLOY / "proxy/haproxy-compose.cfg").read_text().partition("\nglobal\n")[2]
    text = (DEPLOY / "proxy/haproxy.cfg").read_text().partition("\nglobal\n")[2]
    for number, name in enumerate(REPLICAS):
        text = text.replace(f"127.0.0.1:{8881 + number}", f"{addresses()[name]}:8881")
    text = text.replace(
        "bind :443 ssl crt /etc/haproxy/obt.example.org.pem", "bind :8443 ssl crt /run/secrets/proxy.pem"
    )
    assert own == text
    assert set(OWN_SERVERS.findall(own)) == {f"{addresses()[name]}:8881" for name in REPLICAS}


def test_the_proxy_ends_at_once_where_its_image_would_wait_for_agents() -> None:
    """Docker kills what waits after 10 s, in which nobody reaches the page: the socket is closed first."""
    assert SERVICES["proxy"]["stop_signal"] == "SIGTERM"


def test_what_was_asked_of_a_machine_that_is_gone_does_not_wait_for_the_hour() -> None:
    text = (DEPLOY / "proxy/haproxy.cfg").read_text()
    assert "\n    option srvtcpka\n" in text
    idle, interval, count = (
        int(re.findall(rf"srvtcpka-{one} (\d+)", text)[0]) for one in ("idle", "intvl", "cnt")
    )
    assert f"after {idle + interval * count} s" in (ROOT / "docs/how-to/several-servers.md").read_text()


@pytest.mark.parametrize("file", [FILE, ROOT / "docs/how-to/containers.md"], ids=lambda file: file.name)
def test_a_replica_is_replaced_by_what_a_later_start_of_all_leaves_alone(file: Path) -> None:
    """``--no-deps`` makes containers that Compose before 2.29.3 replaces at the next ``up``, all at once."""
    lines = [line.lstrip("# ") for line in file.read_text().splitlines()]
    calls = [line for line in lines if line.startswith("docker compose --file deploy/compose.replicas.yaml")]
    assert calls[-2].endswith(" build")
    assert " up --detach --wait " in calls[-1]
    assert not any("--no-deps" in call for call in calls)


@pytest.mark.parametrize("word", ["password", "secret"])
def test_no_secret_stands_in_the_file(word: str) -> None:
    values = json.dumps(SERVICES).lower()
    names = "|".join(re.escape(name) for name in (*WHOLE["secrets"], "/run/secrets", "secrets"))
    left = re.sub(rf"{names}|[a-z_]*password_file", "", values)
    assert word not in left
