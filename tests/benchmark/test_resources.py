"""Means over time, energy and throttling from samples and counters."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from obt_agent.benchmark import resources
from obt_agent.benchmark.resources import EdgeReading, TimeWindow
from obt_agent.hardware.samples import CpuSample, GpuClocks, OllamaProcess, Sample
from tests.benchmark.samples import GIB, SECOND, gpu, sample

TEN = TimeWindow(0, 10 * SECOND)


def with_package(at_s: float, joules: float) -> Sample:
    return msgspec.structs.replace(sample(at_s), cpu=CpuSample(package_energy_joules=joules))


def test_a_mean_weighs_each_sample_by_its_time() -> None:
    seen = [sample(0, cpu=0.1), sample(1, cpu=0.9), sample(9, cpu=0.5)]
    found = resources.over_time(seen, TEN, resources.cpu_percent)
    assert found is not None
    assert found.mean == pytest.approx(0.1 * 10 + 0.9 * 80 + 0.5 * 10)
    assert (found.low, found.high) == (10.0, 90.0)


def test_the_sample_before_a_window_speaks_for_its_beginning() -> None:
    seen = [sample(-3, cpu=0.9), sample(-1, cpu=0.2), sample(5, cpu=0.4), sample(11, cpu=0.9)]
    found = resources.over_time(seen, TEN, resources.cpu_percent)
    assert found is not None
    assert found.mean == pytest.approx(30.0)
    assert found.high == pytest.approx(40.0)


@given(st.lists(st.tuples(st.floats(-5, 15), st.floats(0, 1)), min_size=1, max_size=12))
def test_a_mean_lies_between_the_extremes(points: list[tuple[float, float]]) -> None:
    seen = [sample(at, cpu=value) for at, value in sorted(points)]
    found = resources.over_time(seen, TEN, resources.cpu_percent)
    if found is not None:
        assert found.low - 1e-9 <= found.mean <= found.high + 1e-9


def test_what_no_sample_has_has_no_mean() -> None:
    assert resources.over_time([sample(1, cpu=None)], TEN, resources.cpu_percent) is None
    assert resources.over_time([], TEN, resources.cpu_percent) is None
    assert resources.over_time([sample(0, cpu=0.3)], TimeWindow(0, 0), resources.cpu_percent) is not None


def test_energy_is_the_difference_of_the_counters_at_the_edges() -> None:
    found = resources.energy(
        [], TEN, EdgeReading(0, {"a": 100.0, "b": 7.0}), EdgeReading(10 * SECOND, {"a": 3100.0, "b": 57.0})
    )
    assert found is not None
    assert (found.joules, found.method, found.scope) == (3050.0, "counter", "gpus")
    assert found.uncertainty == pytest.approx(30.5)


@pytest.mark.parametrize(
    "end",
    [
        EdgeReading(10 * SECOND, {"b": 5.0}),
        EdgeReading(10 * SECOND, {"a": 1.0}),
        EdgeReading(4 * SECOND, {"a": 900.0}),
    ],
    ids=["another GPU", "a counter that went back", "a short window"],
)
def test_counters_that_do_not_fit_give_no_energy(end: EdgeReading) -> None:
    assert resources.energy_by_counters(EdgeReading(0, {"a": 100.0}), end, TEN) is None


def test_without_counters_energy_is_the_trapezoid_over_power() -> None:
    seen = [sample(at, gpu(power_watts=100.0 + 20 * at)) for at in range(11)]
    found = resources.energy(seen, TEN, None, None)
    assert found is not None
    assert found.method == "trapezoid"
    assert found.joules == pytest.approx(2000.0)
    assert found.uncertainty == pytest.approx(200.0)


def test_energy_of_a_window_under_five_seconds_is_withheld() -> None:
    seen = [sample(at / 2, gpu(), cpu=None) for at in range(10)]
    assert resources.energy(seen, TimeWindow(0, int(4.9 * SECOND)), None, None) is None
    assert resources.energy(seen, TimeWindow(0, 5 * SECOND), None, None) is not None


def test_without_gpus_energy_is_the_packages_counter_scaled_to_the_window() -> None:
    found = resources.energy([with_package(1, 1000.0), with_package(9, 1400.0)], TEN, None, None)
    assert found is not None
    assert found.joules == pytest.approx(500.0)
    assert found.scope == "cpu_package"
    assert found.uncertainty == pytest.approx(50 * (2 + resources.COUNTER_STEP_S))
    assert resources.energy_of_package([with_package(1, 9.0), with_package(9, 5.0)], TEN) is None


def test_throttling_is_timed_and_its_harmless_reasons_are_left_out() -> None:
    seen = [
        sample(0, gpu(throttle_reasons=("gpu_idle",))),
        sample(2, gpu(throttle_reasons=("sw_power_cap",))),
        sample(5, gpu(throttle_reasons=("hw_thermal_slowdown", "sw_power_cap"))),
        sample(6, gpu(throttle_reasons=())),
    ]
    found = resources.throttle(seen, TEN)
    assert found is not None
    assert (found.power_ms, found.thermal_ms) == (4000.0, 1000.0)
    assert found.reasons == ("hw_thermal_slowdown", "sw_power_cap")


def test_reasons_read_before_the_window_tell_nothing_of_it() -> None:
    old = sample(1, gpu(throttle_reasons=("hw_thermal_slowdown",), slow_t_mono_ns=-SECOND))
    new = sample(2, gpu(throttle_reasons=("hw_thermal_slowdown",), slow_t_mono_ns=SECOND))
    assert resources.throttle([old], TEN) is None
    found = resources.throttle([new], TEN)
    assert found is not None
    assert found.thermal_ms == 8000.0


def test_readings_of_several_gpus_are_summed_or_averaged_as_they_mean() -> None:
    two = sample(
        0,
        gpu(),
        gpu(id="GPU-2", utilization_ratio=0.1, power_watts=100.0, temperature_celsius=70.0, clocks=None),
    )
    assert resources.gpu_percent(two) == pytest.approx(50.0)
    assert resources.gpu_power(two) == 400.0
    assert resources.gpu_temperature(two) == 70.0
    assert resources.gpu_memory_used(two) == 16 * 1024
    assert resources.gpu_clock_mhz(two) == 2000.0
    assert resources.hottest(two) == 70.0


def test_a_machine_without_gpus_is_as_hot_as_its_cpu_and_has_no_gpu_figures() -> None:
    bare = sample(0)
    assert resources.hottest(bare) == 50.0
    assert resources.gpu_power(bare) is None
    assert resources.gpu_memory_used(bare) is None


def test_the_graphics_clock_stands_in_for_the_multiprocessors() -> None:
    assert resources.gpu_clock_mhz(sample(0, gpu(clocks=GpuClocks(graphics_hertz=1_500_000_000)))) == 1500.0


def test_ollamas_processes_are_summed() -> None:
    both = sample(
        0,
        ollama=(
            OllamaProcess(pid=1, role="server", cpu_ratio=0.5, rss_bytes=GIB),
            OllamaProcess(
                pid=2, role="runner", cpu_ratio=3.0, rss_bytes=GIB, gpu_memory_bytes={"GPU-1": GIB}
            ),
        ),
    )
    assert resources.ollama_rss(both) == 2048
    assert resources.ollama_cpu_percent(both) == 350.0
    assert resources.ollama_gpu_memory(both) == 1024
    nobody = sample(0, ollama=())
    assert resources.ollama_rss(nobody) is None
    assert resources.ollama_gpu_memory(nobody) is None
