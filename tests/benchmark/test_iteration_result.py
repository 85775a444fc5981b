"""One iteration's object: memory, energy and its split, means over several requests."""

import msgspec
import pytest

from obt_agent.benchmark.iteration_result import Baseline, Edges, MachineContext, combine_requests, observe
from obt_agent.benchmark.model_processes import MemoryReading
from obt_agent.benchmark.resources import EdgeReading, TimeWindow
from obt_agent.benchmark.result import RequestTimings
from obt_agent.hardware.samples import CpuSample, OllamaProcess, Sample
from obt_agent.ollama.payloads import RunningModel
from tests.benchmark.samples import GIB, SECOND, gpu, sample

LISTED = RunningModel(name="m", digest="d", size_bytes=4 * GIB, size_vram_bytes=3 * GIB)
WINDOW = TimeWindow(0, 20 * SECOND)


def around(*samples: Sample, edges: Edges | None = None, **fields: object) -> MachineContext:
    usual: dict[str, object] = {
        "window": WINDOW,
        "samples": samples,
        "missed": 0,
        "edges": edges or Edges(),
        "baseline": Baseline(rss_mb=200.0, vram_mb=1024.0, idle_watts=50.0),
        "loaded": LISTED,
        "first_token_ns": 6 * SECOND,
    }
    return MachineContext(**{**usual, **fields})  # type: ignore[arg-type] # the fields are its own


def test_energy_is_split_at_the_first_token_with_idle_subtracted() -> None:
    edges = Edges(
        EdgeReading(0, {"GPU-1": 0.0}),
        EdgeReading(6 * SECOND, {"GPU-1": 900.0}),
        EdgeReading(20 * SECOND, {"GPU-1": 3000.0}),
    )
    found = observe(RequestTimings(completion_tokens=100), around(sample(1, gpu()), edges=edges))
    assert (found.energy_joules, found.energy_method) == (3000.0, "counter")
    assert (found.energy_prefill_joules, found.energy_decode_joules) == (900.0, 2100.0)
    assert found.energy_net_joules == 3000.0 - 50 * 20
    assert (found.energy_prefill_net_joules, found.energy_decode_net_joules) == (900.0 - 300, 2100.0 - 700)
    assert found.energy_prefill_uncertainty_joules == pytest.approx(150 * 0.1)
    assert found.energy_decode_uncertainty_joules == pytest.approx(150 * 0.1)
    assert found.joules_per_output_token == 30.0
    assert found.power_usage_watts == 150.0
    assert found.power_scope == "gpus"
    assert found.energy_uncertainty_joules == pytest.approx(15.0)


def test_power_is_taken_between_the_readings_although_they_were_late() -> None:
    edges = Edges(EdgeReading(-SECOND, {"GPU-1": 0.0}), None, EdgeReading(21 * SECOND, {"GPU-1": 2200.0}))
    found = observe(RequestTimings(), around(sample(1, gpu()), edges=edges))
    assert found.power_usage_watts == pytest.approx(100.0)
    assert found.energy_joules == pytest.approx(2000.0)
    assert found.energy_uncertainty_joules == pytest.approx(100 * (2 + 0.1))


def test_idle_power_of_gpus_is_not_subtracted_from_the_packages_energy() -> None:
    package = [
        msgspec.structs.replace(sample(at), cpu=CpuSample(package_energy_joules=100.0 * at)) for at in (0, 20)
    ]
    found = observe(RequestTimings(), around(*package))
    assert found.power_scope == "cpu_package"
    assert found.energy_joules == pytest.approx(2000.0)
    assert found.energy_net_joules is None
    assert "idle" in found.unavailable["energy_net_joules"]


def test_a_short_prefill_has_no_energy_of_its_own() -> None:
    edges = Edges(
        EdgeReading(0, {"GPU-1": 0.0}),
        EdgeReading(SECOND, {"GPU-1": 9.0}),
        EdgeReading(20 * SECOND, {"GPU-1": 3000.0}),
    )
    found = observe(RequestTimings(), around(sample(1, gpu()), edges=edges, first_token_ns=SECOND))
    assert found.energy_prefill_joules is None
    assert found.energy_decode_joules == 2991.0
    assert (
        observe(
            RequestTimings(), around(sample(1, gpu()), edges=edges, first_token_ns=None)
        ).energy_decode_joules
        is None
    )


def test_gpu_memory_names_its_method_best_first() -> None:
    process = OllamaProcess(pid=1, role="runner", gpu_memory_bytes={"GPU-1": 5 * GIB})
    by_pid = observe(RequestTimings(), around(sample(1, gpu(), ollama=(process,))))
    by_device = observe(RequestTimings(), around(sample(1, gpu())))
    by_list = observe(RequestTimings(), around(sample(1)))
    nothing = observe(RequestTimings(), around(sample(1), loaded=None))
    assert (by_pid.gpu_memory_method, by_pid.gpu_memory_usage_mb) == ("ollama_processes", 5120)
    assert (by_device.gpu_memory_method, by_device.gpu_memory_usage_mb) == ("device_minus_baseline", 7168)
    assert (by_list.gpu_memory_method, by_list.gpu_memory_usage_mb) == ("ollama_ps", 3072)
    assert nothing.gpu_memory_usage_mb is None
    assert nothing.unavailable["gpu_memory_usage_mb"] == "no GPU was seen"
    assert nothing.unavailable["gpu_offload_ratio"]


