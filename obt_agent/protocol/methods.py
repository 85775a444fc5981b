"""The table of methods: who sends them, with what parameters, and what they answer.

``docs/``, the JSON Schemas, the conformance kit and both dispatchers are made from this one table.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from obt_agent.protocol import admission, commands, jobs, state, streams

Sender = Literal["agent", "server"]
Shape = Literal["request", "notification", "stream", "series"]


class Method(msgspec.Struct, frozen=True):
    """One method.

    ``shape``: ``request`` is answered at once or after work; ``stream`` sends Ollama's chunks before its
    final; ``series`` sends live samples until cancelled. ``opaque`` parameters travel to Ollama as they came.
    ``changes`` marks commands that alter what is installed: off unless the host's owner allows them; ``job``
    those that start a job, with its kind.
    ``exempt`` ones are never refused as busy and have no deadline of the policy: one frees what others hold,
    the other is bounded by its bytes.
    """

    name: str
    sender: Sender
    shape: Shape
    params: Any
    result: Any = None
    opaque: bool = False
    changes: bool = False
    job: jobs.JobKind | None = None
    exempt: bool = False
    summary: str = ""


def _command(
    name: str, params: type, result: Any, summary: str, *, shape: Shape = "request", **more: Any
) -> Method:
    return Method(name, "server", shape, params, result, summary=summary, **more)


COMMANDS: Final[tuple[Method, ...]] = (
    _command("list_models", commands.ListModelsParams, commands.ListModelsResult, "Installed models."),
    _command("show_model", commands.ShowModelParams, dict, "Full metadata of one model."),
    _command("running_models", admission.Empty, commands.RunningModelsResult, "Loaded models."),
    _command("hardware", commands.HardwareParams, commands.HardwareResult, "Inventory and a fresh sample."),
    _command(
        "hardware_watch", commands.HardwareWatchParams, streams.SeriesFinal, "Live samples.", shape="series"
    ),
    _command(
        "generate",
        commands.InferenceParams,
        streams.StreamFinal,
        "Text from a prompt.",
        shape="stream",
        opaque=True,
    ),
    _command(
        "chat", commands.InferenceParams, streams.StreamFinal, "A chat turn.", shape="stream", opaque=True
    ),
    _command("embed", commands.InferenceParams, dict, "Embeddings.", opaque=True),
    _command("load_model", commands.LoadModelParams, commands.LoadResult, "Load a model into memory."),
    _command("unload_model", commands.UnloadModelParams, commands.LoadResult, "Unload a model."),
    _command(
        "run_benchmark",
        commands.RunBenchmarkParams,
        jobs.JobStarted,
        "Start a benchmark job.",
        job="benchmark",
    ),
    _command(
        "benchmark_status",
        commands.BenchmarkStatusParams,
        commands.BenchmarkStatusResult,
        "A job's state and results so far.",
    ),
    _command(
        "benchmark_metrics",
        commands.BenchmarkMetricsParams,
        streams.SeriesFinal,
        "Live series of a running benchmark.",
        shape="series",
    ),
    _command(
        "pull_model", commands.PullModelParams, jobs.JobStarted, "Pull a model.", changes=True, job="pull"
    ),
    _command(
        "create_model",
        commands.CreateModelParams,
        jobs.JobStarted,
        "Create a model.",
        changes=True,
        job="create",
    ),
    _command("copy_model", commands.CopyModelParams, commands.DoneResult, "Copy a model.", changes=True),
    _command(
        "delete_model", commands.DeleteModelParams, commands.DeleteResult, "Delete a model.", changes=True
    ),
    _command(
        "cancel", commands.CancelParams, commands.CancelResult, "Cancel a request or a job.", exempt=True
    ),
    _command("agent_info", admission.Empty, commands.AgentInfoResult, "The agent itself."),
)
"""Commands of the dispatcher, in the order of the document."""


def _method(name: str, sender: Sender, params: type, result: Any, summary: str, **more: Any) -> Method:
    shape: Shape = "notification" if result is None else "request"
    return Method(name, sender, shape, params, result, summary=summary, **more)


LINK_METHODS: Final[tuple[Method, ...]] = (
    _method(
        "agent.hello", "agent", admission.HelloParams, admission.HelloResult, "First frame; admits the agent."
    ),
    _method("models.sync", "agent", state.ModelsSync, state.SyncResult, "The models, in full."),
    _method("hardware.sync", "agent", state.HardwareSync, state.SyncResult, "The inventory, in full."),
    _method("jobs.sync", "agent", state.JobsSync, state.SyncResult, "Open and unacknowledged jobs."),
    _method("job.part", "agent", jobs.JobPartParams, jobs.JobPartResult, "A piece of a job's result."),
    _method("job.finished", "agent", jobs.JobFinishedParams, jobs.JobFinishedResult, "A job's final."),
    _method("job.progress", "agent", jobs.JobProgressParams, None, "How far a job is."),
    _method("heartbeat", "agent", admission.HeartbeatParams, None, "Status of the machine."),
    _method("stream.data", "agent", streams.StreamData, None, "Items of a stream."),
    _method("agent.goodbye", "agent", admission.GoodbyeParams, None, "The agent is about to close."),
    _method("link.alive", "agent", admission.Empty, None, "Nothing else to say for 5 s (both sides)."),
    _method("stream.credit", "server", streams.StreamCredit, None, "More bytes for one stream."),
    _method("link.credit", "server", streams.LinkCredit, None, "More bytes for the link."),
    _method("streams.alive", "server", streams.StreamsAlive, None, "Streams that are still read."),
    _method("state.request", "server", state.StateRequest, admission.Empty, "Send states again."),
    _method(
        "blob.put", "server", streams.BlobPut, streams.BlobPutResult, "A piece of a large image.", exempt=True
    ),
    _method(
        "credentials.rotate",
        "server",
        admission.RotateParams,
        admission.RotateResult,
        "Make and keep a candidate credential.",
    ),
    _method("server.drain", "server", admission.DrainParams, None, "The server is about to close."),
)
"""Methods of the link itself."""

METHODS: Final[dict[str, Method]] = {method.name: method for method in COMMANDS + LINK_METHODS}
