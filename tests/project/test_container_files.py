"""The files for containers, without any: what images are made of, and whether the compose files fit them."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from obt_agent.cli import make_parser
from obt_agent.config.keys import AGENT
from obt_agent.config.load import ProcessContext
from obt_agent.config.load import load as load_agent
from obt_server.cli import parser as server_parser
from obt_server.config.load import SERVER
from obt_server.config.load import load as load_server
from tests.install import compose, dockerfile
from tests.install.roots import TRIXIE
from tests.project.paths import ROOT

DEPLOY = ROOT / "deploy"
STAGES = dockerfile.read((DEPLOY / "Dockerfile").read_text())
WHOLE = DEPLOY / "compose.yaml"
REPLICAS = DEPLOY / "compose.replicas.yaml"
"""On its own; all others go over the main file."""
OVERRIDES = sorted(set(DEPLOY.glob("compose.*.yaml")) - {REPLICAS})
GIVEN = {"RENDER_GID": "992"}
OURS = ("agent", "server")
SERVICES = {"ollama", "server", "join", "agent"}
SCHEMA = json.loads((ROOT / "tests/install/compose_spec/compose-spec.json").read_text())
OTHER_VARIABLES = {"STATE_DIRECTORY", "XDG_DATA_HOME"}
"""Of images, and no settings: read by the server beside them."""


def together() -> list[tuple[str, Any]]:
    """The main file alone, with each of the others, and with all that go together."""
    sets = [(), *((one,) for one in OVERRIDES), tuple(one for one in OVERRIDES if "amd" not in one.name)]
    return [
        ("+".join(file.name for file in files) or "alone", compose.load(WHOLE, *files, environ=GIVEN))
        for files in sets
    ]


TOGETHER = pytest.mark.parametrize(
    ("name", "whole"), together(), ids=lambda value: value if isinstance(value, str) else ""
)


def runs() -> list[tuple[str, str]]:
    """The words of each RUN, with its stage's name."""
    return [
        (stage.name, step.action.script)
        for stage in STAGES.values()
        for step in stage.steps
        if isinstance(step.action, dockerfile.Run)
    ]


def test_there_is_one_base_image_and_its_release_is_named() -> None:
    images = {stage.base for stage in STAGES.values()} - set(STAGES)
    (image,) = images
    found = re.fullmatch(r"python:(3\.\d+)-slim-([a-z]+)", image)
    assert found, image
    assert (found[1], found[2]) == (TRIXIE.python, TRIXIE.name), "what the replay takes in its place"
    named = re.findall(r"/python(3\.\d+)/", (DEPLOY / "Dockerfile").read_text())
    assert set(named) == {found[1]}, "paths of the base image's Python"


def test_nothing_is_installed_that_is_not_locked_and_nothing_is_cached() -> None:
    installs = [
        command
        for _, script in runs()
        for command in script.split("&&")
        if "pip install" in command or " install --no-cache" in command
    ]
    assert len(installs) == 5
    for command in installs:
        assert "--require-hashes" in command or "--no-index" in command, command
        assert "--no-deps" in command, command
        assert "--no-cache-dir" in command, command
    for name, script in runs():
        if "apt-get" in script:
            assert "rm -rf /var/lib/apt/lists" in script, name
            assert "--no-install-recommends" in script, name
        assert "curl" not in script, name
        assert "sudo" not in script, name


