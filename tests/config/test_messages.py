# ruff: noqa: E501 - a message stands as it is printed, on one line
"""What a person reads when the configuration is wrong: word for word, for these are the interface."""

import os
from pathlib import Path

import pytest

from obt_agent.config import file
from obt_agent.config.problems import EXIT_CONFIG
from tests.config.process_context import problems

SECRET = (
    "a secret does not belong in the configuration; write it to a file that only the agent can read, "
    "and name that file in server.token_file"
)

WRONG = {
    "server: {heartbeat_interval_s: soon}": (
        'agent.yaml:1: server.heartbeat_interval_s: found "soon", expected seconds, above 0'
    ),
    "server: {heartbeat_interval_s: 0}": (
        'agent.yaml:1: server.heartbeat_interval_s: found "0", expected seconds, above 0'
    ),
    "server: {heartbeat_interval_s: .inf}": (
        'agent.yaml:1: server.heartbeat_interval_s: found ".inf", expected seconds, above 0'
    ),
    "server: {heartbeat_interval_s: .}": (
        'agent.yaml:1: server.heartbeat_interval_s: found ".", expected seconds, above 0'
    ),
    "policy:\n  max_streams: 1:30": (
        'agent.yaml:2: policy.max_streams: found "1:30", expected a whole number, 1 to 64'
    ),
    "policy:\n  max_streams: '3'": (
        'agent.yaml:2: policy.max_streams: found the text "3", expected a whole number, 1 to 64, without quotes'
    ),
    "policy:\n  max_streams: [3]": (
        "agent.yaml:2: policy.max_streams: found a list, expected a whole number, 1 to 64"
    ),
    "policy:\n  max_streams:\n    a: 3": (
        "agent.yaml:3: policy.max_streams: found a section, expected a whole number, 1 to 64"
    ),
    "policy:\n  max_streams:": (
        "agent.yaml:2: policy.max_streams: found nothing, expected a whole number, 1 to 64; "
        "leave the key out for its default"
    ),
    "policy:\n  remote_models: maybe": (
        'agent.yaml:2: policy.remote_models: found "maybe", expected true or false'
    ),
    "policy:\n  registries: ollama.com": (
        'agent.yaml:2: policy.registries: found "ollama.com", expected a list of text; write [ollama.com]'
    ),
    "policy:\n  models: {allow: true}": (
        'agent.yaml:2: policy.models.allow: found "true", expected a list of text'
    ),
    "policy:\n  registries: [a b]": (
        'agent.yaml:2: policy.registries: found "a b", expected a host such as registry.ollama.ai'
    ),
    "policy:\n  registries: [[a]]": (
        "agent.yaml:2: policy.registries: found a list in the list, expected a list of text"
    ),
    "policy:\n  models: [a]": (
        "agent.yaml:2: policy.models: found a list, expected a section with keys: allow, deny"
    ),
    "policy:\n  commands: {allow: [pull_model]}": (
        "agent.yaml:2: policy.commands.allow: pull_model changes what is installed; "
        "allow it in policy.allow_changes"
    ),
    "policy:\n  commands: {deny: [generat]}": (
        'agent.yaml:2: policy.commands.deny: found "generat", which is no command; did you mean generate?'
    ),
    "policy:\n  allow_changes: [pul_model]": (
        'agent.yaml:2: policy.allow_changes: found "pul_model", expected one of pull_model, create_model, '
        "copy_model, delete_model; did you mean pull_model?"
    ),
    "policy:\n  quiet_hours: ['22:00 to 7:00']": (
        'agent.yaml:2: policy.quiet_hours: found "22:00 to 7:00", expected times of day such as "22:00-07:00"'
    ),
    "polcy: {}": "agent.yaml:1: polcy: unknown key; did you mean policy?",
    "url: x": "agent.yaml:1: url: unknown key; did you mean server.url or ollama.url?",
    "server:\n  max_streams: 3": (
        "agent.yaml:2: server.max_streams: unknown key; did you mean policy.max_streams?"
    ),
    "xyzzy: 1": "agent.yaml:1: xyzzy: unknown key",
    "'a\\tb': 1": "agent.yaml:1: a\\tb: unknown key",
    '"a\\tb": 1': 'agent.yaml:1: "a\\tb": unknown key',
    "server:\n  token: canary": f"agent.yaml:2: server.token: {SECRET}",
    "log:\n  level: info\n  level: debug": (
        "agent.yaml:3: log.level: is set a second time; the first is in line 2"
    ),
    "log: {level: warn}": (
        'agent.yaml:1: log.level: found "warn", expected one of debug, info, warning, error; did you mean warning?'
    ),
    "server: {url: obt.example.org}": (
        'agent.yaml:1: server.url: found "obt.example.org", which has no scheme; write https://obt.example.org '
        "(or http:// for this machine)"
    ),
    "server: {url: 'http://obt.example.org'}": (
        "agent.yaml:1: server.url: is not encrypted: token, prompts and answers could be read on the way; use "
        "https://, or set server.allow_insecure: true if the network itself is trusted"
    ),
    "server: {url: 'https://me:canary@obt.example.org'}": (
        'agent.yaml:1: server.url: found "https://***@obt.example.org", which holds a user name or password; '
        "leave them out (a token stands in server.token_file)"
    ),
    "server: {url: 'me:canary@obt.example.org'}": (
        'agent.yaml:1: server.url: found "***@obt.example.org", which has no scheme; write '
        "https://obt.example.org (or http:// for this machine)"
    ),
    "server: {url: 'http://127.0.0.1', ca_file: /x}": (
        "agent.yaml:1: server.url: is not encrypted, but a certificate is configured for it; use https://"
    ),
    "server:\n  client_key_file: /x": (
        "agent.yaml:2: server.client_key_file: is set without server.client_cert_file; "
        "name the certificate that it belongs to"
    ),
    "server: {proxy: proxy.example.org}": (
        'agent.yaml:1: server.proxy: found "proxy.example.org", which is none of: env, none, a proxy\'s URL '
        "such as http://proxy:3128 or socks5h://proxy:1080"
    ),
    'agent:\n  name: "a\\nb"': (
        'agent.yaml:2: agent.name: found "a\\nb", expected text of at most 200 characters on one line'
    ),
    "hardware: {min_interval_s: 5}": (
        "agent.yaml:1: hardware.min_interval_s: found 5, expected no more than hardware.active_interval_s"
    ),
    "a: &x 1\nb: *x": "agent.yaml:2: uses the alias *x; write the value out instead",
    "a: !!python/object:os.system x": (
        "agent.yaml:1: uses the tag tag:yaml.org,2002:python/object:os.system; write the value without it"
    ),
    "a: 1\n---\nb: 1": "agent.yaml:2: holds a second document; keep everything in the first",
    "- server": "agent.yaml:1: expected sections such as server: and policy:, each with its keys",
    "just words": "agent.yaml:1: expected sections such as server: and policy:, each with its keys",
    "? [a]\n: b": "agent.yaml:1: has a key that is not a word",
    "server:\n  url: [": (
        "agent.yaml:2: is not YAML: while parsing a flow node, expected the node content, but found '<stream end>'"
    ),
    "server:\n\turl: x": (
        "agent.yaml:2: is not YAML: while scanning for the next token, found character '\\t' that cannot start any token"
    ),
    "a: \x00": "agent.yaml:1: is not YAML: character U+0000 may not stand in it",
    "a" * 262_145: "agent.yaml: is 262145 bytes long; a configuration has at most 262144",
    "[" * 20: "agent.yaml:1: is nested more than 16 deep",
    "a: [" + "1," * 20_001 + "]": "agent.yaml:1: holds more than 20000 values",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:40])
