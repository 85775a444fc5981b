"""No span of time lets more through than its rate and a burst."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.protocol.rates import BadFrames, TokenBucket


def test_a_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    bucket = TokenBucket(1.0, 10.0, 0.0)
    assert [bucket.take(0.0) for _ in range(10)] == [0.0] * 10
    assert bucket.take(0.0) == pytest.approx(1.0)
    assert bucket.take(0.5) == pytest.approx(0.5)
    assert bucket.take(1.0) == 0.0
    assert bucket.take(1.0) > 0


@given(st.lists(st.floats(0, 5), max_size=80), st.floats(0.01, 10), st.floats(1, 100))
def test_no_span_of_time_lets_more_through_than_its_rate_and_a_burst(
    gaps: list[float], per_second: float, burst: float
) -> None:
    now, passed = 0.0, 0
    bucket = TokenBucket(per_second, burst, now)
    for gap in gaps:
        now += gap
        passed += bucket.take(now) == 0.0
    assert passed <= burst + per_second * now + 1e-6


def test_ten_bad_frames_count_only_within_a_minute() -> None:
    bad = BadFrames()
    assert not any(bad.another(second) for second in range(0, 90, 10))
    assert not any(bad.another(200.0) for _ in range(9))
    assert bad.another(201.0)
