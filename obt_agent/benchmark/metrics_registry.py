"""Every figure of an iteration that is summarised, compared or shown, each in one row. Pure.

Everything that names metrics takes them from here: the mean of concurrent requests, a cell's summary and
percentiles, the comparison of two results, the command line's tables, the table in the documents, and the
module that the page imports. A new metric is its computation, its test and a row of ``METRICS``.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, Literal

import msgspec

Better = Literal["higher", "lower"]
Clock = Literal["agent", "ollama", "machine"]
Aggregation = Literal["mean", "sum", "iteration", "load"]
Shown = Literal["always", "thinking", "concurrent", "detail"]
Values = Literal["positive", "percent", "any"]


class Metric(msgspec.Struct, frozen=True):
    """One metric.

    Attributes:
        name: field of ``IterationMetrics``, and key of ``summary``, ``percentiles`` and ``ratios``.
        label: for people.
        unit: beside the label.
        better: which direction is better; None where neither is.
        clock: who measured it: the agent, by its own monotonic clock; Ollama, which reports it and whose
            versions differ in what they mean by it; or the machine's sensors and counters.
        description: its definition and traps in plain words, as Markdown.
        short: the label for narrow columns, where the label itself is long.
        aggregation: of the requests of a concurrent iteration: their mean, their sum, or none, because the
            figure is of the iteration as a whole, or of the load of the model: then it counts once, however
            many iterations show it.
        shown: in tables always, only for models that think, only for concurrent requests, or never.
        values: what values are possible, which decides the kind of interval: positive ones; percentages, 0
            to 100; any, also negative ones.
        headline: one of the few that stand for a whole result in lists and sweeps.
        compared: two results are compared by it.
        percentiles: the result has percentiles of it.
        summarised: a cell's summary has it.
    """

    name: str
    label: str
    unit: str
    better: Better | None
    clock: Clock
    description: str
    short: str = ""
    aggregation: Aggregation = "mean"
    shown: Shown = "always"
    values: Values = "positive"
    headline: bool = False
    compared: bool = False
    percentiles: bool = False
    summarised: bool = True

    @property
    def brief(self) -> str:
        """The label for narrow columns."""
        return self.short or self.label


# All metrics, in the order in which tables show them.
# fmt: off
METRICS: Final = (
    Metric("decode_tps_corrected", "Decode", "tok/s", "higher", "agent",
           "(n−1)/(t_last−t_first). `decode_tps_uncertainty` is what lines of several tokens, or the "
           "difference to Ollama's clock, leave open",
           headline=True, compared=True),
    Metric("tokens_per_second", "Decode, as Ollama counts", "tok/s", "higher", "ollama",
           "`eval_count / eval_duration`. High by n/(n−1): the clock starts at the first token, which is "
           "counted. 6.7 % at 16 tokens, 0.8 % at 128",
           compared=True, percentiles=True),
    Metric("decode_tps_by_ollama", "Decode, by Ollama's clock", "tok/s", "higher", "ollama",
           "(n−1)/`eval_duration`: the same by another clock, where the version's clock starts at the first "
           "token. A difference of over 2 % is flagged `clocks_differ`", shown="detail"),
    Metric("decode_tps_uncertainty", "Decode, left open", "tok/s", None, "agent",
           "half-width of decode speed that lines of several tokens leave open, or the difference to "
           "`decode_tps_by_ollama` where that is larger", shown="detail"),
    Metric("output_tps_total", "All requests", "tok/s", "higher", "agent",
           "tokens of all concurrent requests / wall time of the iteration",
           aggregation="iteration", shown="concurrent", headline=True, compared=True),
    Metric("output_tps_wall", "Output over the whole time", "tok/s", "higher", "agent",
           "n / whole time; depends on the prompt's length", compared=True),
    Metric("prefill_tps_ttft", "Prefill", "tok/s", "higher", "agent",
           "prompt tokens / TTFT; only of uncached prompts. Low by all of TTFT that is not prefill",
           headline=True, compared=True),
    Metric("prefill_tps", "Prefill, as Ollama counts", "tok/s", "higher", "ollama",
           "`prompt_eval_count / prompt_eval_duration`; only of uncached prompts", compared=True),
    Metric("first_token_ms", "Time to first token", "ms", "lower", "agent",
           "TTFT of any token, queueing and prefill included (`latency_ms` is the same). About 1 ms of "
           "stamps while a core is idle; where all are busy the agent waits for its turn, some ms",
           short="TTFT", headline=True, compared=True, percentiles=True),
    Metric("ttft_excluding_slot_ms", "Time to first token of the model", "ms", "lower", "ollama",
           "TTFT less `slot_ms`: what loading and reading the prompt took, and the way there and back",
           compared=True),
    Metric("slot_ms", "Slot", "ms", "lower", "ollama",
           "`unaccounted_ms`, at most TTFT − load − prompt: an upper bound of waiting for a slot and "
           "of saving the prompt that it held before, which llama-server does before it starts its clock. "
           "Null where `eval_duration` leaves out sampling", shown="detail"),
    Metric("ttft_answer_ms", "Time to first answer token", "ms", "lower", "agent",
           "first token of the answer; null when thinking took all tokens",
           shown="thinking", compared=True),
    Metric("thinking_ms", "Thinking", "ms", None, "agent",
           "time from the first thought to the answer, or to the end where none came", shown="detail"),
    Metric("average_token_ms", "Time per output token", "ms", "lower", "agent",
           "TPOT, (t_last−t_first)/(n−1); open like decode speed",
           short="TPOT", headline=True, compared=True, percentiles=True),
    Metric("total_duration_ms", "End to end", "ms", "lower", "agent",
           "from sending to the last line; of concurrent requests the wall time of all",
           aggregation="iteration", headline=True, compared=True, percentiles=True),
    Metric("queue_ms_max", "Longest wait for a slot", "ms", "lower", "ollama",
           "the longest `unaccounted_ms` of an iteration's requests",
           short="Slot wait", aggregation="iteration", shown="concurrent", values="any", headline=True),
    Metric("prompt_tokens", "Prompt", "tokens", None, "ollama",
           "`prompt_eval_count`, of concurrent requests their sum", aggregation="sum"),
    Metric("completion_tokens", "Answer", "tokens", None, "ollama",
           "`eval_count`, of concurrent requests their sum", aggregation="sum"),
    Metric("total_tokens", "Prompt and answer", "tokens", None, "ollama",
           "the sum of both counts", aggregation="sum", shown="detail", summarised=False),
    Metric("chunks", "Lines with text", "lines", None, "agent",
           "lines of the stream that carried text", aggregation="sum", shown="detail", summarised=False),
    Metric("tokens_per_chunk", "Tokens in a line", "tokens", None, "agent",
           "n / lines with text", shown="detail"),
    Metric("thinking_chars", "Thoughts", "characters", None, "agent",
           "characters of thinking", aggregation="sum", shown="detail", summarised=False),
    Metric("server_total_ms", "End to end, as Ollama counts", "ms", None, "ollama",
           "`total_duration`", shown="detail", summarised=False),
    Metric("load_ms", "Load", "ms", "lower", "ollama",
           "`load_duration`: what finding the model loaded took, or loading it", shown="detail"),
    Metric("prompt_eval_ms", "Prefill time", "ms", "lower", "ollama",
           "`prompt_eval_duration`", shown="detail"),
    Metric("eval_ms", "Decode time", "ms", "lower", "ollama",
           "`eval_duration`", shown="detail"),
    Metric("unaccounted_ms", "Unaccounted time", "ms", None, "ollama",
           "total − load − prompt − eval, all Ollama's own. Waiting for a slot, and saving the prompt "
           "that it held before, show only here",
           shown="detail", values="any"),
    Metric("memory_usage_mb", "Model's memory", "MiB", "lower", "machine",
           "resident in the server at this address and in the process that runs this model, once it had "
           "answered for the first time after its load: one figure for each load, and so without an "
           "interval. Null when the model was loaded before the run and its Ollama keeps prompts (0.30 and "
           "later), or when several processes could not be told apart. `memory_delta_mb` is less what the "
           "server held before",
           aggregation="load", headline=True, compared=True),
    Metric("prompt_cache_growth_mb", "Memory grown since", "MiB", None, "machine",
           "`memory_peak_mb`, the peak of the iteration, less `memory_usage_mb`. It rises from iteration to "
           "iteration where Ollama keeps finished prompts: up to `LLAMA_ARG_CACHE_RAM` MiB, 8192 unless it "
           "is set where Ollama starts. Flagged `prompts_kept`",
           aggregation="iteration", values="any"),
    Metric("memory_peak_mb", "Memory at most", "MiB", "lower", "machine",
           "peak resident memory of the same processes, kept prompts included",
           aggregation="iteration", shown="detail"),
    Metric("gpu_memory_usage_mb", "Model's GPU memory", "MiB", "lower", "machine",
           "peak over all GPUs, by the method in `gpu_memory_method`: what drivers attribute to the same "
           "processes, else the device's less its baseline, else Ollama's own estimate",
           aggregation="iteration", headline=True, compared=True),
    Metric("cpu_usage_percent", "CPU of the machine", "%", None, "machine",
           "time-weighted mean over all CPUs, of all programs; `cpu_usage_percent_max` beside it",
           aggregation="iteration", values="percent"),
    Metric("cpu_process_percent", "CPU of the model", "% of a core", None, "machine",
           "time-weighted mean of the same processes, 100 for each core that they keep busy; "
           "`cpu_others_percent` is the same of all other programs, other models among them",
           aggregation="iteration", compared=True),
    Metric("gpu_usage_percent", "GPU", "%", None, "machine",
           "time-weighted mean of all GPUs; `gpu_usage_percent_max` beside it",
           aggregation="iteration", values="percent"),
    Metric("gpu_temperature", "GPU temperature", "°C", "lower", "machine",
           "highest of the hottest GPU; `_start` and `_end` beside it",
           aggregation="iteration", values="any"),
    Metric("cpu_temperature", "CPU temperature", "°C", "lower", "machine",
           "highest of the hottest package; `_start` and `_end` beside it",
           aggregation="iteration", shown="detail", values="any"),
    Metric("power_usage_watts", "Power", "W", "lower", "machine",
           "mean over the iteration; `power_scope` says of what", aggregation="iteration", headline=True),
    Metric("energy_joules", "Energy", "J", "lower", "machine",
           "difference of the driver's counters at the phases' edges, else the trapezoid over power; "
           "gross, with `energy_uncertainty_joules`. Withheld under 5 s. The same for `energy_prefill_…` "
           "and `energy_decode_…`, parted at the first token",
           aggregation="iteration", shown="detail"),
    Metric("energy_net_joules", "Energy above idle", "J", "lower", "machine",
           "`energy_joules` less the idle power of the preflight",
           aggregation="iteration", shown="detail", values="any"),
    Metric("joules_per_output_token", "Energy per answer token", "J/token", "lower", "machine",
           "`energy_joules` / n", short="Energy", aggregation="iteration", headline=True, compared=True),
)
# fmt: on

BY_NAME: Final = MappingProxyType({metric.name: metric for metric in METRICS})

_CLOCKS: Final = {"agent": "the agent", "ollama": "Ollama", "machine": "the machine"}
_BETTER: Final = {"higher": "more", "lower": "less", None: ""}


def as_markdown() -> str:
    """Return the table of all metrics for the documents."""
    lines = [
        "| field | name | unit | better | measured by | meaning and traps |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{one.name}` | {one.label} | {one.unit} | {_BETTER[one.better]} | {_CLOCKS[one.clock]} "
        f"| {one.description} |"
        for one in METRICS
    ]
    return "\n".join(lines) + "\n"
