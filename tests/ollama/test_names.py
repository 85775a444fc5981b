from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.errors import InvalidParams
from obt_agent.ollama.names import CanonicalName, canonical

WORD = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
words = st.text(WORD + "_-", min_size=1, max_size=12).filter(lambda word: word[0] in WORD)
hosts = st.one_of(words, st.builds("{}.{}:{}".format, words, words, st.integers(1, 65535)))


@st.composite
def names(draw: st.DrawFn) -> str:
    model, tag = draw(words), draw(st.none() | words)
    namespace = draw(st.none() | words)
    host = draw(st.none() | hosts) if namespace is not None else None
    place = "/".join(part for part in (host, namespace, model) if part is not None)
    return place if tag is None else f"{place}:{tag}"


@given(names())
def test_a_canonical_name_is_its_own_canonical_name(name: str) -> None:
    found = canonical(name)
    assert canonical(str(found)) == found
    assert canonical(found.short) == found


@given(names())
def test_case_never_matters(name: str) -> None:
    assert canonical(name.upper()) == canonical(name.lower()) == canonical(name)


@given(words)
def test_what_is_left_out_is_filled_in(model: str) -> None:
    full = f"registry.ollama.ai/library/{model}:latest"
    assert (
        canonical(model) == canonical(f"{model}:latest") == canonical(f"library/{model}") == canonical(full)
    )
    assert str(canonical(model)) == full.lower()


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_an_error_that_says_what_to_write(text: str) -> None:
    try:
        found = canonical(text)
    except InvalidParams as error:
        shown = error.message
    else:
        shown = "model:tag"
        assert str(found).isascii()
        assert canonical(str(found)) == found
    assert "model:tag" in shown


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Llama3", ("registry.ollama.ai", "library", "llama3", "latest")),
        ("me/Llama3:8B-q4_K_M", ("registry.ollama.ai", "me", "llama3", "8b-q4_k_m")),
        ("hf.co/me/model.gguf:Q4", ("hf.co", "me", "model.gguf", "q4")),
        ("127.0.0.1:5055/library/tiny", ("127.0.0.1:5055", "library", "tiny", "latest")),
        ("http://127.0.0.1:5055/library/tiny:latest", ("127.0.0.1:5055", "library", "tiny", "latest")),
    ],
)
def test_names_are_read_as_ollama_reads_them(name: str, parts: tuple[str, str, str, str]) -> None:
    assert canonical(name) == CanonicalName(*parts)


@pytest.mark.parametrize(
    "name",
    [
        *("", ":", "a:", ":a", "/", "a/", "/a", "a//b", "a/b/c/d", "bad name!", "a:b:c", ".a", "-a"),
        *(
            "a/../b",
            "../../etc/passwd",
            "http://x/y",
            "a@sha256:00",
            "\uff4clama",
            "\u212aimi",
            "a" * 81,
            "x" * 600,
        ),
    ],
)
def test_what_ollama_would_not_take_for_a_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidParams):
        canonical(name)
