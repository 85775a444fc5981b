"""The sender's credit."""

from __future__ import annotations

import pytest

from obt_agent.errors import ProtocolError
from obt_agent.protocol.credit import Balance
from obt_agent.protocol.limits import MAX_BALANCE_BYTES


def test_a_frame_may_overdraw_the_balance_once() -> None:
    balance = Balance(10)
    balance.spend(100)
    assert balance.bytes == -90
    assert not balance.positive
    with pytest.raises(ProtocolError):
        balance.spend(1)


def test_nothing_goes_with_a_balance_of_zero() -> None:
    balance = Balance(10)
    balance.spend(10)
    assert not balance.positive
    balance.grant(1)
    assert balance.positive


def test_a_balance_never_exceeds_four_mebibytes() -> None:
    balance = Balance(1 << 40)
    assert balance.bytes == MAX_BALANCE_BYTES
    balance.spend(5)
    balance.grant(1 << 40)
    assert balance.bytes == MAX_BALANCE_BYTES
