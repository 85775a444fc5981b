"""Whether others used the machine while a benchmark measured."""

import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from obt_agent.benchmark.compare import compare
from obt_agent.benchmark.other_use import of_iterations, used_meanwhile
from obt_agent.benchmark.records import IterationRecord, Record
from obt_agent.hardware.samples import CpuSample, Sample
from obt_agent.jobs.benchmarks import with_traffic
from obt_standin import Script, StandIn
from tests.benchmark.ollama_process import measured, ollama, spinning
from tests.benchmark.results import as_json, iteration, result
from tests.benchmark.runs import FakeMachine, Hooked, bench, now, plan, result_of
from tests.benchmark.samples import gpu


def shared(busy: float, *gpus: object) -> Sample:
    """A machine of four CPUs, of which the model takes one and a half."""
    return msgspec.structs.replace(
        now(*gpus), cpu=CpuSample(utilization_ratio=busy, per_core_ratio=(busy,) * 4)
    )


async def test_a_quiet_machine_says_that_nobody_used_it(standin: StandIn) -> None:
    # A little more than the model's processes take, which is what a system does by itself.
    found = (await result_of(standin, machine=FakeMachine(shared(0.4)))).used_meanwhile
    assert found is not None
    assert not found.used
    assert (found.iterations, found.other_models, found.requests) == ((), (), {})
    assert found.cpu_others_percent is not None
    assert 0 <= found.cpu_others_percent <= 10
    assert found.unavailable == {"gpu_others_percent": "no GPU was seen"}


async def test_other_programs_on_the_cpus_are_told_and_flagged(standin: StandIn) -> None:
    done = await result_of(standin, machine=FakeMachine(shared(1.0)))
    found = done.used_meanwhile
    assert found is not None
    assert found.used
    assert found.iterations == (0, 1, 2)
    assert found.cpu_others_percent is not None
    # 400 % of a core in all, 150 % of it the model's, and something of the agent's and the stand-in's own.
    assert 100 < found.cpu_others_percent <= 250
    assert all("used_meanwhile" in one.flags for one in done.metrics)
    assert "used_meanwhile" in [warning.code for warning in done.warnings]


@pytest.mark.parametrize(("percent", "used"), [(9.0, False), (11.0, True)])
def test_a_tenth_of_a_gpus_time_is_use(percent: float, used: bool) -> None:
    assert used_meanwhile(iteration(gpu_others_percent=percent), None) is used


@pytest.mark.parametrize(
    ("percent", "cores", "used"),
    [(39.0, 4, False), (41.0, 4, True), (99.0, 64, False), (101.0, 64, True), (99.0, None, False)],
)
def test_a_tenth_of_the_cpus_or_one_whole_core_is_use(percent: float, cores: int | None, used: bool) -> None:
    assert used_meanwhile(iteration(cpu_others_percent=percent + 7, cpu_agent_percent=7.0), cores) is used


async def test_what_others_take_of_a_gpu_is_the_drivers_share_within_the_iteration(standin: StandIn) -> None:
    busy = gpu(others_ratio=0.3, slow_t_mono_ns=1 << 62)
    done = await result_of(standin, plan(num_iterations=1), machine=FakeMachine(now(busy)))
    assert done.metrics[0].gpu_others_percent == 30.0
    assert "used_meanwhile" in done.metrics[0].flags
    before = gpu(others_ratio=0.3, slow_t_mono_ns=1)
    done = await result_of(standin, plan(num_iterations=1), machine=FakeMachine(now(before)))
    assert done.metrics[0].gpu_others_percent is None
    assert done.metrics[0].unavailable["gpu_others_percent"] == "not read meanwhile"


async def test_a_model_that_somebody_loads_meanwhile_is_named(standin: StandIn) -> None:
    async def load(record: Record) -> None:
        if isinstance(record, IterationRecord) and record.metrics.index == 0:
            await one.run._state.ollama.load("standin-think:8b")  # noqa: SLF001 - another program's load

    async with bench(standin, machine=FakeMachine(), journal=Hooked(hook=load)) as one:
        done = await one.run.execute()
    assert [metrics.other_models_used for metrics in done.metrics] == [(), ("standin-think:8b",), ()]
    assert done.used_meanwhile is not None
    assert done.used_meanwhile.other_models == ("standin-think:8b",)
    assert done.used_meanwhile.iterations == (1,)


async def test_a_model_that_only_stays_loaded_is_no_use_and_a_request_to_it_is(standin: StandIn) -> None:
    async def ask(record: Record) -> None:
        if isinstance(record, IterationRecord) and record.metrics.index == 1:
            await one.run._state.ollama.load("standin-think:8b", keep_alive="2h")  # noqa: SLF001 - as above

    async with bench(standin, machine=FakeMachine(), journal=Hooked(hook=ask)) as one:
        await one.run._state.ollama.load("standin-think:8b", keep_alive="1h")  # noqa: SLF001 - as above
        done = await one.run.execute()
    assert [metrics.other_models_used for metrics in done.metrics] == [(), (), ("standin-think:8b",)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_programs_that_spin_are_seen_on_a_real_machine(tmp_path: Path) -> None:
    async with ollama(tmp_path, Script(decode_tps=200, runner_processes=True)) as one:
        with spinning(2):
            done = await measured(one.url, "standin-small", iterations=2)
    assert done.used_meanwhile is not None
    assert done.used_meanwhile.used
    assert done.used_meanwhile.cpu_others_percent is not None


def test_what_the_server_sent_meanwhile_is_counted() -> None:
    done = with_traffic(result(iteration()), Counter({"generate": 3}))
    assert done.used_meanwhile is not None
    assert done.used_meanwhile.used
    assert done.used_meanwhile.requests == {"generate": 3}
    assert with_traffic(result(iteration()), Counter()).used_meanwhile == result(iteration()).used_meanwhile


def test_a_comparison_says_that_a_run_had_company() -> None:
    alone, with_others = result(iteration()), result(iteration(flags=("used_meanwhile",)))
    (said,) = (one for one in compare(alone, with_others).differences if one.field == "used_meanwhile")
    assert (said.a, said.b, said.weight) == ("no", "yes", "warning")
    # Also where both had: the ratio is in doubt all the same.
    both = compare(with_others, with_others).differences
    assert "used_meanwhile" in [one.field for one in both]
    assert "used_meanwhile" not in [one.field for one in compare(alone, alone).differences]


def test_what_is_not_known_is_null_with_its_reason() -> None:
    one = iteration(unavailable={"cpu_others_percent": "Ollama's processes were not seen"})
    found = of_iterations([one])
    assert not found.used
    assert "cpu_others_percent" not in as_json(found)
    assert found.unavailable["cpu_others_percent"] == "Ollama's processes were not seen"
