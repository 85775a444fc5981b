"""Golden frames: every method and kind of answer, encoded from the message types. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw

from obt_agent.benchmark.plan import Plan
from obt_agent.hardware.inventory import Inventory
from obt_agent.hardware.samples import Sample
from obt_agent.ollama.payloads import InstalledModel, OllamaState, RunningModel
from obt_agent.protocol import admission, codec, commands, jobs, state, streams
from obt_agent.protocol.envelope import RequestId
from obt_agent.protocol.errors import CODE_OF_KIND, ErrorData, StreamEnd, WireError
from obt_agent.protocol.example import example
from obt_agent.protocol.methods import COMMANDS

Sender = Literal["agent", "server"]

AGENT_ID: Final = "01980000-0000-7000-8000-000000000001"
DIGEST: Final = "0" * 64
MODEL: Final = "llama3.2:1b"
OLLAMA: Final = OllamaState(reachable=True, version="0.12.0", since=1_750_000_000.0)
INSTALLED: Final = InstalledModel(name=MODEL, digest=DIGEST, size_bytes=1_321_098_329, family="llama")
RUNNING: Final = RunningModel(name=MODEL, digest=DIGEST, size_bytes=1_600_000_000, size_vram_bytes=0)
INVENTORY: Final = Inventory(fingerprint="f1", collected_at=1_750_000_000.0)
SAMPLE: Final = Sample(t_wall=1_750_000_000.0, t_mono_ns=5_000_000_000)
RESULT: Final = '{"status":"completed"}'
CHUNK: Final = Raw(b'{"model":"llama3.2:1b","response":"Hello","done":false}')
LAST: Final = Raw(b'{"model":"llama3.2:1b","response":"","done":true,"eval_count":1}')


@dataclass(frozen=True)
class Golden:
    """One frame. ``method`` is that of the request it belongs to; None for an error about no request."""

    sender: Sender
    what: Literal["request", "notification", "result", "error"]
    method: str | None
    frame: bytes


def _other(sender: Sender) -> Sender:
    return "server" if sender == "agent" else "agent"


class _FrameScript:
    """Frames of both sides, ids counted by side."""

    def __init__(self) -> None:
        self.frames: list[Golden] = []
        self._ids: dict[Sender, int] = {"agent": 0, "server": 0}

    def request(
        self, sender: Sender, method: str, params: msgspec.Struct | Raw, result: Any = None
    ) -> RequestId:
        """A request, and its result when one is given."""
        self._ids[sender] += 1
        number = self._ids[sender]
        frame = codec.encode_request(number, method, params)
        self.frames.append(Golden(sender, "request", method, frame))
        if result is not None:
            self.result(sender, method, number, result)
        return number

    def result(self, asker: Sender, method: str, number: RequestId, result: Any) -> None:
        """A result."""
        self.frames.append(Golden(_other(asker), "result", method, codec.encode_result(number, result)))

    def notify(self, sender: Sender, method: str, params: msgspec.Struct | None = None) -> None:
        """A notification."""
        frame = codec.encode_notification(method, params if params is not None else admission.Empty())
        self.frames.append(Golden(sender, "notification", method, frame))

    def error(
        self, asker: Sender, method: str | None, number: RequestId | None, kind: str, text: str, **data: Any
    ) -> None:
        """An error."""
        error = WireError(code=CODE_OF_KIND[kind], message=text, data=ErrorData(kind=kind, **data))
        frame = codec.encode_error(number, error)
        self.frames.append(Golden(_other(asker), "error", method, frame))


def conversations() -> dict[str, list[Golden]]:
    """By the name of the file in ``docs/golden``."""
    made = {
        "opening": _opening,
        "life": _lifetime,
        "reading": _reading,
        "stream": _stream,
        "pieces": _pieces,
        "job": _job,
        "changes": _changes,
        "errors": _errors,
    }
    found = {}
    for name, fill in made.items():
        conversation = _FrameScript()
        fill(conversation)
        found[name] = conversation.frames
    found["other"] = _other_commands({frame.method for frames in found.values() for frame in frames})
    return {name: frames for name, frames in found.items() if frames}


def _other_commands(shown: AbstractSet[str | None]) -> list[Golden]:
    """Smallest frames of the commands that no conversation shows."""
    script = _FrameScript()
    for method in COMMANDS:
        if method.name not in shown:
            params = Raw(msgspec.json.encode(example(method.params)))
            result = {} if method.result is dict else example(method.result)
            script.request("server", method.name, params, result)
    return script.frames


def as_lines(frames: list[Golden]) -> str:
    """A line a frame: ``{"from", "what", "method", "frame"}``, the frame as it is sent."""
    lines = [
        msgspec.json.encode(
            {"from": one.sender, "what": one.what, "method": one.method, "frame": Raw(one.frame)}
        )
        for one in frames
    ]
    return b"\n".join([*lines, b""]).decode()


def _opening(script: _FrameScript) -> None:
    hello = admission.HelloParams(
        protocol=admission.VersionRange(min=1, max=1),
        agent=admission.AgentIdentity(id=AGENT_ID, name="box", version="0.1.0", instance="9f2c"),
        store_id="store-1",
        capabilities=("list_models", "generate", "run_benchmark"),
    )
    answer = admission.HelloResult(
        protocol=1,
        session=7,
        heartbeat_interval_s=15.0,
        server=admission.ServerIdentity(name="obt-server", version="0.1.0"),
        time=1_750_000_000.0,
    )
    script.request("agent", "agent.hello", hello, answer)
    models = state.ModelsSync(
        revision=1, ollama=OLLAMA, list_digest=DIGEST, models=(INSTALLED,), running=(RUNNING,)
    )
    script.request("agent", "models.sync", models, state.SyncResult(revision=1))
    script.request("agent", "hardware.sync", state.HardwareSync(revision=1, inventory=INVENTORY), Raw(b"{}"))
    summary = jobs.JobSummary(job_id="job-1", kind="benchmark", state="running", model=MODEL)
    listed = state.JobsSync(revision=1, store_id="store-1", jobs=(summary,))
    script.request("agent", "jobs.sync", listed, Raw(b"{}"))
    wanted = state.StateRequest(kinds=("models", "hardware", "jobs"))
    script.request("server", "state.request", wanted, admission.Empty())


def _lifetime(script: _FrameScript) -> None:
    script.notify("agent", "link.alive")
    script.notify("server", "link.alive")
    script.notify(
        "agent", "heartbeat", admission.HeartbeatParams(ollama=OLLAMA, loaded=(MODEL,), t_mono_us=5)
    )
    script.notify("server", "streams.alive", streams.StreamsAlive(ids=(1, "watch-2")))
    rotated = admission.RotateResult(rotation_id="r1", sha256=DIGEST)
    script.request("server", "credentials.rotate", admission.RotateParams(rotation_id="r1"), rotated)
    script.notify("server", "server.drain", admission.DrainParams(retry_after_s=5.0))
    script.notify("agent", "agent.goodbye", admission.GoodbyeParams(reason="shutdown"))


def _reading(script: _FrameScript) -> None:
    listed = commands.ListModelsResult(models=(INSTALLED,), list_digest=DIGEST, ollama=OLLAMA)
    script.request("server", "list_models", commands.ListModelsParams(), listed)
    shown = {"details": {"family": "llama"}, "capabilities": ["completion"]}
    script.request("server", "show_model", commands.ShowModelParams(model=MODEL), shown)
    running = commands.RunningModelsResult(models=(RUNNING,))
    script.request("server", "running_models", admission.Empty(), running)
    machine = commands.HardwareResult(inventory=INVENTORY, sample=SAMPLE)
    script.request("server", "hardware", commands.HardwareParams(), machine)
    loaded = commands.LoadResult(model=MODEL, loaded=True, wall_ms=812.5, running=(RUNNING,))
    script.request("server", "load_model", commands.LoadModelParams(model=MODEL, keep_alive="10m"), loaded)
    unloaded = commands.LoadResult(model=MODEL, loaded=False, wall_ms=20.5)
    script.request("server", "unload_model", commands.UnloadModelParams(model=MODEL), unloaded)
    info = commands.AgentInfoResult(
        version="0.1.0",
        python="3.12.0",
        uptime_s=60.0,
        started_at=1_750_000_000.0,
        agent_id=AGENT_ID,
        name="box",
        config=Raw(b"{}"),
        policy=Raw(b"{}"),
        link=commands.LinkStatistics(session=7),
        process=commands.ProcessUse(cpu_s=0.5, rss_bytes=45_000_000, threads=3),
    )
    script.request("server", "agent_info", admission.Empty(), info)


def _stream(script: _FrameScript) -> None:
    for method, body in (
        ("generate", b'{"model":"llama3.2:1b","prompt":"Say hello."}'),
        ("chat", b'{"model":"llama3.2:1b","messages":[{"role":"user","content":"Say hello."}]}'),
    ):
        number = script.request("server", method, Raw(body))
        item = Raw(msgspec.json.encode(streams.Item(t_us=81_250, chunk=CHUNK)))
        script.notify("agent", "stream.data", streams.StreamData(id=number, seq=0, items=(item,)))
        script.notify("server", "stream.credit", streams.StreamCredit(id=number, bytes=16_384))
        final = streams.StreamFinal(final=LAST, t_us=90_000, stream=StreamEnd(next_seq=1))
        script.result("server", method, number, final)
    script.notify("server", "link.credit", streams.LinkCredit(bytes=65_536))
    watch = script.request("server", "hardware_watch", commands.HardwareWatchParams(interval_ms=1000))
    sample = streams.SeriesItem(t_us=1_000_000, n=1, sample=Raw(msgspec.json.encode(SAMPLE)))
    items = (Raw(msgspec.json.encode(sample)),)
    script.notify("agent", "stream.data", streams.StreamData(id=watch, seq=0, items=items))
    cancelled = commands.CancelResult(state="cancelling")
    script.request("server", "cancel", Raw(msgspec.json.encode({"id": watch})), cancelled)
    ended = streams.SeriesFinal(interval_ms=1000, stream=StreamEnd(next_seq=1))
    script.result("server", "hardware_watch", watch, ended)


def _pieces(script: _FrameScript) -> None:
    """A result in pieces; a real one is longer than 24 KiB."""
    image = streams.BlobPut(blob="image-1", offset=0, data="iVBORw0KGgo=", last=True)
    script.request("server", "blob.put", image, streams.BlobPutResult(blob="image-1", bytes=8))
    number = script.request("server", "embed", Raw(b'{"model":"llama3.2:1b","input":["a","b"]}'))
    text = '{"model":"llama3.2:1b","embeddings":[[0.25,0.5],[0.5,0.25]]}'
    for seq, (piece, more) in enumerate(((text[:30], True), (text[30:], False))):
        data = streams.StreamData(id=number, seq=seq, part=piece, more=more)
        script.notify("agent", "stream.data", data)
    script.result("server", "embed", number, streams.LargeFinal(**_sizes(text), stream=StreamEnd(next_seq=2)))


def _sizes(text: str) -> dict[str, Any]:
    return {"bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _job(script: _FrameScript) -> None:
    start = commands.RunBenchmarkParams(
        job_id="job-1", plan=Plan(model_name=MODEL), not_after=1_750_003_600.0
    )
    script.request(
        "server", "run_benchmark", start, jobs.JobStarted(job_id="job-1", state="queued", position=0)
    )
    progress = jobs.JobProgress(phase="iteration", iteration=1, iterations_planned=5)
    told = jobs.JobProgressParams(job_id="job-1", state="running", progress=progress)
    script.notify("agent", "job.progress", told)
    summary = jobs.JobSummary(job_id="job-1", kind="benchmark", state="running", progress=progress)
    status = commands.BenchmarkStatusResult(job=summary)
    script.request("server", "benchmark_status", commands.BenchmarkStatusParams(job_id="job-1"), status)
    series = streams.SeriesFinal(stream=StreamEnd(next_seq=0))
    metrics = commands.BenchmarkMetricsParams(job_id="job-1", after=0)
    script.request("server", "benchmark_metrics", metrics, series)
    for offset, piece in ((0, RESULT[:10]), (10, RESULT[10:])):
        part = jobs.JobPartParams(job_id="job-1", offset=offset, data=piece)
        taken = jobs.JobPartResult(job_id="job-1", next_offset=offset + len(piece))
        script.request("agent", "job.part", part, taken)
    final = jobs.JobFinishedParams(job_id="job-1", kind="benchmark", state="completed", **_sizes(RESULT))
    script.request(
        "agent", "job.finished", final, jobs.JobFinishedResult(job_id="job-1", sha256=final.sha256)
    )
    script.request("agent", "job.finished", final, jobs.JobFinishedResult(job_id="job-1", resend_from=0))
    inline = msgspec.structs.replace(final, job_id="job-2", result=RESULT)
    script.request("agent", "job.finished", inline, jobs.JobFinishedResult(job_id="job-2", conflict=True))


def _changes(script: _FrameScript) -> None:
    pulled = jobs.JobStarted(job_id="pull-1", state="queued")
    script.request("server", "pull_model", commands.PullModelParams(job_id="pull-1", model=MODEL), pulled)
    create = commands.CreateModelParams(
        job_id="create-1", model="mine:latest", from_=MODEL, system="Be brief."
    )
    script.request("server", "create_model", create, jobs.JobStarted(job_id="create-1", state="queued"))
    copy = commands.CopyModelParams(source=MODEL, destination="mine:latest")
    script.request("server", "copy_model", copy, commands.DoneResult())
    script.request(
        "server", "delete_model", commands.DeleteModelParams(model="mine:latest"), commands.DoneResult()
    )


def _errors(script: _FrameScript) -> None:
    script.error("server", None, None, "parse_error", "The frame is not JSON.")
    wrong = script.request("server", "run_benchmark", Raw(b'{"job_id":"job-3","plan":{"num_ctx":"many"}}'))
    text = "params.plan.num_ctx: Expected `int | null`, got `str`."
    script.error("server", "run_benchmark", wrong, "invalid_params", text)
    denied = script.request("server", "delete_model", commands.DeleteModelParams(model=MODEL))
    text = "The host's owner does not allow delete_model (policy.allow_changes)."
    detail = {"policy_key": "policy.allow_changes"}
    script.error("server", "delete_model", denied, "not_permitted", text, detail=detail)
    busy = script.request("server", "list_models", commands.ListModelsParams())
    text = "64 requests are in flight on this session; wait for one to end."
    script.error("server", "list_models", busy, "busy", text, retryable=True, retry_after_ms=1000)
    broken = script.request("server", "generate", Raw(b'{"model":"llama3.2:1b","prompt":"x"}'))
    text = "Ollama ended the stream without its last line."
    script.error("server", "generate", broken, "stream_incomplete", text, stream=StreamEnd(next_seq=3))
