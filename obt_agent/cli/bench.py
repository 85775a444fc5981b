"""``obt-agent bench``: benchmark models of the Ollama here; needs no server and no configuration."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from obt_agent.benchmark.compare import Comparison, NotComparable, changed_fields, compare, compare_pairs
from obt_agent.benchmark.expansion import budget, expand
from obt_agent.benchmark.lock import BenchmarkLock
from obt_agent.benchmark.pairs import merged
from obt_agent.benchmark.plan import Plan, PromptConfig, Settle, Sweep, plan_hash
from obt_agent.benchmark.presets import PRESETS, preset, shape
from obt_agent.benchmark.result import BenchmarkResult
from obt_agent.cli import bench_comparison, bench_report, bench_run, exit_codes
from obt_agent.cli.common import load_config, to_stderr
from obt_agent.cli.options import add_config_options
from obt_agent.config.schema import Config
from obt_agent.errors import InvalidParams
from obt_agent.log_setup.setup import LogSettings, configure
from obt_agent.ollama.names import canonical

T = TypeVar("T")

_EPILOG: Final = """\
presets:
  quick      3 iterations of 512:128 (tokens of prompt : tokens of answer)
  standard   5 to 20 iterations of 512:128, until the 95 % interval is within 10 % of the mean; cold load
  thorough   10 to 50 iterations each of 16:1536, 512:128 and 4096:256, within 5 %; cold load

