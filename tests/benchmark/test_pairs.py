"""Two plans in turns: whose turn it is, and one side's runs as one result."""

import random

from obt_agent.benchmark.pairs import merged, single, turns
from tests.benchmark.results import speeds
from tests.benchmark.runs import plan

SHAPE = ("--shape", "24:8", "--warmup", "1")


def test_each_pair_holds_both_sides_in_random_order() -> None:
    order = turns(200, random.Random(1))
    pairs = [tuple(order[at : at + 2]) for at in range(0, len(order), 2)]
    assert set(pairs) == {(0, 1), (1, 0)}
    assert 70 < pairs.count((0, 1)) < 130


def test_one_sides_runs_become_one_result() -> None:
    turn = single(plan(cold_load=True, max_iterations=9))
    assert (turn.num_iterations, turn.max_iterations, turn.cold_load) == (1, None, False)
    runs = [speeds(100 + n, of=turn) for n in range(3)]
    whole = merged(runs)
    assert [one.index for one in whole.metrics] == [0, 1, 2]
    assert whole.summary["decode_tps_corrected"].mean == 101
    assert whole.cells[0].stopping.reason == "fixed"
