from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from obt_agent.errors import OllamaError, TooLarge
from obt_agent.ollama.ndjson import LineSplitter, all_plain, check

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=10,
)
objects = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), values, max_size=4)


def encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@given(
    lines=st.lists(objects, max_size=8), cuts=st.lists(st.integers(0, 2000), max_size=40), ended=st.booleans()
)
def test_any_split_gives_the_same_lines_in_order(
    lines: list[dict[str, object]], cuts: list[int], ended: bool
) -> None:
    expected = [encoded(line) for line in lines]
    data = b"\n".join(expected) + (b"\n" if ended else b"")
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    splitter = LineSplitter()
    found = [line for start, end in itertools.pairwise(edges) for line in splitter.feed(data[start:end])]
    assert found + splitter.finish() == expected


def test_ten_thousand_lines_fed_byte_by_byte_come_out_whole() -> None:
    expected = [b'{"response":" %d","done":false}' % number for number in range(10_000)]
    data = b"\n".join(expected) + b"\n"
    splitter = LineSplitter()
    found = [line for place in range(len(data)) for line in splitter.feed(data[place : place + 1])]
    assert found == expected
    assert splitter.finish() == []


def test_blank_lines_and_carriage_returns_between_objects_are_no_lines() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b'\n \n{"a":1}\r\n\r\n{"b":2}') == [b'{"a":1}\r']
    assert splitter.finish() == [b'{"b":2}']


@pytest.mark.parametrize("pieces", [(b"x" * 11 + b"\n",), (b"x" * 6, b"x" * 5), (b"x" * 6, b"x" * 5 + b"\n")])
def test_a_line_over_the_limit_is_refused_before_its_end_is_seen(pieces: tuple[bytes, ...]) -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(b"before\n" + pieces[0]) == [b"before"]
    for piece in (*pieces[1:], b"after\n"):
        assert splitter.feed(piece) == []
    assert isinstance(splitter.failure, TooLarge)
    assert "longer than 10 bytes" in splitter.failure.message


def test_a_line_of_just_the_limit_passes() -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(b"x" * 6) == []
    assert splitter.feed(b"y" * 4 + b"\n") == [b"x" * 6 + b"y" * 4]


@given(objects)
def test_every_json_object_passes_the_check(value: dict[str, object]) -> None:
    check(encoded(value))


@given(st.binary(max_size=60))
@example(b"[1]")
@example(b'{"a":1}{"b":2}')
@example(b'{"a":"\xff"}')
@example(b'{"\xc0\xaf":1}')
@example(b"null")
@example(b'{"a":1')
def test_what_passes_is_what_a_strict_parser_takes_for_an_object(data: bytes) -> None:
    try:
        check(data)
    except OllamaError:
        return
    assert isinstance(json.loads(data.decode()), dict)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"a":"\xff"}', "not UTF-8"),
        (b"[1]", "not one JSON object"),
        (b'{"a":1}{"b":2}', "not one JSON object"),
        (b"<html>", "not one JSON object"),
        (b'{"a":' * 61 + b"1" + b"}" * 61, "deeper than 60"),
        (b'{"a":' + b"[" * 60 + b"]" * 60 + b"}", "deeper than 60"),
    ],
)
def test_a_bad_line_is_refused_with_what_is_wrong_and_how_it_begins(line: bytes, words: str) -> None:
    with pytest.raises(OllamaError, match=words) as caught:
        check(line)
    assert "ollama.url" in caught.value.message


def test_an_object_of_just_the_depth_limit_passes() -> None:
    check(b'{"a":' + b"[" * 59 + b"]" * 59 + b"}")


@given(st.lists(st.binary(max_size=30) | objects.map(encoded), max_size=6))
@example([b'{"a":"\xff"}'])
@example([b'{"done":true}'])
@example([b'{"pad":"' + b"x" * 200 + b'"}', b'{"error":"x"}'])
@example([b'{"pad":"' + b"x" * 200 + b'"}', b"x"])
@example([b'{"a":"\xc3', b'\xa9"}'])
@example(['{"response":"é","done":false}'.encode(), b'{"done":false}'])
@example([b'{"a":' + b"[" * 60 + b"]" * 60 + b"}", b'{"done":false}'])
@example([b'{"a":1}{"b":2}', b'{"c":1', b"}"])
@example([b'{"a":' * 5000])
def test_checking_many_lines_at_once_agrees_with_checking_each(lines: list[bytes]) -> None:
    def plain(line: bytes) -> bool:
        try:
            return check(line).plain
        except OllamaError:
            return False

    assert all_plain(lines) == all(map(plain, lines))


def test_final_lines_are_those_of_generations_and_of_pulls() -> None:
    assert check(b'{"done":true}').final
    assert check(b'{"status":"success"}').final
    assert not check(b'{"status":"pulling manifest"}').final
    assert not check(b'{"done":false,"error":"x"}').plain


def test_brackets_without_end_are_a_bad_line_like_any_other() -> None:
    for line in (b'{"a":' * 5000, b'{"a":' + b"[" * 300_000):
        with pytest.raises(OllamaError, match="not one JSON object"):
            check(line)
        assert not all_plain([line])