Ctrl-C ends the benchmark and shows what was measured until then.
"""


def _list_of(item: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    def parse(text: str) -> tuple[T, ...]:
        return tuple(item(part.strip()) for part in text.split(","))

    # argparse names the type by it where a value is wrong.
    parse.__name__ = f"list of {getattr(item, '__name__', 'value')}"
    return parse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("models", nargs="+", metavar="MODEL", help="one or more installed models")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="quick", help="quick unless given")
    _add_what(parser.add_argument_group("what to run"))
    _add_how(parser.add_argument_group("how to measure"))
    output = parser.add_argument_group("output")
    form = output.add_mutually_exclusive_group()
    for name, words in (
        ("json", "the whole result"),
        ("obt", "JSON in the form of OBT's own results"),
        ("csv", "a line per iteration"),
        ("markdown", "a table"),
    ):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=words)
    output.add_argument("--output", type=Path, metavar="FILE", help="write there instead of standard output")
    output.add_argument("--compare", type=Path, metavar="FILE", help="with results written by --json before")
    add_config_options(parser)


def _add_what(group: argparse._ArgumentGroup) -> None:
    add, numbers = group.add_argument, _list_of(int)
    add("--shape", type=_list_of(shape), metavar="P:C,…", help="synthetic prompts, tokens of prompt:answer")
    add("--prompt", metavar="TEXT", help="this text instead of synthetic prompts")
    add("--prompt-name", metavar="NAME", help="one of the agent's own prompts")
    add("--completion-tokens", type=int, metavar="N", help="tokens to generate")
    add("--prompt-tokens", type=numbers, metavar="N,…", help="sweep over lengths")
    add("--num-ctx", type=numbers, metavar="N,…", help="pin the context, or sweep over several")
    add("--concurrency", type=numbers, metavar="N,…", help="requests at once")
    add("--temperature", type=float, metavar="X", help="of sampling (0)")
    add("--seed", type=int, metavar="N", help="of sampling (1)")
    add(
        "--think",
        choices=("on", "off", "low", "medium", "high"),
        help="for models that can; else Ollama decides",
    )
    add("--raw", action=argparse.BooleanOptionalAction, help="leave the model's template out")
    add("--cpu", action="store_true", help="keep the model off the GPUs")
    add("--threads", type=int, metavar="N", help="CPU threads of the model; else Ollama decides")


def _add_how(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--iterations", type=int, metavar="N", help="exactly N, or with --max-iterations N at least")
    add("--max-iterations", type=int, metavar="N", help="go on until the interval is narrow")
    add("--target-ci", type=float, metavar="X", help="widest interval over the mean, 0.1 is 10 %%")
    add("--warmup", type=int, metavar="N", help="exactly N warm-ups")
    add("--cold-load", action=argparse.BooleanOptionalAction, help="time the load from nothing")
    add("--cache", choices=("bust", "warm", "pair"), help="what Ollama's prompt cache may hold")
    add("--cooldown", type=float, metavar="S", help="longest wait to cool before an iteration")
    add("--settle", type=float, metavar="S", help="begin when CPU and GPU were idle for S seconds")
    add("--timeout", type=float, metavar="S", help="longest single request")
    add("--max-duration", type=float, metavar="S", help="longest whole run of a model")
    add("--pairs", type=int, metavar="N", help="two models in turns, N times each, and their ratio")
    add("--sampler-effect", action="store_true", help="sample every other iteration, and show what it costs")


def run(args: argparse.Namespace) -> int:
    """Benchmark each model in turn and print the results.

    Returns:
        0 when all ended as planned, 130 after Ctrl-C, else 1 or the code of what went wrong.
    """
    loaded = load_config(args)
    plans = [plan_of(args, model) for model in args.models]
    if args.pairs is not None and (len(plans) != 2 or args.pairs < 1):  # noqa: PLR2004 - a pair
        raise InvalidParams("--pairs takes two models, and at least one pair")
    # Before an hour of measuring, not after it.
    baseline = read_results(args.compare) if args.compare else ()
    if baseline:
        check_comparable(plans, baseline, args)
    log = loaded.config.log
    # What the run has to say stands in its live line and in the result's warnings.
    configure(LogSettings(level="error" if log.level == "info" else log.level, format=log.format))
    # Taken after everything that can be refused was refused, and held until all models are measured.
    with BenchmarkLock(loaded.config.ollama.url, Path(loaded.config.benchmark.lock_dir)):
        if args.pairs is not None:
            return _in_pairs(args, plans, loaded.config)
        results = asyncio.run(bench_run.run_all(plans, loaded.config))
    write(args, results)
    comparable = show_comparisons(results, baseline)
    # The worst of all models; without any result a signal came before the first.
    codes = [exit_code(result) for result in results] or [exit_codes.INTERRUPTED]
    return max(codes) or (exit_codes.OK if comparable else exit_codes.FAILED)


def _in_pairs(args: argparse.Namespace, plans: Sequence[Plan], config: Config) -> int:
    """Two models in turns: a result for each, then the ratio of the pairs."""
    sides = asyncio.run(bench_run.run_pairs((plans[0], plans[1]), args.pairs, config))
    results = [merged(side) for side in sides if side]
    write(args, results)
    if len(results) == len(sides):
        try:
            bench_comparison.show(compare_pairs(*sides), sys.stderr)
        except NotComparable as error:
            to_stderr(f"Not comparable: {error.message}.")
            return max(*map(exit_code, results), exit_codes.FAILED)
    return max(map(exit_code, results), default=exit_codes.INTERRUPTED)


def check_comparable(
    plans: Sequence[Plan], baseline: Sequence[BenchmarkResult], args: argparse.Namespace
) -> None:
    """See before anything is measured that the results will compare with the file's.

    Raises:
        InvalidParams: they will not; the message says why and what to do.
    """
    if args.pairs is not None:
        raise InvalidParams("--pairs compares the two models with each other: leave --compare out")
    for plan in plans:
        before = _partner(plan.model_name, baseline)
        if before is None:
            there = ", ".join(one.environment.model or one.config.model_name for one in baseline)
            raise InvalidParams(f"{args.compare} holds several results, none of {plan.model_name}: {there}")
        if plan_hash(plan) != before.environment.plan_hash:
            differing = ", ".join(changed_fields(plan, before.config)) or "a prompt's text"
            raise InvalidParams(
                f"{args.compare} was measured by another plan (it differs in {differing}): "
                "give the options that it was measured with, or leave --compare out"
            )


def plan_of(args: argparse.Namespace, model: str) -> Plan:
    """The plan that the options ask for.

    Raises:
        InvalidParams: they contradict each other, or are out of range.
    """
    changes = {name: value for name, value in _changes(args).items() if value is not None}
    try:
        prompts = _prompts(args)
        if prompts is not None:
            changes["prompts"] = prompts
        plan = preset(args.preset, model, **changes)
        # Construction checks no ranges; conversion does, as it would for a plan from a server.
        checked = msgspec.convert(msgspec.to_builtins(plan), Plan)
    except (msgspec.ValidationError, ValueError) as error:
        raise InvalidParams(f"these options make no benchmark: {error}") from error
    # Only for what they refuse: an unknown prompt, too many cells, a cell that does not fit its context.
    budget(checked)
    expand(checked)
    return checked


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    contexts: tuple[int, ...] = args.num_ctx or ()
    iterations: int | None = args.iterations
    # A number by itself is exact: else the preset's most would let a run go on.
    fixed = iterations is not None and args.max_iterations is None
    return {
        "num_iterations": iterations,
        "max_iterations": iterations if fixed else args.max_iterations,
        "target_ci": args.target_ci,
        "temperature": args.temperature,
        "seed": args.seed,
        "think": {"on": True, "off": False}.get(args.think, args.think),
        "raw": args.raw,
        "num_gpu": 0 if args.cpu else None,
        "num_thread": args.threads,
        "num_ctx": contexts[0] if len(contexts) == 1 else None,
        "sweep": Sweep(
            prompt_tokens=args.prompt_tokens or (),
            num_ctx=contexts if len(contexts) > 1 else (),
            concurrency=args.concurrency or (),
        ),
        "warmup_iterations": args.warmup,
        "cold_load": args.cold_load,
        "cache_mode": args.cache,
        "cooldown_s": args.cooldown,
        "settle": None if args.settle is None else Settle(idle_for_s=args.settle),
        "timeout_s": args.timeout,
        "max_duration_s": args.max_duration,
        "alternate_sampling": args.sampler_effect or None,
    }


def _prompts(args: argparse.Namespace) -> tuple[PromptConfig, ...] | None:
    """The prompts that the options name; None leaves the preset's."""
    tokens: int | None = args.completion_tokens
    if args.prompt is not None or args.prompt_name is not None:
        text = PromptConfig(prompt=args.prompt, prompt_name=args.prompt_name)
        return (text if tokens is None else msgspec.structs.replace(text, completion_tokens=tokens),)
    shapes: tuple[PromptConfig, ...] | None = args.shape
    if shapes is None and (tokens is not None or args.prompt_tokens):
        shapes = PRESETS[args.preset]["prompts"]
    if shapes is None:
        return None
    if args.prompt_tokens:  # the sweep sets the lengths: one shape for each length of answer
        shapes = tuple({one.completion_tokens: one for one in shapes}.values())
    if tokens is not None:
        # Shapes that differed in the answer alone are one now.
        same = (msgspec.structs.replace(one, completion_tokens=tokens) for one in shapes)
        shapes = tuple(dict.fromkeys(same))
    return shapes