@pytest.mark.parametrize("target", OURS)
def test_the_final_stages_build_nothing_and_run_as_nobody_who_owns_the_program(target: str) -> None:
    stage = STAGES[target]
    settings = stage.settings
    assert settings.user == (10001, 10001)
    assert settings.volumes == (f"/var/lib/obt-{target}",)
    assert settings.folder == f"/var/lib/obt-{target}"
    assert settings.stop_signal == "SIGTERM"
    assert settings.entrypoint == (f"obt-{target}",)
    assert settings.command[0] == "run"
    assert settings.health is not None
    assert settings.health.command == (f"obt-{target}", "status", "--quiet")
    assert settings.labels["org.opencontainers.image.title"] == f"obt-{target}"
    assert not stage.arguments
    lineage = [stage]
    while lineage[-1].base in STAGES:
        lineage.append(STAGES[lineage[-1].base])
    assert [one.name for one in lineage] == [target, "runtime", "base"]
    copies = [
        step.action for one in lineage for step in one.steps if isinstance(step.action, dockerfile.Copy)
    ]
    assert copies == [dockerfile.Copy((f"/opt/obt-{target}",), f"/opt/obt-{target}", f"{target}-environment")]


def test_every_stage_that_files_come_from_is_there_and_earlier() -> None:
    seen: list[str] = []
    for stage in STAGES.values():
        for step in stage.steps:
            if isinstance(step.action, dockerfile.Copy) and step.action.stage is not None:
                assert step.action.stage in seen, f"line {step.line}"
        seen.append(stage.name)


def test_the_build_sees_the_program_and_nothing_that_is_somebody_s(tmp_path: Path) -> None:
    files = dockerfile.Context(ROOT).files()
    for name in (
        "pyproject.toml",
        "requirements/agent.txt",
        "obt_server/page/static/index.html",
        "systemd/agent.yaml",
    ):
        assert name in files
    planted = [
        ".env",
        ".git/config",
        ".venv/bin/python",
        "deploy/secrets/first-password",
        "obt_agent/__pycache__/x.pyc",
        "obt_agent/jobs/__pycache__/x.pyc",
        "obt.sqlite3",
        "tests/x.py",
    ]
    kept = ["LICENSE", "obt_agent/jobs/x.py", "requirements/agent.txt"]
    for name in (*planted, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".dockerignore").write_text((ROOT / ".dockerignore").read_text())
    assert dockerfile.Context(tmp_path).files() == kept


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("FROM a AS b\nADD x /x", "line 2: unknown instruction ADD"),
        ("RUN true", "line 1: there is no FROM before it"),
        ("FROM a", "expected FROM IMAGE AS NAME"),
        ("FROM a AS b\nFROM a AS b", "two stages"),
        ("FROM a AS b\nRUN --mount=type=secret true", "no options"),
        ("FROM a AS b\nCOPY --chown=1 x y", "expected COPY"),
        ("FROM a AS b\nUSER obt", "expected numbers"),
        ("FROM a AS b\nCMD run it", "line 2: "),
        ("FROM a AS b\nENV A=$B", "without variables"),
        ("FROM a AS b\nHEALTHCHECK CMD status", "expected options and CMD"),
        ("FROM a AS b\nWORKDIR x", "absolute"),
        ("FROM a AS b\nRUN a \\\n", "continued"),
    ],
)
def test_what_the_reader_does_not_know_is_an_error(text: str, problem: str) -> None:
    with pytest.raises(dockerfile.DockerfileError, match=re.escape(problem)):
        dockerfile.read(text)


@TOGETHER
def test_compose_files_are_such_by_their_schema(name: str, whole: Any) -> None:
    errors = jsonschema.Draft7Validator(SCHEMA).iter_errors(whole)
    assert [error.message for error in errors] == [], name


@TOGETHER
def test_everything_that_a_service_names_is_there(name: str, whole: Any) -> None:
    services = whole["services"]
    assert set(services) == SERVICES, name
    for service in services.values():
        named = [*service.get("depends_on", {})]
        named += [
            service[key].removeprefix("service:")
            for key in ("pid", "network_mode")
            if str(service.get(key, "")).startswith("service:")
        ]
        assert set(named) <= set(services), name
        assert set(sources(service)) <= set(whole["volumes"]), name
        for secret in service.get("secrets", ()):
            assert whole["secrets"][secret]["file"].startswith("./secrets/"), name
        image = service["image"]
        assert image in {f"obt-{one}" for one in OURS} or re.fullmatch(
            r"ollama/ollama:[0-9.]+(-rocm)?", image
        ), image
    used = {one for service in services.values() for one in sources(service)}
    assert used == set(whole["volumes"])


