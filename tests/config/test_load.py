from pathlib import Path

import pytest

from obt_agent.config import file
from obt_agent.config.command_names import READ_AND_RUN
from obt_agent.config.keys import AGENT, all_keys
from obt_agent.config.load import load
from obt_agent.config.problems import WrongConfig
from obt_agent.config.reload import value_of
from obt_agent.protocol.methods import COMMANDS
from tests.config.process_context import around, loaded, written


def test_without_any_file_the_defaults_hold_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "has_system_configuration", lambda: False)
    found = load(surroundings=around(tmp_path))
    assert found.path is None
    assert str(found.origins["log.level"]) == "default"
    assert found.config.agent.name == "gpu-box"
    assert str(found.origins["agent.name"]) == "default (host name)"
    assert found.config.agent.state_dir == str(tmp_path / "home/.local/state/obt-agent")


def test_the_default_policy_only_reads_and_runs(tmp_path: Path) -> None:
    policy = loaded(tmp_path, "").config.policy
    reading = {method.name for method in COMMANDS if not method.changes}
    changing = {method.name for method in COMMANDS if method.changes}
    assert policy.commands.allow == ("*",)
    assert set(READ_AND_RUN) == reading
    assert policy.allow_changes == ()
    assert changing.isdisjoint(READ_AND_RUN)
    assert not policy.remote_models


def test_the_file_gives_way_to_the_environment_and_that_to_a_flag(tmp_path: Path) -> None:
    path = written(tmp_path, "agent:\n  name: of the file\nollama:\n  url: filehost\n")
    surroundings = around(tmp_path, {"CLIENT_ID": "of the environment", "OLLAMA_URL": "http://e:1"})
    found = load(path, flags={"agent.name": ("--name", "of the flag")}, surroundings=surroundings)
    assert found.config.agent.name == "of the flag"
    assert str(found.origins["agent.name"]) == "flag --name"
    assert found.config.ollama.url == "http://e:1"
    assert str(found.origins["ollama.url"]) == "environment OLLAMA_URL"
    assert str(load(path, surroundings=around(tmp_path)).origins["ollama.url"]) == f"{path}:4"


def test_the_long_name_of_a_variable_wins_over_the_short_one(tmp_path: Path) -> None:
    environ = {"OBT_AGENT_SERVER_URL": "https://long", "OBT_SERVER_URL": "https://short"}
    found = loaded(tmp_path, "", environ)
    assert found.config.server.url == "wss://long/api/v1/agents/connect"
    assert str(found.origins["server.url"]) == "environment OBT_AGENT_SERVER_URL"


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert loaded(tmp_path, "agent: {name: x}", {"CLIENT_ID": ""}).config.agent.name == "x"


@pytest.mark.parametrize("key", sorted(all_keys()))
def test_every_key_can_be_set_by_its_variable(tmp_path: Path, key: str) -> None:
    samples = {
        "server.url": "https://a.example",
        "ollama.url": "http://a.example:1",
        "server.proxy": "socks5h://p:1080",
        "server.client_key_file": "/k",
        "policy.quiet_hours": "22:00-07:00,12:00-13:00",
        "policy.commands.allow": "generate, chat",
        "policy.commands.deny": "embed",
        "policy.allow_changes": "pull_model",
        "hardware.min_interval_s": "0.25",
        "storage.quota_bytes": "2 GiB",
    }
    of_kind = {"bool": "true", "int": "7", "float": "1.5", "list": "a,b", "text": "/x/y"}
    spec = all_keys()[key]
    text = samples.get(key) or (spec.choices[-1] if spec.choices else of_kind[spec.kind])
    more = {"OBT_AGENT_SERVER_CLIENT_CERT_FILE": "/c"} if key.endswith("key_file") else {}
    found = loaded(tmp_path, "", {spec.variable: text, **more})
    assert value_of(found, key) != spec.default
    assert str(found.origins[key]) == f"environment {spec.variable}"


def test_variables_of_all_keys_differ() -> None:
    assert len({key.variable for key in all_keys().values()}) == len(all_keys())


def test_the_variable_names_the_file_and_the_flag_beats_it(tmp_path: Path) -> None:
    first, second = (written(tmp_path, f"agent: {{name: {n}}}", f"{n}.yaml") for n in ("first", "second"))
    surroundings = around(tmp_path, {"OBT_AGENT_CONFIG": first})
    assert load(surroundings=surroundings).config.agent.name == "first"
    assert load(second, surroundings=surroundings).config.agent.name == "second"


def test_a_users_own_file_is_found(tmp_path: Path) -> None:
    path = written(tmp_path, "agent: {name: mine}", "home/.config/obt-agent/agent.yaml")
    found = load(surroundings=around(tmp_path))
    assert (found.config.agent.name, str(found.path)) == ("mine", path)


def test_a_named_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(WrongConfig, match="there is no such file; name another with --config"):
        load(str(tmp_path / "no.yaml"), surroundings=around(tmp_path))


