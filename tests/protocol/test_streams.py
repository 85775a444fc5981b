from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.ollama.ndjson import MAX_DEPTH
from obt_agent.protocol import codec
from obt_agent.protocol.streams import Item, StreamData, encode_items

CHUNKS = st.lists(st.sampled_from([b"{}", b'{"response":"a"}', '{"response":"\u00e9"}'.encode()]), max_size=4)


@given(t_us=st.integers(0, 2**53), chunks=CHUNKS, paused_us=st.none() | st.integers(1, 2**53))
def test_chunks_are_encoded_as_an_item_of_each_would_be(
    t_us: int, chunks: list[bytes], paused_us: int | None
) -> None:
    items = [
        Item(t_us=t_us, chunk=msgspec.Raw(chunk), paused_us=None if number else paused_us)
        for number, chunk in enumerate(chunks)
    ]
    assert encode_items(t_us, chunks, paused_us or 0) == list(map(msgspec.json.encode, items))


def frame_with(chunk: bytes) -> bytes:
    items = tuple(map(msgspec.Raw, encode_items(1, [chunk])))
    return codec.encode_notification("stream.data", StreamData(id=1, seq=0, items=items))


def test_the_deepest_line_that_is_taken_of_ollama_passes_in_its_frame_and_a_deeper_one_would_not() -> None:
    codec.decode(frame_with(b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH))
    with pytest.raises(codec.FrameError, match="nest at most"):
        codec.decode(frame_with(b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1)))