def sources(service: Any) -> list[str]:
    """The volumes that a service has; nothing of the host's is among them."""
    return [
        one["source"] if isinstance(one, dict) else one.partition(":")[0]
        for one in service.get("volumes", ())
    ]


def targets(service: Any) -> list[str]:
    return [
        one["target"] if isinstance(one, dict) else one.split(":")[1] for one in service.get("volumes", ())
    ]


@TOGETHER
def test_services_of_ours_are_built_from_a_stage_and_have_no_rights(name: str, whole: Any) -> None:
    for service in (whole["services"][one] for one in ("agent", "server", "join")):
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "user"} & set(service), name
    for target in OURS:
        service, settings = whole["services"][target], STAGES[target].settings
        build = service["build"]
        assert (build["context"], build["dockerfile"], build["target"]) == ("..", "deploy/Dockerfile", target)
        assert set(settings.volumes) <= set(targets(service)), (
            "else its state would be in a volume without a name"
        )
        assert "test" not in service["healthcheck"], "the image's own"
    assert whole["services"]["join"]["image"] == whole["services"]["server"]["image"]


@pytest.mark.parametrize("file", [WHOLE, REPLICAS], ids=lambda file: file.name)
def test_an_image_is_built_for_one_service_and_taken_by_the_others(file: Path) -> None:
    """Compose writes a service's name into what it builds for it: for two it is another image each.

    The name is then that of the last one, and the next ``up`` replaces all other containers at once.
    """
    services = compose.load(file)["services"]
    for image in {f"obt-{one}" for one in OURS} & {service["image"] for service in services.values()}:
        uses = {name: service for name, service in services.items() if service["image"] == image}
        assert len([name for name, service in uses.items() if "build" in service]) == 1, image
        # Else Compose would look for one of that name where images are published.
        assert all("build" in one or one["pull_policy"] == "never" for one in uses.values()), image


def test_only_the_server_is_reached_from_outside_and_from_this_machine_alone() -> None:
    services = compose.load(WHOLE)["services"]
    assert services["server"]["ports"] == ["127.0.0.1:8881:8881"]
    assert [name for name, service in services.items() if "ports" in service] == ["server"]
    assert services["ollama"]["environment"]["OLLAMA_HOST"] == "127.0.0.1:11434"
    (port,) = STAGES["server"].settings.ports
    assert port == 8881
    opened = compose.load(WHOLE, environ={"OBT_PUBLISH": "8881", "OBT_HOSTS": "obt.example"})["services"][
        "server"
    ]
    assert opened["ports"] == ["8881:8881"]
    assert opened["environment"]["OBT_SERVER_LISTEN_ALLOWED_HOSTS"] == "obt.example,server"


def test_the_join_token_goes_from_one_container_to_the_other_and_nowhere_else() -> None:
    services = compose.load(WHOLE)["services"]
    holders = {
        name: one
        for name, service in services.items()
        for one in service.get("volumes", ())
        if "join" in str(one)
    }
    assert set(holders) == {"join", "agent"}
    written = services["join"]["command"][services["join"]["command"].index("--ensure-file") + 1]
    folder = holders["join"].partition(":")[2]
    read = STAGES["agent"].settings.command[-1]
    assert (written, read) == (f"{folder}/join-token", f"{holders['agent']['target']}/join-token")
    assert holders["agent"]["read_only"]
    # Made by the image, so that its user owns the volume; the agent's image has no such folder to copy from.
    assert any(folder in script for stage, script in runs() if stage == "server")
    assert holders["agent"]["volume"] == {"nocopy": True}


