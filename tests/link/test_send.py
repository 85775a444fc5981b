"""The order of output as a state machine: whatever is queued, granted and cancelled, the rules hold."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from obt_agent.link.send import SendScheduler
from obt_agent.link.streams import large_final, result_frame
from obt_agent.protocol import codec
from obt_agent.protocol.admission import Empty
from obt_agent.protocol.assembly import StreamAssembler
from obt_agent.protocol.envelope import Notification
from obt_agent.protocol.limits import MAX_DATA_FRAME_BYTES, MIN_DATA_FRAME_BYTES
from obt_agent.protocol.streams import StreamData, StreamFinal
from tests.effort import examples

STREAM_CREDIT = 4096
TEXTS = st.text(st.sampled_from('aü"\\€𝄞\n '), max_size=300)
IDS = st.sampled_from([1, "1", 2, "x"])


class Output(RuleBasedStateMachine):
    """Streams, bulk requests, grants and sizes of frames in any order; the receiver checks every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.flow = SendScheduler(STREAM_CREDIT, 16384)
        self.queued: dict[Any, list[bytes]] = {}
        self.received: dict[Any, int] = {}
        self.assemblers: dict[Any, StreamAssembler] = {}
        self.balance: dict[Any, int] = {}
        self.link_balance = 16384
        self.bulk_queued: list[bytes] = []
        self.bulk_received: list[bytes] = []

    @rule(request_id=IDS)
    def open(self, request_id: Any) -> None:
        if request_id not in self.flow.streams:
            self.flow.open(request_id)
            self.queued[request_id], self.received[request_id] = [], 0
            self.assemblers[request_id] = StreamAssembler()
            self.balance[request_id] = STREAM_CREDIT

    @rule(request_id=IDS, texts=st.lists(TEXTS, max_size=8), times=st.sampled_from([1, 1, 1, 50, 200]))
    def put(self, request_id: Any, texts: list[str], times: int) -> None:
        stream = self.flow.streams.get(request_id)
        if stream is None or stream.final is not None:
            return
        items = [msgspec.json.encode({"t": text * times}) for text in texts]
        stream.append(items)
        self.flow.queued(stream)
        self.queued[request_id] += items

    @rule(frame=st.integers(1, 60_000))
    def bulk(self, frame: int) -> None:
        text = codec.encode_request(
            len(self.bulk_queued), "job.part", msgspec.Raw(b'{"d":"%b"}' % (b"y" * frame))
        )
        self.flow.add_bulk(text)
        self.bulk_queued.append(text)

    @rule(request_id=IDS, size=st.integers(1, 20_000))
    def grant(self, request_id: Any, size: int) -> None:
        stream = self.flow.streams.get(request_id)
        if stream is not None:
            stream.balance.grant(size)
            self.flow.queued(stream)
            self.balance[request_id] += size

    @rule(size=st.integers(1, 60_000))
    def grant_link(self, size: int) -> None:
        self.flow.link.grant(size)
        self.link_balance += size

    @rule(request_id=IDS)
    def cancel(self, request_id: Any) -> None:
        if self.flow.close(request_id) is not None:
            self.queued.pop(request_id)

    @precondition(lambda self: self.flow.ready)
    @rule(limit=st.integers(MIN_DATA_FRAME_BYTES, MAX_DATA_FRAME_BYTES))
    def send(self, limit: int) -> None:
        assert self.link_balance > 0
        turn = self.flow.next_frame(limit)
        assert turn is not None
        frame, stream = turn
        self.link_balance -= len(frame)
        if stream is None:
            self.bulk_received.append(frame)
            return
        assert len(frame) <= limit
        assert self.balance[stream.request_id] > 0
        self.balance[stream.request_id] -= len(frame)
        message = codec.decode(frame)
        assert isinstance(message, Notification)
        data = codec.convert(message.params, StreamData)
        assert data.id == stream.request_id
        assert type(data.id) is type(stream.request_id)
        # what arrived before is known to be the beginning of what was queued: the new comes right after it
        for raw in self.assemblers[data.id].feed(data):
            assert json.loads(bytes(raw)) == json.loads(self.queued[data.id][self.received[data.id]])
            self.received[data.id] += 1

    @invariant()
    def bulk_requests_keep_their_order(self) -> None:
        assert self.bulk_received == self.bulk_queued[: len(self.bulk_received)]

    @invariant()
    def what_waits_is_counted(self) -> None:
        for stream in self.flow.streams.values():
            assert stream.waiting_bytes >= 0
            assert (stream.waiting_bytes == 0) >= stream.empty

    @invariant()
    def nothing_waits_that_may_go(self) -> None:
        """A stream with data and credit has its turn coming, as long as the link has credit."""
        may = any(not s.empty and s.balance.positive for s in self.flow.streams.values())
        if may and self.flow.link.positive:
            assert self.flow.ready


TestOutput = Output.TestCase
TestOutput.settings = settings(max_examples=examples(80), stateful_step_count=60, deadline=None)


def test_a_withdrawn_bulk_request_is_gone_and_the_others_stay() -> None:
    flow = SendScheduler(1000, 1000)
    for frame in (b"a", b"b"):
        flow.add_bulk(frame)
    assert flow.cancel_bulk(b"a")
    assert not flow.cancel_bulk(b"a")
    assert flow.next_frame(1024) == (b"b", None)
    assert not flow.cancel_bulk(b"b")
    flow.add_bulk(b"c")
    assert flow.cancel_bulk(b"c")
    assert flow.next_frame(1024) is None
    assert not flow.waiting


def test_without_link_credit_nothing_is_next() -> None:
    flow = SendScheduler(1000, 0)
    flow.add_bulk(b"a")
    assert not flow.ready
    assert flow.next_frame(1024) is None
    assert flow.waiting


def test_closing_an_unknown_stream_changes_nothing() -> None:
    flow = SendScheduler(1000, 1000)
    assert flow.close("x") is None


def test_a_final_says_how_far_its_stream_came() -> None:
    flow = SendScheduler(1000, 1000)
    stream = flow.open(1)
    stream.append([b"{}"])
    stream.cut(1024)
    final = StreamFinal(final=msgspec.Raw(b"{}"), t_us=1, stream=flow.open(2).end)
    frame = json.loads(result_frame(1, final)(stream.end))
    assert frame["result"]["stream"]["next_seq"] == 1
    assert json.loads(result_frame(1, Empty())(stream.end))["result"] == {}
    large = json.loads(large_final(1, 5, "ab")(stream.end))
    assert large["result"] == {"bytes": 5, "sha256": "ab", "stream": {"next_seq": 1, "dropped": 0}}


def test_a_replaced_sample_is_not_counted_twice() -> None:
    stream = SendScheduler(1000, 1000).open(1)
    stream.offer(b'{"a":1}')
    stream.offer(b'{"a":22}')
    assert stream.waiting_bytes == 8
    assert b'{"a":22}' in stream.cut(1024)
    assert stream.waiting_bytes == 0
    assert stream.empty
