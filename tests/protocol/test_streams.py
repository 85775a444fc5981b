from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.protocol.streams import Item, encode_items

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