@TOGETHER
def test_every_variable_is_a_setting_with_a_value_that_it_takes(name: str, whole: Any) -> None:
    for target, scheme in (("agent", AGENT), ("server", SERVER)):
        environ = STAGES[target].settings.environ | whole["services"][target]["environment"]
        known = scheme.variables.keys() | scheme.short_names.keys()
        assert environ.keys() - known <= OTHER_VARIABLES, name
        around = ProcessContext(environ=environ, working_dir=Path("/"))
        # Each reads its own variables: what it cannot use, it refuses.
        if target == "agent":
            assert load_agent(None, surroundings=around).config.server.url == (
                "wss://server:8881/api/v1/agents/connect"
            )
        else:
            config = load_server(None, surroundings=around).config
            assert config.database.address == "/var/lib/obt-server/obt.sqlite3"
            assert "server" in config.listen.allowed_hosts


@TOGETHER
def test_a_secret_is_a_file_and_its_setting_says_where(name: str, whole: Any) -> None:
    for service in whole["services"].values():
        files = {f"/run/secrets/{secret}" for secret in service.get("secrets", ())}
        said = {value for value in service.get("environment", {}).values() if "/run/secrets/" in value}
        assert said == files, name
    assert "password" not in json.dumps(whole).replace("first-password", "").replace(
        "FIRST_PASSWORD_FILE", ""
    ), name


@pytest.mark.parametrize("file", [WHOLE, REPLICAS], ids=lambda file: file.name)
def test_every_variable_of_whoever_starts_it_is_explained_at_the_top(file: Path) -> None:
    top = file.read_text().partition("\nname:")[0]
    for variable in compose.variables(file):
        assert variable in top


def test_the_variable_of_amd_s_file_is_explained_at_its_top() -> None:
    top = WHOLE.read_text().partition("\nname:")[0]
    amd = DEPLOY / "compose.amd.yaml"
    assert all(
        variable in amd.read_text().partition("services:")[0] + top for variable in compose.variables(amd)
    )


def test_gpus_are_read_by_the_agent_and_used_by_ollama() -> None:
    nvidia = compose.load(DEPLOY / "compose.nvidia.yaml")["services"]
    devices = {name: one["deploy"]["resources"]["reservations"]["devices"] for name, one in nvidia.items()}
    assert devices["ollama"] == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    assert devices["agent"] == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu", "utility"]}]
    amd = compose.load(DEPLOY / "compose.amd.yaml", environ=GIVEN)["services"]
    assert all(device.endswith(":r") for device in amd["agent"]["devices"])
    with pytest.raises(ValueError, match="RENDER_GID is not set"):
        compose.load(DEPLOY / "compose.amd.yaml")


def test_every_command_that_the_page_shows_is_one() -> None:
    """What stands behind ``docker compose exec`` and ``run``; the page's other commands are Docker's."""
    text = (ROOT / "docs/how-to/containers.md").read_text()
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    shown = [
        found[1]
        for line in lines
        if (found := re.search(r"docker compose (?:--file \S+ )*((?:exec|run) [^`|<>]*)", line))
    ]
    assert len(shown) >= 10
    for line in shown:
        # Programs of the image's system.
        if "--entrypoint" in line:
            continue
        words = shlex.split(line, comments=True)
        service, rest = next(
            (word, words[place + 1 :])
            for place, word in enumerate(words)
            if word in SERVICES | {"server-1", "proxy"}
        )
        if rest[0] in {"cat", "rm", "sh", "ollama"}:
            continue
        program = rest.pop(0) if words[0] == "exec" else f"obt-{'agent' if service == 'agent' else 'server'}"
        parser = make_parser(rest)[0] if program == "obt-agent" else server_parser(rest)
        parser.parse_args(rest)


def test_every_compose_file_is_on_the_page_and_every_one_there_exists() -> None:
    text = (ROOT / "docs/how-to/containers.md").read_text()
    named = set(re.findall(r"deploy/(compose[a-z.]*\.yaml)", text))
    assert named == {file.name for file in DEPLOY.glob("compose*.yaml")}