def test_memory_temperatures_and_clocks_come_from_the_samples() -> None:
    seen = [
        sample(1, gpu(temperature_celsius=50.0)),
        sample(10, gpu(temperature_celsius=71.0)),
        sample(19, gpu(temperature_celsius=69.0)),
    ]
    found = observe(RequestTimings(), around(*seen, memory=MemoryReading(900.0)))
    assert (found.gpu_temperature_start, found.gpu_temperature, found.gpu_temperature_end) == (
        50.0,
        71.0,
        69.0,
    )
    assert (found.memory_usage_mb, found.memory_delta_mb) == (900, 700)
    assert (found.memory_peak_mb, found.prompt_cache_growth_mb) == (1024, 124)
    assert (found.gpu_clock_mhz_mean, found.gpu_clock_mhz_min) == (2000.0, 2000.0)
    assert found.cpu_process_percent == 150.0
    assert found.cpu_others_percent is None, "the samples do not tell cores apart"
    assert found.gpu_offload_ratio == 0.75
    assert found.samples == 3
    assert found.throttle is not None


def test_memory_of_the_server_alone_does_not_pass_for_the_models() -> None:
    server = OllamaProcess(pid=9, role="server", rss_bytes=GIB, cpu_ratio=0.5)
    context = around(sample(1, ollama=(server,)), no_process="the process that runs the model was not seen")
    found = observe(RequestTimings(), context)
    for field in ("memory_usage_mb", "memory_peak_mb", "memory_delta_mb", "cpu_process_percent"):
        assert getattr(found, field) is None
        assert found.unavailable[field] == "the process that runs the model was not seen"


def test_what_other_programs_use_of_the_cpu_is_the_machines_less_ollamas() -> None:
    cores = CpuSample(utilization_ratio=0.9, per_core_ratio=(0.9,) * 4)
    idle = CpuSample(utilization_ratio=0.1, per_core_ratio=(0.1,) * 4)
    for cpu, others in ((cores, 210.0), (idle, 0.0)):
        context = around(*(msgspec.structs.replace(sample(n, gpu()), cpu=cpu) for n in (1, 10, 19)))
        assert observe(RequestTimings(), context).cpu_others_percent == pytest.approx(others)


def test_an_iteration_that_was_not_sampled_says_so_field_by_field() -> None:
    found = observe(RequestTimings(), around(sample(1, gpu()), sampled=False))
    assert found.gpu_usage_percent is None
    assert "not sampled" in found.unavailable["gpu_usage_percent"]
    assert found.model_size_mb == 4096


def test_without_samples_every_figure_is_null_with_its_reason() -> None:
    found = observe(RequestTimings(), around(baseline=Baseline()))
    for field in (
        "memory_usage_mb",
        "cpu_usage_percent",
        "gpu_usage_percent",
        "power_usage_watts",
        "energy_joules",
        "throttle",
        "cpu_temperature",
    ):
        assert getattr(found, field) is None
        assert found.unavailable[field]


def test_reasons_for_throttling_that_were_not_read_are_not_no_throttling() -> None:
    found = observe(RequestTimings(), around(sample(1, gpu(throttle_reasons=None))))
    assert found.throttle is None
    assert found.unavailable["throttle"] == "not read meanwhile"


def test_requests_together_have_means_sums_and_the_walls_time() -> None:
    requests = [
        RequestTimings(
            first_token_ms=10.0, completion_tokens=5, total_duration_ms=50.0, done_reason="length"
        ),
        RequestTimings(
            first_token_ms=30.0,
            completion_tokens=7,
            total_duration_ms=90.0,
            done_reason="stop",
            short_output=True,
        ),
    ]
    found = combine_requests(requests, 95.0)
    assert (found.first_token_ms, found.completion_tokens, found.total_duration_ms) == (20.0, 12, 95.0)
    assert (found.done_reason, found.short_output) == ("mixed", True)
    assert combine_requests(requests[:1], 1.0) is requests[0]


def test_a_figure_that_one_request_lacks_has_no_mean() -> None:
    lacking = RequestTimings(unavailable={"first_token_ms": "no text"})
    found = combine_requests([RequestTimings(first_token_ms=10.0), lacking], 1.0)
    assert found.first_token_ms is None
    assert found.unavailable["first_token_ms"] == "no text"
    assert set(found.unavailable) == {"first_token_ms", "inter_chunk_ms"}
