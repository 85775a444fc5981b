"""Ollama's requests within the owner's limits: what is clamped, what is refused, what stays as it came."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.errors import InvalidParams, NotPermitted, TooLarge
from obt_agent.policy.requests import go_seconds
from tests.policy.configs import policy


def no_blob(name: str) -> bytes:
    raise InvalidParams(f"no blob {name}")


def shaped(method: str = "generate", text: str | None = None, /, **fields: Any) -> dict[str, Any]:
    raw = json.dumps({"model": "tiny", **fields}) if text is None else text
    body = policy(**fields.pop("_policy", {})).shape_request(method, msgspec.Raw(raw.encode()), no_blob)
    result: dict[str, Any] = json.loads(body)
    return result


def test_everything_that_is_not_limited_travels_as_it_came() -> None:
    fields = {
        "prompt": "Grüße \U0001f600 \\u0000",
        "suffix": "s",
        "system": "sys",
        "template": "{{ .Prompt }}",
        "raw": True,
        "context": [1, 2, 3],
        "think": "high",
        "format": {"type": "object", "properties": {"a": {"type": "integer"}}},
        "tools": [{"type": "function"}],
        "options": {"temperature": 0.1, "seed": 7, "mirostat": 2, "a_new_option": [1], "stop": ["x"]},
        "a_new_field": {"deep": [1, {"x": None}]},
        "keep_alive": "10m",
    }
    body = shaped(**fields)
    assert body.pop("stream") is True
    assert body["options"].pop("num_predict") == 16_384
    assert body == {"model": "tiny", **fields}


@pytest.mark.parametrize("stream", [False, "no", None, 0])
def test_streams_are_always_streamed(stream: Any) -> None:
    assert shaped(stream=stream)["stream"] is True


def test_numbers_keep_the_digits_they_came_with() -> None:
    body = policy().shape_request(
        "generate",
        msgspec.Raw(b'{"model":"x","options":{"seed":123456789012345678901234,"temperature":1.10}}'),
        no_blob,
    )
    assert b"123456789012345678901234" in body
    assert b"1.10" in body


@pytest.mark.parametrize(
    ("option", "asked", "given"),
    [
        ("num_ctx", 10_000_000, 131_072),
        ("num_ctx", 1e300, 131_072),
        ("num_ctx", 4096, 4096),
        ("num_ctx", -5, 1),
        ("num_ctx", None, None),
        ("num_batch", 1 << 40, 2048),
        ("num_batch", 0, 1),
        ("num_thread", 10_000, 10_000),
        ("num_predict", -1, 16_384),
        ("num_predict", -2, 16_384),
        ("num_predict", 0, 16_384),
        ("num_predict", 10**9, 16_384),
        ("num_predict", None, 16_384),
        ("num_predict", 5, 5),
    ],
)
def test_options_are_clamped(option: str, asked: Any, given: Any) -> None:
    assert shaped(options={option: asked})["options"][option] == given


def test_the_owners_numbers_are_the_limits() -> None:
    owner = policy(options={"num_thread": 4, "num_predict": 100}, max_tokens=50)
    raw = msgspec.Raw(b'{"model":"x","options":{"num_thread":64,"num_predict":80}}')
    assert json.loads(owner.shape_request("chat", raw, no_blob))["options"] == {
        "num_thread": 4,
        "num_predict": 50,
    }


def test_an_owner_may_leave_options_to_ollama() -> None:
    nothing = dict.fromkeys(("num_ctx", "num_batch", "num_thread", "keep_alive_s", "format_bytes"))
    owner = policy(options=nothing)
    raw = msgspec.Raw(b'{"model":"x","keep_alive":-1,"options":{"num_ctx":10000000}}')
    body = json.loads(owner.shape_request("chat", raw, no_blob))
    assert (body["options"]["num_ctx"], body["keep_alive"]) == (10_000_000, -1)


@pytest.mark.parametrize("bad", ["lots", [1], {"a": 1}, True])
def test_a_clamped_option_that_is_no_number_is_invalid(bad: Any) -> None:
    with pytest.raises(InvalidParams, match=r"params\.options\.num_ctx"):
        shaped(options={"num_ctx": bad})


@pytest.mark.parametrize("options", [[], "x", 7])
def test_options_must_be_an_object(options: Any) -> None:
    with pytest.raises(InvalidParams, match=r"params\.options"):
        shaped(options=options)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("10m", "10m"),
        (60, 60),
        (0, 0),
        ("0", "0"),
        (-1, 3600),
        ("-1s", 3600),
        ("24h", 3600),
        ("1h0m1s", 3600),
        (1e18, 3600),
        ("59m59s", "59m59s"),
        ("9999999999999999999999h", 3600),
        (None, None),
    ],
)
def test_keep_alive_is_clamped_and_for_ever_is_too_long(asked: Any, given: Any) -> None:
    assert shaped(keep_alive=asked)["keep_alive"] == given


@pytest.mark.parametrize("bad", ["soon", "10", "1 h", "", [1], {}, True, "1d"])
def test_a_keep_alive_that_is_no_duration_is_invalid(bad: Any) -> None:
    with pytest.raises(InvalidParams, match="keep_alive"):
        shaped(keep_alive=bad)


@given(st.floats(allow_nan=False) | st.integers() | st.text(max_size=12) | st.from_regex(r"-?\d{1,3}[smh]"))
def test_whatever_keep_alive_says_what_goes_on_is_within_the_limit(value: Any) -> None:
    try:
        given = shaped(keep_alive=value)["keep_alive"]
    except InvalidParams:
        return
    assert 0 <= go_seconds(given) <= 3600


@given(
    st.dictionaries(
        st.sampled_from(["num_ctx", "num_batch", "num_predict"]),
        st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_whatever_the_options_say_what_goes_on_is_within_the_limits(options: dict[str, Any]) -> None:
    most = {"num_ctx": 131_072, "num_batch": 2048, "num_predict": 16_384}
    for key, value in shaped(options=options)["options"].items():
        assert 1 <= value <= most[key]


SPOOFS = [
    '{"model":"allowed","MODEL":"denied"}',
    '{"model":"allowed","Model":"denied"}',
    '{"model":"x","Options":{"num_ctx":10000000}}',
    '{"model":"x","option\u017f":{"num_ctx":10000000}}',
    '{"model":"x","\u212aeep_alive":-1}',
    '{"model":"x","STREAM":false}',
    '{"model":"x","Remote_Host":"http://evil"}',
]


@pytest.mark.parametrize("text", SPOOFS)
def test_a_key_that_ollama_reads_as_another_is_refused(text: str) -> None:
    with pytest.raises(InvalidParams, match="Ollama reads this as"):
        shaped("generate", text)


def test_of_equal_keys_the_last_counts_for_policy_and_ollama_alike() -> None:
    body = shaped(
        "generate",
        '{"model":"a","options":{"num_ctx":1,"num_ctx":99999999},"options":{"num_ctx":7},"model":"b"}',
    )
    assert body["model"] == "b"
    assert body["options"]["num_ctx"] == 7


@pytest.mark.parametrize("field", ["insecure", "remote_host"])
def test_fields_that_open_the_machine_are_refused_for_every_command(field: str) -> None:
    raw = msgspec.Raw(json.dumps({"model": "x", field: True}).encode())
    with pytest.raises(NotPermitted) as error:
        policy().check_fields(raw)
    assert "policy_key" in error.value.detail
    policy().check_fields(msgspec.Raw(json.dumps({"model": "x", "insecure": False}).encode()))


def test_a_request_that_is_no_object_is_invalid() -> None:
    with pytest.raises(InvalidParams):
        policy().check_fields(msgspec.Raw(b"[1]"))


def test_a_large_format_and_a_large_think_are_refused() -> None:
    with pytest.raises(TooLarge) as error:
        shaped(format={"enum": ["x" * 70_000]})
    assert error.value.detail["policy_key"] == "policy.options.format_bytes"
    with pytest.raises(InvalidParams, match=r"params\.think"):
        shaped(think="very " * 10)


def test_prompt_messages_and_images_together_are_bounded() -> None:
    owner = policy(max_prompt_bytes=10_000)
    for fields in (
        {"prompt": "x" * 10_000},
        {"messages": [{"role": "user", "content": "x" * 10_000}]},
        {"images": ["A" * 10_000]},
        {"system": "x" * 10_000},
    ):
        raw = msgspec.Raw(json.dumps({"model": "x", **fields}).encode())
        with pytest.raises(TooLarge) as error:
            owner.shape_request("chat", raw, no_blob)
        assert error.value.detail["policy_key"] == "policy.max_prompt_bytes"


def test_embeddings_are_not_streamed_and_count_no_tokens() -> None:
    body = shaped("embed", '{"model":"x","input":["a","b"],"truncate":true,"stream":true}')
    assert body == {"model": "x", "input": ["a", "b"], "truncate": True}


IMAGE = bytes(range(256)) * 100


def with_blobs(fields: dict[str, Any]) -> dict[str, Any]:
    raw = msgspec.Raw(json.dumps({"model": "x", **fields}).encode())
    body: dict[str, Any] = json.loads(policy().shape_request("chat", raw, lambda name: IMAGE + name.encode()))
    return body


def test_images_by_the_name_of_a_blob_become_base64() -> None:
    plain = base64.b64encode(b"plain").decode()
    body = with_blobs({"images": [{"blob": "a"}, plain]})
    assert body["images"] == [base64.b64encode(IMAGE + b"a").decode(), plain]
    body = with_blobs(
        {"messages": [{"role": "user", "content": "?", "images": [{"blob": "b"}]}, {"role": "x"}]}
    )
    assert body["messages"][0]["images"] == [base64.b64encode(IMAGE + b"b").decode()]
    assert body["messages"][0]["content"] == "?"


def test_images_of_another_shape_are_invalid_or_left_to_ollama() -> None:
    with pytest.raises(InvalidParams, match=r"params\.images"):
        with_blobs({"images": [{"blob": 7}]})
    with pytest.raises(InvalidParams, match=r"params\.messages\[0\]\.images"):
        with_blobs({"messages": [{"images": {"blob": "a"}}]})
    assert with_blobs({"images": 7})["images"] == 7
    assert with_blobs({"messages": '"blob"'})["messages"] == '"blob"'
    assert with_blobs({"messages": ["blob"]})["messages"] == ["blob"]


def test_a_blob_that_is_not_here_is_the_callers_error() -> None:
    with pytest.raises(InvalidParams, match="no blob"):
        shaped(images=[{"blob": "gone"}])


def test_load_options_and_keep_alive_are_clamped_as_in_requests() -> None:
    owner = policy()
    assert owner.load_options(msgspec.Raw(b'{"num_ctx":10000000}')) == b'{"num_ctx":131072}'
    assert owner.load_options(None) is None
    assert owner.keep_alive(-1) == 3600
    assert owner.keep_alive("5m") == "5m"
    assert owner.keep_alive(None) is None


@pytest.mark.parametrize("text", ["1" * 300_000, "1" * 300_000 + "x", "1." * 150_000, "." * 300_000])
def test_a_duration_without_a_unit_is_refused_in_linear_time(text: str) -> None:
    """Tried from each digit, it would hold the event loop for minutes: the test's time limit counts."""
    with pytest.raises(ValueError, match="no duration"):
        go_seconds(text)


