"""Whatever stands in file and environment: a configuration, or problems that say where. Never a crash."""

import contextlib
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from obt_agent.config.keys import AGENT, SHORT_NAMES, all_keys
from obt_agent.config.load import LoadedConfig, load
from obt_agent.config.problems import WrongConfig
from obt_agent.config.reload import value_of
from obt_agent.config.urls import WrongUrl, ollama_base, server_socket, without_userinfo
from obt_agent.config.values import WrongValue, from_text
from tests.config.process_context import around, written
from tests.effort import examples

KEYS = sorted(all_keys())
WORDS = sorted({part for name in (*KEYS, *AGENT.sections) for part in name.split(".")})
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["http://127.0.0.1", "https://x", "generate", "22:00-07:00", "1 GiB", "~", "1e999"])
)
TREES = st.dictionaries(
    st.sampled_from(WORDS) | st.text(max_size=8),
    st.recursive(
        LEAVES,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=8), inner, max_size=4)
        ),
        max_leaves=12,
    ),
    max_size=4,
)


def outcome(data: bytes, environ: dict[str, str] | None = None) -> LoadedConfig | WrongConfig:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        try:
            return load(written(path, data), surroundings=around(path, environ))
        except WrongConfig as error:
            for problem in error.problems:
                assert problem.where.startswith((f"{path}/agent.yaml", "environment ")), problem
                assert str(problem).isprintable(), problem
            return error


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_load_or_are_refused_with_their_place(data: bytes) -> None:
    outcome(data)


@given(TREES)
def test_any_tree_of_our_words_loads_or_is_refused_with_its_place(tree: dict[str, object]) -> None:
    outcome(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))


@given(
    st.dictionaries(
        st.sampled_from([key.variable for key in all_keys().values()] + list(SHORT_NAMES)),
        st.text(max_size=30) | st.sampled_from(["1", "true", "a,b", "http://x", "1e3", "9" * 40]),
        max_size=4,
    )
)
def test_any_variables_load_or_are_refused_by_name(environ: dict[str, str]) -> None:
    outcome(b"", environ)


@given(st.data())
def test_a_value_that_a_key_takes_survives_the_file(data: st.DataObject) -> None:
    key = all_keys()[data.draw(st.sampled_from([name for name in KEYS if all_keys()[name].kind == "int"]))]
    number = data.draw(st.integers(-5, 1 << 33))
    try:
        from_text(key, str(number))
    except WrongValue:
        expected: object = WrongConfig
    else:
        expected = number
    *sections, last = key.name.split(".")
    tree: object = {last: number}
    for section in reversed(sections):
        tree = {section: tree}
    found = outcome(yaml.safe_dump(tree).encode())
    assert (
        isinstance(found, WrongConfig)
        if expected is WrongConfig
        else value_of(_good(found), key.name) == number
    )


def _good(found: LoadedConfig | WrongConfig) -> LoadedConfig:
    assert isinstance(found, LoadedConfig), found
    return found


@given(st.text(max_size=60) | st.from_regex(r"(https?|wss?)://[a-z@:\[\]0-9./?#%]{0,30}", fullmatch=True))
@settings(max_examples=examples(300))
def test_any_address_is_normal_after_one_pass_or_refused(text: str) -> None:
    for normal in (server_socket, ollama_base):
        with contextlib.suppress(WrongUrl):
            once = normal(text)
            assert normal(once) == once


@given(
    st.from_regex(r"[a-z]{1,6}", fullmatch=True),
    st.sampled_from(["{}://u:canary9@h/p", "{}:canary9@h", "{}://canary9@h"]),
)
def test_user_information_never_survives(word: str, form: str) -> None:
    assert "canary9" not in without_userinfo(form.format(word))


@pytest.mark.parametrize("level", range(1, 40))
def test_a_bomb_of_aliases_is_refused_at_once(level: int) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, level + 1)]
    found = outcome("\n".join(lines).encode())
    assert isinstance(found, WrongConfig)
    assert "alias" in found.message
