"""The server's settings: one scheme with the agent's. File, variables, options; each error says where."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import pytest

from obt_agent.config import file as config_file
from obt_agent.config.load import ProcessContext
from obt_agent.config.problems import WrongConfig
from obt_server.cli import main, options, parser, run
from obt_server.config import reference
from obt_server.config.load import SERVER, LoadedOptions, example, load
from obt_server.store import AgentQuota
from obt_server.store.retention import RetentionSettings
from tests.project.paths import ROOT
from tests.server.process import server_process

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command for a user without a home of their own; gives status, output and errors."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(config_file, "has_system_configuration", lambda: False)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call


def loaded(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> LoadedOptions:
    (tmp_path / "server.yaml").write_text(text)
    around = ProcessContext(environ={"HOME": "/home/ann", **(environ or {})}, working_dir=tmp_path)
    return load(str(tmp_path / "server.yaml"), surroundings=around)


def uncommented() -> str:
    return re.sub(r"(?m)^( *)#([a-z])", r"\1\2", example())


def test_the_example_is_right_shows_every_key_with_its_default_and_its_meaning(tmp_path: Path) -> None:
    found, plain = loaded(tmp_path, uncommented()), loaded(tmp_path, example())
    for name in SERVER.keys:
        assert found.value(name) == plain.value(name), name
        if name != "database.address":  # an empty one is filled in
            assert found.origins[name].kind == "file", name
    assert reference.markdown().count("\n") == len(SERVER.keys) + 2
    assert (ROOT / "config/obt-server.example.yaml").read_text() == example()
    assert reference.markdown() in (ROOT / "docs/how-to/operate-the-server.md").read_text(), "run make docs"


def test_defaults_are_those_of_the_parts(tmp_path: Path) -> None:
    config = loaded(tmp_path, "").config
    assert config.agents.max_results_bytes == AgentQuota.result_bytes
    assert config.agents.max_unasked_results_bytes == AgentQuota.unasked_bytes
    kept = RetentionSettings()
    assert (config.retention.results_days, config.retention.jobs_days) == (kept.results_days, kept.jobs_days)
    assert config.retention.tokens_days == kept.tokens_days


def test_options_win_over_variables_and_these_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(
        "listen: {port: 1, host: '::1', allowed_hosts: [a.example, b.example]}\n"
        "agents: {max_results_bytes: 2 GiB}\ndatabase: {address: data/obt.sqlite3}\n"
    )
    monkeypatch.setenv("OBT_SERVER_CONFIG", str(file))
    monkeypatch.setenv("OBT_SERVER_LISTEN_PORT", "2")
    monkeypatch.setenv("OBT_SERVER_RETENTION_RESULTS_DAYS", "30")
    given = run.completed(parser().parse_args(["run", "--port", "3", "--agent-unasked-mib", "7"]))
    assert (given.host, given.port, given.allowed_host) == ("::1", 3, ["a.example", "b.example"])
    assert (given.agent_results_bytes, given.agent_unasked_bytes) == (2 << 30, 7 << 20)
    assert Path(given.database) == tmp_path / "data" / "obt.sqlite3", "from where the file lies"
    assert given.retention == RetentionSettings(results_days=30.0)
    origins = options.load_settings(parser().parse_args(["run", "--port", "8881"])).origins
    assert str(origins["listen.port"]) == "flag --port", "also where it is the default"
    assert str(origins["listen.host"]) == f"{file}:1"
    assert run.completed(parser().parse_args(["run"])).port == 2, "the variable"
    monkeypatch.setenv("OBT_SERVER_GATEWAY_ENABLED", "yes")
    assert run.completed(parser().parse_args(["run"])).gateway
    assert not run.completed(parser().parse_args(["run", "--no-gateway"])).gateway


def test_every_option_of_run_is_a_setting_and_every_one_named_is_an_option() -> None:
    given = vars(parser().parse_args(["run"]))
    named = {option.lstrip("-").replace("-", "_") for option in options.OPTION_OF_KEY.values()}
    assert set(given) - {"work", "config", "url", "json", "token_file"} == named
    assert {given[name] for name in named} == {None}, "a default would hide the file"
    assert set(options.OPTION_OF_KEY) <= set(SERVER.keys)


def test_every_mistake_is_said_at_once_with_its_line_and_what_was_meant(tmp_path: Path) -> None:
    text = (
        "listen:\n  prot: 80\n  port: many\n  root_path: obt/\n  tls_key: x\n"
        "operators:\n  first_password: x\nretention:\n  jobs_days: 0\n"
    )
    with pytest.raises(WrongConfig) as caught:
        loaded(tmp_path, text, {"OBT_SERVER_LISTEN_PROT": "1", "OBT_SERVER_PASSWORD": "x"})
    said = [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]
    assert said[0] == "server.yaml:2: listen.prot: unknown key; did you mean listen.port?"
    assert said[1].startswith('server.yaml:3: listen.port: found "many", expected a port')
    assert said[2].startswith('server.yaml:4: listen.root_path: found "obt/", expected a path')
    assert said[3].startswith("server.yaml:5: listen.tls_key: a secret does not belong")
    assert said[4].startswith("server.yaml:7: operators.first_password: a secret does not belong")
    assert said[5].startswith("server.yaml:9: retention.jobs_days:")
    assert "did you mean OBT_SERVER_LISTEN_PORT?" in said[6]
    assert "a secret does not belong in the configuration" in said[7]


def test_variables_of_clients_and_of_container_platforms_are_passed_over(tmp_path: Path) -> None:
    others = {
        "OBT_SERVER_URL": "https://obt.example",
        "OBT_SERVER_TOKEN": "obtk_x",
        # What Kubernetes sets beside a service of that name.
        "OBT_SERVER_PORT": "tcp://10.0.0.1:8881",
        "OBT_SERVER_PORT_8881_TCP_ADDR": "10.0.0.1",
        "OBT_SERVER_SERVICE_HOST": "10.0.0.1",
    }
    assert loaded(tmp_path, "", others).config.listen.port == 8881


def test_config_shows_what_is_set_and_by_whom_and_check_what_run_would_refuse(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("config", "path")[0] == 1
    file = tmp_path / "home/.config/obt-server/server.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("log:\n  level: debug\n")
    assert command("config", "path")[1] == f"{file}\n"
    monkeypatch.setenv("OBT_SERVER_GATEWAY_ENABLED", "true")
    status, output, error = command("config", "--changed", "--port", "9000")
    assert (status, error) == (0, f"# {file}\n")
    assert output.splitlines() == [
        "listen.port: 9000      # flag --port",
        "gateway.enabled: true  # environment OBT_SERVER_GATEWAY_ENABLED",
        f'log.level: "debug"     # {file}:2',
    ]
    shown = json.loads(command("config", "show", "--json")[1])
    assert list(shown) == list(SERVER.keys)
    assert shown["listen.port"] == {"value": 8881, "origin": "default"}
    assert command("config", "check") == (0, "The settings are right.\n", "")
    assert command("config", "check", "--host", "box.lan")[0] == 2
    assert command("config", "example")[1] == example()
    file.write_text("log:\n  level: loud\n")
    status, _, error = command("config", "check")
    assert (status, f"{file}:2: log.level: found" in error) == (78, True)


@pytest.mark.slow
async def test_a_server_logs_as_json_with_a_line_for_each_request_when_it_is_told_so(tmp_path: Path) -> None:
    arguments = ("--log-format", "json", "--log-requests", "--log-level", "info")
    async with (
        server_process(tmp_path / "obt.sqlite3", *arguments) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as http,
    ):
        wrong = await http.post("/api/v1/session", json={"name": "canary", "password": "canary-word"})
        assert wrong.status_code == 401
        assert (await http.get("/healthz", params={"q": "canary-query"})).status_code == 200
    lines = {line["event"]: line for line in map(json.loads, server.later)}
    assert lines["audit.refused"]["outcome"] == "401 sign_in_refused"
    answered = lines["request.answered"]
    assert (answered["method"], answered["path"], answered["status"]) == ("GET", "/healthz", 200)
    assert answered["filename"] == "obt_server/request_log.py"
    assert "canary" not in "".join(server.later)


def test_an_address_on_postgresql_stays_as_it_is_and_one_with_a_password_is_refused(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "postgresql+psycopg://obt@db.example/obt?passfile=/etc/obt-server/pgpass"
    assert loaded(tmp_path, f"database: {{address: '{address}'}}\n").config.database.address == address
    for wrong in (
        "postgresql+psycopg://obt:hidden@db/obt",
        "postgresql+psycopg://obt@db/obt?password=hidden",
    ):
        status, output, error = command("run", "--database", wrong)
        assert (status, "passfile=FILE" in error, "hidden" in output + error) == (78, True, False)
        monkeypatch.setenv("OBT_SERVER_DATABASE", wrong)
        status, output, error = command("config", "show")
        assert (status, "OBT_SERVER_DATABASE" in error, "hidden" in output + error) == (78, True, False)
        monkeypatch.delenv("OBT_SERVER_DATABASE")