def test_a_server_is_demanded_only_where_one_is_needed(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    assert load(path, surroundings=around(tmp_path)).config.server.url is None
    with pytest.raises(WrongConfig, match=r"server\.url: is not set; name the server, for example"):
        load(path, need_server=True, surroundings=around(tmp_path))


def test_a_wrong_server_is_not_also_called_missing(tmp_path: Path) -> None:
    path = written(tmp_path, "server: {url: 'ftp://x'}")
    with pytest.raises(WrongConfig) as caught:
        load(path, need_server=True, surroundings=around(tmp_path))
    assert len(caught.value.problems) == 1


def test_relative_paths_start_at_the_file_and_tilde_at_home(tmp_path: Path) -> None:
    path = written(
        tmp_path, "server: {token_file: ../t, ca_file: '~/ca.pem'}\nagent: {state_dir: /s}", "etc/a.yaml"
    )
    surroundings = around(tmp_path, {"OBT_AGENT_SERVER_CLIENT_CERT_FILE": "c.pem"})
    server = load(path, surroundings=surroundings).config.server
    assert server.token_file == str(tmp_path / "t")
    assert server.ca_file == str(tmp_path / "home/ca.pem")
    assert server.client_cert_file == str(tmp_path / "c.pem")


def test_the_state_folder_is_systemds_then_roots_then_the_users(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    given = load(path, surroundings=around(tmp_path, {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}))
    assert given.config.agent.state_dir == "/var/lib/a"
    assert load(path, surroundings=around(tmp_path, user=0)).config.agent.state_dir == "/var/lib/obt-agent"
    users = load(path, surroundings=around(tmp_path, {"XDG_STATE_HOME": "/x"}))
    assert users.config.agent.state_dir == "/x/obt-agent"


def test_empty_sections_and_empty_optional_keys_are_fine(tmp_path: Path) -> None:
    found = loaded(tmp_path, "server:\npolicy:\n  rate_limit: null\n  options: {num_ctx: ~}\n")
    assert found.config.policy.rate_limit is None
    assert found.config.policy.options.num_ctx is None


def test_text_stays_the_text_that_was_written(tmp_path: Path) -> None:
    assert loaded(tmp_path, "agent: {name: no}").config.agent.name == "no"
    assert loaded(tmp_path, "agent: {name: 007}").config.agent.name == "007"


def test_labels_are_words_of_one_spelling_and_not_too_many(tmp_path: Path) -> None:
    assert loaded(tmp_path, "agent: {labels: [lab, rack=2]}").config.agent.labels == ("lab", "rack=2")
    for labels in ("[Lab]", '["a b"]', str([f"l{n}" for n in range(17)])):
        with pytest.raises(WrongConfig, match=r"agent\.labels"):
            loaded(tmp_path, f"agent: {{labels: {labels}}}")
    variable = around(tmp_path, {"OBT_AGENT_AGENT_LABELS": ",".join(f"l{n}" for n in range(17))})
    with pytest.raises(WrongConfig, match="found 17 items, expected a list of at most 16 labels"):
        load(surroundings=variable)


def test_sizes_may_carry_units(tmp_path: Path) -> None:
    found = loaded(tmp_path, "storage: {quota_bytes: 2GiB}\npolicy: {max_prompt_bytes: 1 MB}")
    assert found.config.storage.quota_bytes == 2 << 30
    assert found.config.policy.max_prompt_bytes == 1 << 20


def test_a_file_that_all_may_write_is_named(tmp_path: Path) -> None:
    path = Path(written(tmp_path, ""))
    path.chmod(0o666)
    (notice,) = load(str(path), surroundings=around(tmp_path)).notices
    assert (
        notice
        == f"{path} can be changed by every user of this machine, and with it the policy: chmod o-w {path}"
    )


def test_flags_are_checked_like_the_file(tmp_path: Path) -> None:
    flags = {
        "log.level": ("--log-level", "loud"),
        "polcy.max_streams": ("--set", "1"),
        "server.token": ("--set", "canary-in-argv"),
    }
    with pytest.raises(WrongConfig) as caught:
        load(written(tmp_path, ""), flags=flags, surroundings=around(tmp_path))
    assert [str(problem) for problem in caught.value.problems] == [
        'flag --log-level: log.level: found "loud", expected one of debug, info, warning, error',
        "flag --set: polcy.max_streams: unknown key; did you mean policy.max_streams?",
        f"flag --set: server.token: {AGENT.keep_apart}",
    ]
    assert "canary" not in str(caught.value)


def test_a_file_that_was_not_asked_for_and_cannot_be_read_is_a_note_where_no_server_is_needed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "home/.config/obt-agent/agent.yaml"
    path.parent.mkdir(parents=True)
    path.symlink_to(path)  # a loop: unreadable for root too
    found = load(surroundings=around(tmp_path))
    assert found.notices == (f"{path} may not be read by this user; the defaults are used",)
    assert (found.path, found.unread) == (None, path)
    with pytest.raises(WrongConfig, match="cannot be read: Too many levels of symbolic links"):
        load(need_server=True, surroundings=around(tmp_path))


def test_a_place_that_may_not_even_be_looked_at_is_not_passed_over(tmp_path: Path) -> None:
    surroundings = around(tmp_path, {"XDG_CONFIG_HOME": "/" + "x" * 300})
    with pytest.raises(WrongConfig, match="cannot be read: File name too long"):
        load(need_server=True, surroundings=surroundings)
