"""The receiving side of a stream puts it together exactly, or says what is wrong."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.errors import ProtocolError, TooLarge
from obt_agent.protocol.assembly import StreamAssembler
from obt_agent.protocol.streams import StreamData

ORDINARY = msgspec.Raw(b'{"final":{},"t_us":1,"stream":{"next_seq":0}}')


def raws(*values: object) -> tuple[msgspec.Raw, ...]:
    return tuple(msgspec.Raw(json.dumps(value).encode()) for value in values)


def large_final(text: str) -> msgspec.Raw:
    data = text.encode()
    final = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "stream": {"next_seq": 1}}
    return msgspec.Raw(json.dumps(final).encode())


def pieces(text: str, cuts: list[int], first_seq: int) -> list[StreamData]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    parts = [text[a:b] for a, b in pairwise(edges)] or [text]
    return [
        StreamData(id=1, seq=first_seq + n, part=part, more=n + 1 < len(parts))
        for n, part in enumerate(parts)
    ]


@given(
    st.lists(st.text(max_size=6) | st.lists(st.text(max_size=8), min_size=1, max_size=3), max_size=8),
    st.lists(st.integers(0, 50), max_size=4),
)
def test_items_come_out_as_they_went_in_whether_whole_or_in_pieces(
    sent: list[str | list[str]], cuts: list[int]
) -> None:
    assembler, out, seq = StreamAssembler(), [], 0
    for entry in sent:
        messages = (
            [StreamData(id=1, seq=seq, items=raws(*entry))]
            if isinstance(entry, list)
            else pieces(json.dumps(entry), cuts, seq)
        )
        for message in messages:
            out += assembler.feed(message)
        seq += len(messages)
    rest, result = assembler.finish(ORDINARY)
    flat = [text for entry in sent for text in (entry if isinstance(entry, list) else [entry])]
    assert [json.loads(bytes(raw)) for raw in out + rest] == flat
    assert bytes(result) == bytes(ORDINARY)
    assert assembler.held_bytes == 0


@given(st.text(min_size=1, max_size=200), st.lists(st.integers(0, 300), max_size=6))
def test_a_large_result_is_joined_and_checked(text: str, cuts: list[int]) -> None:
    assembler = StreamAssembler()
    payload = json.dumps({"text": text}, ensure_ascii=False)
    for message in pieces(payload, cuts, 0):
        assert assembler.feed(message) == []
    assert assembler.finish(large_final(payload)) == ([], msgspec.Raw(payload.encode()))


def test_a_hole_or_a_repeat_is_refused() -> None:
    for seq in (1, 2):
        assembler = StreamAssembler()
        if seq == 2:
            assembler.feed(StreamData(id=1, seq=0, items=raws("a")))
        with pytest.raises(ProtocolError, match="expected"):
            assembler.feed(StreamData(id=1, seq=seq if seq == 2 else 1, items=raws("b")))
    again = StreamAssembler()
    again.feed(StreamData(id=1, seq=0, items=raws("a")))
    with pytest.raises(ProtocolError, match="expected"):
        again.feed(StreamData(id=1, seq=0, items=raws("a")))


def test_neither_items_nor_a_piece_or_both_is_refused() -> None:
    with pytest.raises(ProtocolError, match="either"):
        StreamAssembler().feed(StreamData(id=1, seq=0))
    with pytest.raises(ProtocolError, match="either"):
        StreamAssembler().feed(StreamData(id=1, seq=0, items=raws("a"), part="b"))


def test_items_between_pieces_and_a_final_before_the_last_piece_are_refused() -> None:
    assembler = StreamAssembler()
    assembler.feed(StreamData(id=1, seq=0, part='{"a"', more=True))
    with pytest.raises(ProtocolError, match="last piece"):
        assembler.finish(ORDINARY)
    with pytest.raises(ProtocolError, match="between"):
        assembler.feed(StreamData(id=1, seq=1, items=raws("a")))


def test_a_wrong_sum_is_refused() -> None:
    assembler = StreamAssembler()
    assembler.feed(StreamData(id=1, seq=0, part='{"a":1}'))
    with pytest.raises(ProtocolError, match="sha256"):
        assembler.finish(large_final('{"a":2}'))


def test_pieces_hold_bounded_memory() -> None:
    assembler = StreamAssembler(max_joined_bytes=10)
    assembler.feed(StreamData(id=1, seq=0, part="12345", more=True))
    with pytest.raises(TooLarge):
        assembler.feed(StreamData(id=1, seq=1, part="678901", more=True))