def read_results(path: Path) -> tuple[BenchmarkResult, ...]:
    """Results that ``--json`` wrote: one, or a list.

    Raises:
        InvalidParams: the file cannot be read or holds something else.
    """
    try:
        data = path.read_bytes()
        found = msgspec.json.decode(data, type=BenchmarkResult | tuple[BenchmarkResult, ...])
    except OSError as error:
        raise InvalidParams(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidParams(f"{path} holds no result of obt-agent bench --json: {error}") from error
    return found if isinstance(found, tuple) else (found,)


def write(args: argparse.Namespace, results: Sequence[BenchmarkResult]) -> None:
    """Print the results in the form that was asked for, or write them to the file."""
    if args.output is None:
        bench_report.show(results, args.form, sys.stdout)
        return
    # A file is for a program, unless its name says otherwise.
    form = args.form or {".csv": "csv", ".md": "markdown"}.get(args.output.suffix, "json")
    try:
        with args.output.open("w", encoding="utf-8") as file:
            bench_report.show(results, form, file)
    except OSError as error:
        # A measurement of an hour is never lost to a path that cannot be written.
        bench_report.show(results, form, sys.stdout)
        raise InvalidParams(
            f"{args.output} cannot be written ({error.strerror}); the results are on standard output"
        ) from error
    bench_report.show(results, None, sys.stderr)
    to_stderr(f"Written to {args.output}.")


def show_comparisons(results: Sequence[BenchmarkResult], baseline: Sequence[BenchmarkResult]) -> bool:
    """Print each result against its partner in the baseline; False when one cannot be compared."""
    fine = True
    for result in results:
        partner = _partner(result.config.model_name, baseline)
        if partner is None:
            continue
        try:
            compared: Comparison = compare(result, partner)
        except NotComparable as error:
            to_stderr(f"Not comparable: {error.message}.")
            fine = False
        else:
            bench_comparison.show(compared, sys.stderr)
    return fine


def _partner(model: str, baseline: Sequence[BenchmarkResult]) -> BenchmarkResult | None:
    """The same model's result, else the only one."""
    # Two spellings of one name ("llama3", "llama3:latest") are one model.
    same = [one for one in baseline if canonical(one.config.model_name) == canonical(model)]
    if same:
        return same[0]
    return baseline[0] if len(baseline) == 1 else None


def exit_code(result: BenchmarkResult) -> int:
    """The process's status for one ending."""
    if result.status == "cancelled":
        return exit_codes.INTERRUPTED
    if result.status == "completed":
        return exit_codes.OK
    return exit_codes.UNAVAILABLE if result.error_kind == "ollama_unavailable" else exit_codes.FAILED
