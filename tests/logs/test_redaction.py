import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.identity.secret import Secret
from obt_agent.log_setup.redaction import masked, masked_text

CANARY = "canary-9d2e-Zq"

HIDDEN = [
    f"Authorization: Bearer {CANARY}",
    f"authorization: basic {CANARY}",
    f"https://me:{CANARY}@proxy:3128/x",
    f"socks5h://{CANARY}@proxy",
    f"GET /x?token={CANARY}&a=1",
    f'{{"join_token": "{CANARY}", "a": 1}}',
    f"password: {CANARY}",
    f"--api-key={CANARY}",
    f"secret = {CANARY}",
    f"the secret obta_{CANARY}0123456789 in passing",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_secrets_in_running_text_are_masked(text: str) -> None:
    assert CANARY not in masked_text(text)
    assert "***" in masked_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "a token of 12 characters",
        "tokens=41 tokens/s",
        "http://127.0.0.1:11434/api/tags",
        "user@example.org",
        "in obt_agent/log_setup/redaction.py, line 3",
        "3 secrets",
    ],
)
def test_ordinary_text_stays_readable(text: str) -> None:
    assert masked_text(text) == text


@pytest.mark.parametrize(
    "key", ["token", "join_token", "SECRET", "password", "authorization", "cookie", "api_key"]
)
def test_values_under_a_secrets_name_are_masked_whatever_they_are(key: str) -> None:
    for value in (CANARY, CANARY.encode(), [CANARY], {"a": CANARY}, 12345, object()):
        assert masked({key: value}) == {key: "***"}
    assert masked({key: None, "has_token": True}) == {key: None, "has_token": True}


class Talkative:
    def __repr__(self) -> str:
        return f"Talkative(token={CANARY})"


class Broken:
    def __repr__(self) -> str:
        raise ValueError(CANARY)


VALUES = [
    Secret(CANARY),
    [Secret(CANARY)],
    {"deep": {"deeper": [Secret(CANARY), f"Bearer {CANARY}"]}},
    ({"password": CANARY},),
    {f"Bearer {CANARY}"},
    Talkative(),
    Broken(),
    ValueError(f"token={CANARY}"),
    CANARY.encode(),
    memoryview(CANARY.encode()),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_secrets_inside_any_value_are_masked(value: object) -> None:
    assert CANARY not in str(masked({"value": value}))


@pytest.mark.parametrize("key", ["prompt", "messages", "response", "content", "chunk", "images", "thinking"])
def test_prompts_and_answers_are_left_out_unless_switched_on(key: str) -> None:
    for value in (CANARY, [{"content": CANARY}], {"content": CANARY}, CANARY.encode()):
        assert CANARY not in str(masked({"request": {key: value}, key: value}))
    assert masked({key: 3}) == {key: 3}
    assert masked({key: CANARY}, prompts=True) == {key: CANARY}
    assert masked({"messages": [{"content": "hi", "token": CANARY}]}, prompts=True) == {
        "messages": [{"content": "hi", "token": "***"}]
    }


def test_large_and_deep_values_are_bounded() -> None:
    deep: object = "x"
    for _ in range(1000):
        deep = [deep]
    event = masked({"text": "x" * 10**6, "list": list(range(10**4)), "deep": deep})
    assert len(str(event)) < 60_000
    assert event["text"].endswith("(1000000 characters)")


@given(
    st.dictionaries(
        st.text(max_size=10),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text()
            | st.binary()
            | st.builds(object),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
            max_leaves=8,
        ),
        max_size=5,
    )
)
def test_any_event_can_be_masked(event: dict[str, object]) -> None:
    assert set(masked(event)) == set(event)


@pytest.mark.parametrize("text", ["a-" * 8000, "token" * 3000, "token" + " " * 16_000, "bearer " * 2000])
def test_masking_costs_linear_time(text: str) -> None:
    """A peer's words are logged: the test's time limit counts, for a hundred of them."""
    for _ in range(100):
        masked_text(text)


def test_what_steers_a_terminal_or_is_no_utf_8_is_written_out() -> None:
    masked_event = masked(
        {"reason": "a\x1b[2Jb\x07 \u202ec \udcff", "deep": ["\x9b1m"], "kept": "tab\tline\nüñ"}
    )
    assert masked_event == {
        "reason": r"a\x1b[2Jb\x07 \u202ec \udcff",
        "deep": [r"\x9b1m"],
        "kept": "tab\tline\nüñ",
    }