def test_a_blob_named_many_times_is_refused_before_it_is_written_out() -> None:
    fetched = 0

    def blob(_name: str) -> bytes:
        nonlocal fetched
        fetched += 1
        return bytes(1 << 20)

    images = [{"blob": "a"}] * 2000
    for fields in ({"images": images}, {"messages": [{"images": images}, {"images": images}]}):
        raw = msgspec.Raw(json.dumps({"model": "tiny", **fields}).encode())
        with pytest.raises(TooLarge):
            policy(max_prompt_bytes=4 << 20).shape_request("generate", raw, blob)
    assert fetched <= 12, "two thousand copies would be two gigabytes"


@pytest.mark.parametrize(
    ("given", "becomes"),
    [(b"-1", b"16384"), (b"0", b"16384"), (b"99999999", b"16384"), (b"null", b"16384"), (b"7", b"7")],
)
def test_a_new_models_num_predict_is_clamped(given: bytes, becomes: bytes) -> None:
    """What a model is created with holds for requests that no policy reads."""
    parameters = msgspec.Raw(b'{"num_predict":' + given + b',"temperature":1}')
    assert policy().model_parameters(parameters) == b'{"num_predict":' + becomes + b',"temperature":1}'


def test_a_new_model_that_names_no_num_predict_is_given_none() -> None:
    assert policy().model_parameters(msgspec.Raw(b'{"temperature":1}')) == b'{"temperature":1}'
    assert policy().model_parameters(None) is None