def test_a_wrong_file_says_where_what_and_what_to_do(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text) == [WRONG[text]]
    assert "canary" not in WRONG[text]


def test_bytes_that_are_not_utf_8_are_named_with_their_line(tmp_path: Path) -> None:
    text = b"server:\n  url: https://b\xfccher\n"
    assert problems(tmp_path, text) == ["agent.yaml:2: byte 0xfc is not UTF-8; save the file as UTF-8"]


def test_all_problems_come_at_once_in_the_order_of_lines_then_the_rest(tmp_path: Path) -> None:
    text = "server:\n  url: ftp://x\n  nonsense: 1\npolicy:\n  max_jobs: 0\n  quiet_hours: [x]\n"
    messages = problems(tmp_path, text, {"HEARTBEAT_INTERVAL": "x", "OBT_AGENT_SERVER_URI": "y"})
    assert messages == [
        'agent.yaml:2: server.url: found "ftp://x", which has the scheme ftp; write https://, or a full wss:// address',
        "agent.yaml:3: server.nonsense: unknown key",
        'agent.yaml:5: policy.max_jobs: found "0", expected a whole number, 1 to 1024',
        'agent.yaml:6: policy.quiet_hours: found "x", expected times of day such as "22:00-07:00"',
        'environment HEARTBEAT_INTERVAL: found "x", expected seconds, above 0',
        "environment OBT_AGENT_SERVER_URI: sets no key of the configuration; did you mean OBT_AGENT_SERVER_URL?",
    ]


def test_a_secret_in_the_environment_is_refused_and_not_repeated(tmp_path: Path) -> None:
    messages = problems(tmp_path, "", {"OBT_AGENT_SERVER_TOKEN": "canary"})
    assert messages == [f"environment OBT_AGENT_SERVER_TOKEN: {SECRET}"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "unreadable"])
def test_what_is_no_readable_file_is_one_problem(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "agent.yaml"
    if kind == "folder":
        path.mkdir()
        expected = "is a folder, expected a YAML file"
    elif kind == "pipe":
        os.mkfifo(path)
        expected = "cannot be read: it is not a regular file"
    else:
        path = tmp_path / "agent.yaml" / "below"
        path.parent.write_text("")
        expected = "cannot be read: Not a directory"
    (problem,) = file.read(path).problems
    assert str(problem) == f"{path}: {expected}"


def test_exit_status_is_that_of_sysexits() -> None:
    assert EXIT_CONFIG == 78


@pytest.mark.parametrize("escape", ["U00110000", "UFFFFFFFF"])
def test_an_escape_that_names_no_character_is_refused_in_words(tmp_path: Path, escape: str) -> None:
    found = problems(tmp_path, f'agent: {{name: "\\{escape}"}}')
    assert len(found) == 1
    assert "an escape names no character" in found[0]
